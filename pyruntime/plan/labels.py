"""Labels of the security modules: the process's own, given to its execve; and the mounts', given to their file systems.

A label is written to attr/exec of the thread that will call execve, through a procfs that is verified to be one (S21):
our own where a new one may be made, else the container's /proc. After it nothing but execve may follow that a hook of
the image could use, so it comes right before the last steps. Sources: contract 4.9, apparmor(7), selinux(8),
security/apparmor/procattr.c, setexeccon(3).
"""

from __future__ import annotations

from errno import ENOENT, EPERM

from pyruntime.errors import SpecError
from pyruntime.plan.step import Step, either, init_step, instead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import HostFacts
    from pyruntime.spec.config import Process, Spec

MOUNT_CONTEXT_TYPE = "run.oci.mount_context_type"  # contract 5
CONTEXTS = ("context", "fscontext", "defcontext", "rootcontext")
UNLABELLED = frozenset(("proc", "sysfs", "mqueue", "cgroup", "cgroup2", "bpf"))  # whose labels are the policy's affair


def check_labels(process: Process, host: HostFacts) -> None:
    """Raise SpecError for a label whose security module this kernel does not run: no confinement is dropped (S5)."""
    if process.selinux_label and not host.selinux:
        raise SpecError("selinux label is specified in config, but selinux is disabled or not supported",
                        field="/process/selinuxLabel", value=process.selinux_label, hint="drop the label")  # fmt: skip
    if process.selinux_label in host.selinux_unknown:
        raise unknown_label("/process/selinuxLabel", process.selinux_label)
    if process.apparmor_profile not in ("", "unconfined") and not host.apparmor:
        raise SpecError("apparmor profile is specified in config, but apparmor is disabled or not supported",
                        field="/process/apparmorProfile", value=process.apparmor_profile,
                        hint="this kernel runs without AppArmor: remove the profile from the config")  # fmt: skip


def unknown_label(field: str, label: str) -> SpecError:
    """The error for a label that the loaded policy does not have."""
    return SpecError(f"selinux label {label!r} is not valid in the loaded policy", field=field, value=label,
                     hint="a label is USER:ROLE:TYPE:LEVEL; `seinfo` lists what the policy knows of each")


def label_steps(process: Process, host: HostFacts) -> list[Step]:
    """The writes that give execve its labels; none where no module runs."""
    steps: list[Step] = []
    if process.selinux_label and host.selinux:
        label = process.selinux_label.encode("utf-8", "surrogateescape")
        steps.append(init_step("write_proc", ("thread-self/attr/exec", label), "/process/selinuxLabel"))
    if process.apparmor_profile and host.apparmor:
        order = b"exec " + process.apparmor_profile.encode("utf-8", "surrogateescape")
        origin = "/process/apparmorProfile"
        # Of AppArmor alone since Linux 5.8; before, the file that all modules share.
        shared = instead(ENOENT, "write_proc", ("thread-self/attr/exec", order), origin)
        steps.append(either("write_proc", ("thread-self/attr/apparmor/exec", order), origin, shared))
    if not steps:
        return []
    verified = instead(EPERM, "open_proc", (0,), steps[0].origin)
    return [either("open_proc", (1,), steps[0].origin, verified), *steps,
            init_step("close_slot", (1,), steps[-1].origin)]  # fmt: skip


def keyring_label_steps(process: Process, host: HostFacts) -> list[Step]:
    """The label of the session keyring, right before it is made; execve clears it (security/selinux/hooks.c)."""
    if not (process.selinux_label and host.selinux):
        return []
    origin = "/process/selinuxLabel"
    verified = instead(EPERM, "open_proc", (0,), origin)
    label = process.selinux_label.encode("utf-8", "surrogateescape")
    return [either("open_proc", (1,), origin, verified),
            init_step("write_proc", ("thread-self/attr/keycreate", label), origin),
            init_step("close_slot", (1,), origin)]  # fmt: skip


def label_option(spec: Spec, host: HostFacts) -> str:
    """`context=LABEL` for the file systems of a container, or what the annotation says in place of `context` (mount(8)).

    "" without a label, and where SELinux does not run. Raises SpecError for another word, or a label of no policy.
    """
    kind = dict(spec.annotations).get(MOUNT_CONTEXT_TYPE, "context")
    if kind not in CONTEXTS:
        raise SpecError(f"invalid mount context type {kind!r}", field=f"/annotations/{MOUNT_CONTEXT_TYPE}", value=kind,
                        hint=f"mount(8) knows {', '.join(CONTEXTS)}")  # fmt: skip
    if spec.linux.mount_label in host.selinux_unknown:
        raise unknown_label("/linux/mountLabel", spec.linux.mount_label)
    return f"{kind}={spec.linux.mount_label}" if spec.linux.mount_label and host.selinux else ""


def mount_context(option: str, kind: str) -> tuple[str, ...]:
    """The option of `label_option` for a new file system of this type; () where it takes none."""
    return (option,) if option and kind not in UNLABELLED else ()


def quoted(option: str) -> str:
    """The option as mount(2) takes it among others: a label with categories holds commas."""
    name, _, label = option.partition("=")
    return f'{name}="{label}"' if name in CONTEXTS and "," in label and not label.startswith('"') else option
