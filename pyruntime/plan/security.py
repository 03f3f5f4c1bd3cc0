"""Compile sysctl, masked and read-only paths and the seccomp step. Pure."""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.kernel import ENOENT, ENOTDIR
from pyruntime.plan.step import Deferred, HostStep, Step, init_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.plan.step import Slots
    from pyruntime.spec.config import Spec
    from pyruntime.spec.linux import Seccomp


def sysctl_steps(spec: Spec) -> list[Step]:
    """One write below /proc/sys for each key, in config order."""
    if not spec.linux.sysctl:
        return []
    from pyruntime.spec.document import escape
    from pyruntime.spec.rules import sysctl_path

    return [
        init_step("write_proc", (f"sys/{sysctl_path(key)}", value.encode("utf-8", "surrogateescape")),
                  f"/linux/sysctl/{escape(key)}")
        for key, value in spec.linux.sysctl
    ]  # fmt: skip


def refuse_host_net(spec: Spec, bundle: BundleFacts, host: HostFacts) -> None:
    """Raises SpecError for `net.*` when the network namespace joined by path is the caller's own (S34, contract 4.9)."""
    joined = any(entry.type == "network" and entry.inode == host.host_net_ns for entry in bundle.namespace_paths)
    for key, value in spec.linux.sysctl if joined else ():
        if key.replace("/", ".").startswith("net."):
            from pyruntime.spec.document import escape

            raise SpecError(f'sysctl "{key}" is not in a separate kernel namespace', field=f"/linux/sysctl/{escape(key)}",
                            value=value, hint="the network namespace that the config joins is the host's")  # fmt: skip


def readonly_steps(spec: Spec) -> list[Step]:
    """Read-only paths; a missing one is skipped (contract 4.9)."""
    return _each_once("readonly", spec.linux.readonly_paths, "/linux/readonlyPaths")


def mask_steps(spec: Spec) -> list[Step]:
    """Masked paths; a missing one is skipped, a second of the same name too (S17)."""
    return _each_once("mask", spec.linux.masked_paths, "/linux/maskedPaths")


def _each_once(op: str, paths: tuple[str, ...], field: str) -> list[Step]:
    seen: set[str] = set()
    steps = []
    for index, path in enumerate(paths):
        if path not in seen:
            seen.add(path)
            steps.append(init_step(op, (path,), f"{field}/{index}", (ENOENT, ENOTDIR)))
    return steps


def seccomp_steps(seccomp: Seccomp | None, host: HostFacts, slots: Slots) -> list[Step | HostStep]:
    """Load the filter, whose BPF lifecycle makes from the rules; no default action and no rules means none.

    A filter that notifies makes a listener; the host fetches it and sends it on before init makes another call that
    the filter may hold up.
    """
    if seccomp is None or not (seccomp.default_action or seccomp.syscalls):
        return []
    from pyruntime.plan.seccomp import load_flags, uses_notify

    flags = load_flags(seccomp, host)
    if not uses_notify(seccomp):
        return [init_step("seccomp", (Deferred("seccomp"), flags, -1), "/linux/seccomp")]
    return [
        init_step("seccomp", (Deferred("seccomp"), flags, slots.take()), "/linux/seccomp"),
        HostStep("send_listener", (seccomp.listener_path, seccomp.listener_metadata), "/linux/seccomp/listenerPath"),
        HostStep("release", ("listener",)),
    ]
