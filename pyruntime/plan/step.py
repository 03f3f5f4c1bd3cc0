"""Step, Plan and Options: the data that planning makes and lifecycle carries out."""

from __future__ import annotations

from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    Rows = tuple[tuple[int, int, int], ...] | tuple[tuple[str, str, Any], ...]  # id maps; properties of a unit
    Arg = Union[int, str, bytes, tuple[str, ...], Rows, "Deferred"]  # noqa: UP007 - forward


class Deferred(Record):
    """A blob that lifecycle makes from rules just before encoding (the BPF of seccomp); `kind` says which."""

    kind: str


class Step(Record):
    """One step of the init lane. `args` follow opcodes.OPS[op]; str arguments are text, encoded with surrogateescape.

    `tolerate`: errnos that count as success, at most four. `alternatives`: steps that run instead, each with its
    `on_errno`; with `retry` the main step runs once more after it.
    """

    op: str
    args: tuple[Arg, ...]
    origin: str = ""
    tolerate: tuple[int, ...] = ()
    alternatives: tuple[Step, ...] = ()
    on_errno: int = 0
    retry: bool = False

    lane = "init"


class HostStep(Record):
    """One step of the host lane; lifecycle/host_steps.py has a function per `op`. `args` by op, see HOST_OPS."""

    op: str
    args: tuple[Arg, ...]
    origin: str = ""

    lane = "host"


def init_step(op: str, args: tuple[Arg, ...], origin: str = "", tolerate: tuple[int, ...] = ()) -> Step:
    """A step of the init lane without alternatives; quicker than filling in defaults."""
    return Step(op, args, origin, tolerate, (), 0, False)


def either(op: str, args: tuple[Arg, ...], origin: str, *alternatives: Step) -> Step:
    """A step of the init lane with what runs instead of it."""
    return Step(op, args, origin, (), alternatives, 0, False)


def instead(on_errno: int, op: str, args: tuple[Arg, ...], origin: str = "", *, retry: bool = False) -> Step:
    """An alternative: what runs when the main step fails with `on_errno`."""
    return Step(op, args, origin, (), (), on_errno, retry)


# Host steps and their arguments, in the words that `explain` prints.
HOST_OPS: dict[str, tuple[str, ...]] = {
    "cg_make": ("path",),  # a cgroup directory, absolute; parents too (mode 0755); created ones are ours to remove
    "cg_write": ("file", "data"),  # absolute file below a cgroup mount
    "cg_devices": ("path", "rules"),  # device filter of a v2 cgroup; the last rule that names an access wins
    "sd_scope": ("unit", "properties", "user"),  # a transient unit of systemd with stage 0 in it
    "cg_join": ("path",),  # stage 0 in the cgroup: started there (csrc/ext_spawn.c), or its pid into cgroup.procs
    "cg_own": ("path", "uid"),  # the directory and the files of it that a delegated cgroup's owner has
    "cg_enter": ("path",),  # a cgroup below the container's, made, with init moved into it
    "open_tree": ("path", "slot", "recursive", "propagation", "follow"),  # detached clone of a host path
    "tree_attributes": ("slot", "attr_set", "attr_clr", "recursive"),  # of a clone that is attached nowhere yet
    "idmap": ("source", "slot", "recursive", "uids", "gids"),  # of the tree in the slot: id on disk, id shown, count
    "open_root": ("path", "slot", "recursive"),  # the rootfs, detached clone
    "open_ns": ("path", "nstype", "slot"),
    "open_device": ("path", "mode", "dev", "slot"),  # a host device node, checked, as a detached bind
    "keep_fd": ("number", "slot"),  # a descriptor of the caller (preserve-fds, LISTEN_FDS)
    "connect": ("kind", "slot"),  # the console socket
    "fifos": ("fifo_slot", "err_slot"),  # exec.fifo and exec.err of the state directory
    "spawn": (),  # container-init, stage 0
    "id_map": ("kind", "lines", "method"),  # uid or gid; ((inside, outside, size), ...); "", newuidmap, newgidmap
    "set_groups": ("allow",),  # /proc/PID/setgroups deny
    "record_pid": (),  # the pid of init into `identity`
    "hooks": ("kind",),  # prestart, createRuntime
    "open_output": ("path", "slot"),  # a file of the host, to append the output of hooks to
    "rlimit": ("type", "soft", "hard"),
    "rdt_make": ("path",),  # a group of resctrl, or its monitoring group
    "rdt_compare": ("file", "lines"),  # schemata of a group that was there: has to say what the lines say
    "rdt_write": ("file", "line"),  # one line of schemata
    "rdt_join": ("path",),  # pid of stage 0 into PATH/tasks
    "move_device": ("device", "index", "name", "new_index"),  # a network device into init's namespace
    "save_state": (),
    "send_listener": ("path", "metadata"),  # the seccomp listener of the LISTENER message, to a socket
    "open_pidfd": ("slot",),  # of the container's init, for exec
    "release": ("barrier",),  # wait for the barrier, then let init go on
}


class Options(Record):
    """What the command line adds to a bundle; the same record for create, run and restore."""

    id: str = ""
    no_pivot: bool = False
    no_new_keyring: bool = False
    preserve_fds: int = 0
    listen_fds: int = 0
    console: bool = False  # a console socket, or our own pty in the foreground, receives the master
    notify_dir: str = ""  # host directory of notify.sock, bind-mounted at /run/notify
    hook_state_prefix: str = ""  # state JSON of container-side hooks up to the pid
    hook_state_suffix: str = ""
    start_state_prefix: str = ""  # the same with status "created", for startContainer
    rootless_cgroups: bool = False
    cgroup_manager: str = "cgroupfs"  # cgroupfs, systemd, disabled
    keyring_token: str = ""


class ExecOptions(Record):
    """What an exec adds to the container's saved configuration.

    `nstypes`: CLONE_NEW* bits of the namespaces of init that differ from the caller's. `cgroups`: absolute cgroup
    directories to join. `hook_state` fields are absent: an exec runs no hooks.
    """

    id: str = ""
    nstypes: int = 0
    cgroups: tuple[str, ...] = ()
    preserve_fds: int = 0
    listen_fds: int = 0
    rdt: tuple[str, ...] = ()  # directories of resctrl to join
    console: bool = False
    no_new_keyring: bool = False
    keyring_token: str = ""


class CgroupPlan(Record):
    """What the cgroup room adds to a plan; all of it is host steps, in order.

    `paths`: controller (or "name=systemd", or "" for the unified tree) and the container's absolute directory.
    `make` creates, `early` writes before anyone joins, `join` moves stage 0 in, `limits` writes after that. `delegate`
    is the cgroup below the container's in which its program starts, "" for none.
    """

    paths: tuple[tuple[str, str], ...] = ()
    make: tuple[HostStep, ...] = ()
    early: tuple[HostStep, ...] = ()
    join: tuple[HostStep, ...] = ()
    limits: tuple[HostStep, ...] = ()
    delegate: str = ""


class Slots:
    """Numbers of descriptors that both lanes name; 0 is the root and 1 the procfs handle (opcodes.py)."""

    def __init__(self) -> None:
        self.next = 2

    def take(self) -> int:
        """A fresh one."""
        self.next += 1
        return self.next - 1


class Plan(Record):
    """Both lanes in execution order. `slots` is how many descriptors container-init keeps."""

    steps: tuple[Step | HostStep, ...]
    slots: int
    fd_base: int = 3
    warnings: tuple[tuple[str, str], ...] = ()  # (pointer, text)

    def init_steps(self) -> tuple[Step, ...]:
        """The init lane, in order."""
        return tuple(step for step in self.steps if step.lane == "init")  # type: ignore[misc]
