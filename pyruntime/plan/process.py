"""Compile `process` (runtime-spec config.md, Process): environment, ids, capabilities, limits, program. Pure.

`Finish` has the last steps of a process, whose order is written here once for containers and for execs; everything
before them is order.py's. (An exec needs neither mounts nor devices, and so does not import order.py.)
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.kernel import CAP_SYS_RESOURCE, CAPABILITIES, EACCES, ENOSYS, EPERM, RLIMITS
from pyruntime.plan.opcodes import OP_FLAGS
from pyruntime.plan.step import HostStep, Step, init_step
from pyruntime.spec.annotations import HOOK_STDERR, HOOK_STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.host.facts import HostFacts
    from pyruntime.plan.step import Slots
    from pyruntime.spec.config import Capabilities, Hook, Process, Spec
    from pyruntime.spec.linux import IDMapping, Linux

    Maps = tuple[tuple[int, int, int], ...]  # (container id, host id, size)

NEW_ONLY = OP_FLAGS["NEW_ONLY"]
MOUNT_CONSOLE = OP_FLAGS["MOUNT_CONSOLE"]
DEFAULT_UMASK = 0o022
ALL_CAPABILITIES = (1 << 64) - 1
KEEP_GROUPS = ("run.oci.keep_original_groups", "1")  # contract 5: setgroups is left out

CAP_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}
RLIMIT_NUMBERS = {f"RLIMIT_{name}": number for number, name in enumerate(RLIMITS)}


class CapabilityMasks:
    """The five sets as bit masks; `given` False when the config has no capabilities object (the full set is kept)."""

    def __init__(self, capabilities: Capabilities | None, *, available: int, last_cap: int) -> None:
        self.given = capabilities is not None
        self.available = available
        self.last_cap = last_cap
        self.unknown: list[str] = []
        self.bounding = self.effective = self.permitted = self.inheritable = self.ambient = 0
        if capabilities is not None:
            self.bounding = self._mask(capabilities.bounding)
            self.effective = self._mask(capabilities.effective)
            self.permitted = self._mask(capabilities.permitted)
            self.inheritable = self._mask(capabilities.inheritable)
            self.ambient = self._mask(capabilities.ambient)

    def _mask(self, names: tuple[str, ...]) -> int:
        mask = 0
        for name in names:
            number = CAP_NUMBERS.get(name, 64)
            if number <= self.last_cap and self.available >> number & 1:
                mask |= 1 << number
            elif name not in self.unknown:
                self.unknown.append(name)
        return mask

    def warnings(self, field: str) -> list[tuple[str, str]]:
        """The peers' warning for names that this kernel or this caller does not have (contract 4.2)."""
        if not self.unknown:
            return []
        return [(field, f"ignoring unknown or unavailable capabilities: [{' '.join(sorted(self.unknown))}]")]


def process_env(process: Process, *, listen_fds: int, notify: bool) -> tuple[str, ...]:
    """The environment of the program: the config's, then what the runtime passes on (contract 1.10).

    An empty HOME counts as absent, so that the step `home` can add one (contract 3.4).
    """
    env = process.env
    last = {entry.partition("=")[0]: index for index, entry in enumerate(env)}
    if len(last) != len(env):  # of duplicates the last, where it stands (contract 3.4)
        env = tuple(entry for index, entry in enumerate(env) if last[entry.partition("=")[0]] == index)
    if "HOME=" in env:
        env = tuple(entry for entry in env if entry != "HOME=")
    if listen_fds:
        env += (f"LISTEN_FDS={listen_fds}", "LISTEN_PID=1")
    if notify:
        env += ("NOTIFY_SOCKET=/run/notify/notify.sock",)
    return env


class Finish:
    """The last steps of a process. `slots` gives the console and the kept descriptors theirs.

    `available`: capabilities that can be had; `set_groups`: setgroups(2) is to be called; `nested`: an outer user
    namespace may refuse it.
    """

    def __init__(self, process: Process, slots: Slots, *, umask: int | None, linux: Linux, available: int,
                 last_cap: int, set_groups: bool, nested: bool, console: bool, listen_fds: int, preserve_fds: int,
                 limits_from_outside: bool = True, notify: bool = False, labels: Sequence[Step] = ()) -> None:  # fmt: skip
        self.process, self.linux = process, linux
        self.umask = DEFAULT_UMASK if umask is None else umask
        self.masks = CapabilityMasks(process.capabilities, available=available, last_cap=last_cap)
        self.warnings = self.masks.warnings("/process/capabilities")
        self.set_groups, self.nested = set_groups, nested
        self.outside_limits = rlimit_steps(process) if limits_from_outside else []
        self.own_limits = [] if limits_from_outside else own_rlimit_steps(process)
        self.labels = labels
        self.fd_base = 3 + listen_fds + preserve_fds
        self.kept = [(number, slots.take()) for number in range(3, self.fd_base)]
        self.console_slot = slots.take() if console else -1
        self.env = process_env(process, listen_fds=listen_fds, notify=notify)

    def host_steps(self) -> list[HostStep]:
        """What the caller has to hand over."""
        steps = [HostStep("keep_fd", pair) for pair in self.kept]
        if self.console_slot >= 0:
            steps.append(HostStep("connect", ("console", self.console_slot), "/process/terminal"))
        return steps

    def console_steps(self, *, mount_console: bool) -> list[Step]:
        """The pty of the container's own devpts as stdio and controlling terminal; none without a terminal."""
        if self.console_slot < 0:
            return []
        size = self.process.console_size
        height, width = (size.height, size.width) if size is not None else (0, 0)
        flags = MOUNT_CONSOLE if mount_console else 0
        return [init_step("console", (self.console_slot, height, width, flags), "/process/terminal")]

    def steps(self, seccomp: list[Step | HostStep]) -> list[Step | HostStep]:
        """From inside the new root to right before `ready`."""
        process = self.process
        steps: list[Step | HostStep] = [init_step("reopen_null", ())]
        if self.console_slot < 0:  # the console has made its session already
            steps.append(init_step("setsid", ()))
        # After everything that makes files with exact modes.
        configured = process.user.umask is not None
        steps.append(init_step("umask", (self.umask,), "/process/user/umask" if configured else ""))
        if process.scheduler or process.io_priority or self.linux.personality or self.linux.memory_policy:
            from pyruntime.plan.attributes import attribute_steps

            steps += attribute_steps(process, self.linux)
        # As root: the user may not be allowed to read the container's /etc/passwd.
        if not any(entry.startswith("HOME=") for entry in self.env):
            steps.append(init_step("home", (process.user.uid, self.env), "/process/env" if process.env else ""))
        # Before any filter, which need not know dup3 and close_range; what is opened later is close-on-exec.
        steps += [init_step("place_fd", (slot, number)) for number, slot in self.kept]
        steps.append(init_step("close_from", (self.fd_base,)))
        # Limits that the host may not set on a process of another uid: init lowers its own. Nothing below opens files.
        steps += self.own_limits
        steps += self.labels
        # As root, who may be refused where root is squashed: then the user tries again. Before any filter, which need
        # not know getcwd: by that the directory is seen to be inside of the root (S14).
        steps.append(init_step("chdir", (process.cwd, 0), "/process/cwd", (EACCES,)))
        # Loading a filter takes CAP_SYS_ADMIN or no_new_privs: without the latter it comes before the capabilities
        # go, with it as late as possible, so that the steps between need not be allowed by it (contract 4.9, S31).
        if process.no_new_privileges:
            steps.append(init_step("no_new_privs", (), "/process/noNewPrivileges"))
        else:
            steps += seccomp
        steps += self._credentials()
        # As the user: what it may not execute is not found. Before `ready`, so that create fails (contract 1.5).
        steps.append(init_step("find_program", (process.args[0], self.env), "/process/args/0"))
        if process.no_new_privileges:
            steps += seccomp
        return steps

    def _credentials(self) -> list[Step]:
        """From root with everything to the process's user with exactly its capabilities (S26).

        The bounding set goes first, while CAP_SETPCAP is there. Groups go before the uid that could no longer change
        them (S28); keepcaps carries the permitted set over setuid. The chdir runs only if root's was refused.
        """
        user, masks, origin = self.process.user, self.masks, "/process/capabilities"
        steps: list[Step] = []
        if masks.given:
            steps.append(init_step("bounding", (masks.bounding, masks.last_cap), origin))
        if masks.given and user.uid:
            steps.append(init_step("keepcaps", (1,), origin))
        steps.append(init_step("chown_stdio", (user.uid,), "/process/user/uid"))
        if self.set_groups:
            groups = b"".join(gid.to_bytes(4, "little") for gid in user.additional_gids)
            tolerate = (EPERM,) if self.nested and not groups else ()
            listed = "/process/user/additionalGids" if groups else "/process/user"
            steps.append(init_step("setgroups", (groups,), listed, tolerate))
        steps.append(init_step("setgid", (user.gid,), "/process/user/gid"))
        steps.append(init_step("setuid", (user.uid,), "/process/user/uid"))
        steps.append(init_step("chdir", (self.process.cwd, NEW_ONLY), "/process/cwd"))
        if masks.given:
            steps.append(init_step("capset", (masks.effective, masks.permitted, masks.inheritable), origin))
            if masks.ambient or masks.inheritable:  # without inheritable ones the kernel clears the ambient set
                steps.append(init_step("ambient", (masks.ambient,), origin))
        return steps


def affinity_step(host: HostFacts) -> Step:
    """All possible CPUs; the mask in longs, as sched_setaffinity(2) takes it."""
    mask = ((1 << host.cpu_count) - 1).to_bytes((host.cpu_count + 63) // 64 * 8, "little")
    return init_step("affinity", (mask,))


def keyring_step(container_id: str, token: str, *, user_ns: bool) -> Step:
    """A session keyring of the container's own, searchable by others in a user namespace, else by the uid.

    Contract 3.5. KEY_OTH_SEARCH is 0x08, KEY_USR_SEARCH 0x080000 (linux/keyctl.h); no keyrings in a kernel is ENOSYS.
    """
    name = f"_ses.{container_id}.{token}" if token else f"_ses.{container_id}"
    return init_step("keyring", (name, 0xFFFFFFFF, 0x08 if user_ns else 0x080000), "", (ENOSYS,))


def own_rlimit_steps(process: Process) -> list[Step]:
    """The limits as steps of init: on another uid's process prlimit(2) takes CAP_SYS_RESOURCE, on one's own nothing."""
    return [
        init_step("rlimit", (RLIMIT_NUMBERS[limit.type], _signed(limit.soft), _signed(limit.hard)),
                  f"/process/rlimits/{index}")
        for index, limit in enumerate(process.rlimits)
    ]  # fmt: skip


def _signed(value: int) -> int:
    """A number of 64 bits as the plan's arguments hold it."""
    return value - (1 << 64) if value >> 63 else value


def may_limit_others(host: HostFacts) -> bool:
    """Whether the host side may set limits on init at `ready` (prlimit(2))."""
    return bool(host.capabilities >> CAP_SYS_RESOURCE & 1)


def rlimit_steps(process: Process) -> list[HostStep]:
    """Limits, set from outside at `ready`, so that a small one cannot hinder init's own steps (contract 4.2)."""
    return [
        HostStep("rlimit", (RLIMIT_NUMBERS[limit.type], limit.soft, limit.hard), f"/process/rlimits/{index}")
        for index, limit in enumerate(process.rlimits)
    ]


def hook_step(hook: Hook, origin: str, env: tuple[str, ...], state: tuple[str, str], cwd: str) -> Step:
    """A hook that init runs; `env` is what it gets when the config has none, `state` the JSON around the pid."""
    timeout_ms = (hook.timeout_s or 0) * 1000
    own = env if hook.env is None else hook.env
    return init_step("hook", (hook.path, hook.args or (hook.path,), own, timeout_ms, state, cwd), origin)


def output_steps(spec: Spec, slots: Slots) -> tuple[list[HostStep], list[Step]]:
    """The files that annotations name for the output of hooks: opened by the host, then used by every later hook."""
    named = dict(spec.annotations)
    found = [(name, named[name]) for name in (HOOK_STDOUT, HOOK_STDERR) if named.get(name)]
    if not found:
        return [], []
    where = {name: slots.take() for name, _ in found}
    opens = [HostStep("open_output", (path, where[name]), f"/annotations/{name}") for name, path in found]
    return opens, [init_step("hook_output", (where.get(HOOK_STDOUT, -1), where.get(HOOK_STDERR, -1)), opens[0].origin)]


def triples(maps: tuple[IDMapping, ...]) -> Maps:
    """Id maps as plain numbers."""
    return tuple((entry.container_id, entry.host_id, entry.size) for entry in maps)


def check_mapped(process: Process, uids: Maps, gids: Maps) -> None:
    """Refuse ids that the container's user namespace lacks (contract 1.7, unmapped id). Raises SpecError."""
    hint = "map it in linux.uidMappings, or use an id that is mapped"
    for kind, value, maps in (("uid", process.user.uid, uids), ("gid", process.user.gid, gids)):
        if maps and not any(inside <= value < inside + size for inside, _, size in maps):
            raise SpecError(
                f"cannot set{kind} to unmapped {kind} {value} in user namespace",
                field=f"/process/user/{kind}", value=str(value), hint=hint.replace("uid", kind),
            )  # fmt: skip
