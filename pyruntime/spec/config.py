"""Records of runtime-spec config.md: everything of config.json that is not below `linux`."""

from __future__ import annotations

from pyruntime.record import Record
from pyruntime.spec.linux import IDMapping, Linux


class Root(Record):
    path: str  # as configured: absolute, or relative to the bundle
    readonly: bool = False


class ConsoleSize(Record):
    height: int
    width: int


class User(Record):
    """Numeric ids inside the container's user namespace. `umask` None: 0022 for init."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class Capabilities(Record):
    """Names as configured (CAP_CHOWN); unknown names are kept, the planner warns about them."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Record):
    type: str  # RLIMIT_NOFILE
    soft: int  # 0..2^64-1, RLIM_INFINITY is 2^64-1
    hard: int


class Scheduler(Record):
    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IOPriority(Record):
    class_: str
    priority: int = 0


class ExecCPUAffinity(Record):
    initial: str = ""
    final: str = ""


class Process(Record):
    cwd: str
    args: tuple[str, ...]
    terminal: bool = False
    console_size: ConsoleSize | None = None
    env: tuple[str, ...] = ()  # K=V, last duplicate wins at the position of the last (contract 3.4)
    user: User = User()
    capabilities: Capabilities | None = None  # None: the object is absent, the full set is kept
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: Scheduler | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: ExecCPUAffinity | None = None


class Mount(Record):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(Record):
    path: str
    args: tuple[str, ...] = ()  # () means argv = [path]
    env: tuple[str, ...] | None = None  # None: absent, see contract 1.10 "hooks' env"
    timeout_s: int | None = None


class Hooks(Record):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Spec(Record):
    """One config.json. `process` None: the key is absent, which create refuses."""

    oci_version: str
    root: Root | None = None
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    annotations: tuple[tuple[str, str], ...] = ()  # in file order
    linux: Linux = Linux()
