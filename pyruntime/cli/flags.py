"""Every verb and every flag, as data: the parser, --help, the manual pages and shell completion are made from here.

Rows are constant tuples so that reading this module costs next to nothing; `verb()` makes records of the one verb
that is called. Sources: contract 1.1-1.4 (runc 1.5's flags; what is ours alone has a long name only).
"""

from __future__ import annotations

from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOL, TEXT, INT, LIST, DURATION = "bool", "text", "int", "list", "duration"


class Flag(Record):
    """One flag. `default` is also the value's type when the flag is absent; `metavar` is "" for a boolean."""

    name: str
    short: str  # one letter or ""
    kind: str  # BOOL, TEXT, INT, LIST (repeatable, no separator), DURATION (seconds as float)
    default: Any
    metavar: str
    help: str
    hidden: bool = False

    @property
    def key(self) -> str:
        """The name as a Python keyword: pid-file is pid_file."""
        return self.name.replace("-", "_")


class Verb(Record):
    """One command. `most` -1: no upper bound. `stops`: flags end at the first positional (contract 1.1)."""

    name: str
    arguments: str  # as the usage line shows them
    least: int
    most: int
    summary: str
    about: str  # a paragraph for --help and the manual page
    flags: tuple[Flag, ...]
    stops: bool = False


_CONSOLE = ("console-socket", "", TEXT, "", "PATH",
            "UNIX socket that receives the terminal's master end; needed with a terminal and --detach")
_PIDFD = ("pidfd-socket", "", TEXT, "", "PATH", "UNIX socket that receives a pidfd of the process (Linux 5.3)")
_PID_FILE = ("pid-file", "", TEXT, "", "PATH", "file to write the process's pid to, once all has succeeded")
_PRESERVE = ("preserve-fds", "", INT, 0, "N",
             "pass N more descriptors, from 3 on (after those of LISTEN_FDS), at the same numbers")
_DETACH = ("detach", "d", BOOL, False, "", "return as soon as the process is started")
_BUNDLE = ("bundle", "b", TEXT, "", "DIR", "the bundle; the default is the current directory")
_CONFIG = ("config", "f", TEXT, "", "FILE", "the configuration's name in the bundle (default: config.json)")
_CREATE = (
    _BUNDLE,
    _CONFIG,
    _CONSOLE,
    _PIDFD,
    _PID_FILE,
    ("no-pivot", "", BOOL, False, "", "move and chroot instead of pivot_root, for a rootfs on a ramdisk"),
    ("no-new-keyring", "", BOOL, False, "", "stay in the caller's session keyring"),
    _PRESERVE,
)
_NO_SUBREAPER = ("no-subreaper", "", BOOL, False, "", "do not become the subreaper of the container's processes")
_REGEX = ("regex", "r", BOOL, False, "", "the argument is a regular expression over ids")
_JSON_OR_TABLE = ("format", "f", TEXT, "table", "FORMAT", "table or json")
_UPDATE = (
    ("resources", "r", TEXT, "", "FILE", "LinuxResources as JSON, - for standard input; all other flags are ignored"),
    ("memory", "", TEXT, "", "BYTES", "memory limit; suffixes k, m, g, t; -1 for none"),
    ("memory-reservation", "", TEXT, "", "BYTES", "soft limit of memory"),
    ("memory-swap", "", TEXT, "", "BYTES", "limit of memory and swap together; -1 for none"),
    ("cpu-period", "", TEXT, "", "US", "CFS period in microseconds"),
    ("cpu-quota", "", TEXT, "", "US", "CFS quota in microseconds per period"),
    ("cpu-burst", "", TEXT, "", "US", "quota that may be saved up, in microseconds"),
    ("cpu-share", "", TEXT, "", "N", "relative weight, 2 to 262144"),
    ("cpu-rt-period", "", TEXT, "", "US", "real-time period in microseconds"),
    ("cpu-rt-runtime", "", TEXT, "", "US", "real-time runtime in microseconds per period"),
    ("cpu-idle", "", TEXT, "", "N", "1 makes the group idle, 0 undoes it"),
    ("cpuset-cpus", "", TEXT, "", "LIST", "CPUs to use, as in 0-2,4"),
    ("cpuset-mems", "", TEXT, "", "LIST", "memory nodes to use"),
    ("blkio-weight", "", TEXT, "", "N", "weight of block I/O, 10 to 1000"),
    ("pids-limit", "", TEXT, "", "N", "most processes; 0 is a value, -1 is no limit"),
    ("l3-cache-schema", "", TEXT, "", "TEXT", "Intel RDT/CAT schema of the L3 cache"),
    ("mem-bw-schema", "", TEXT, "", "TEXT", "Intel RDT/MBA schema of memory bandwidth"),
    ("kernel-memory", "", TEXT, "", "BYTES", "obsolete, ignored", True),
    ("kernel-memory-tcp", "", TEXT, "", "BYTES", "obsolete, ignored", True),
)
_EXEC = (
    ("process", "p", TEXT, "", "FILE", "the process as JSON; only the id is needed then"),
    ("cwd", "", TEXT, "", "DIR", "working directory in the container"),
    ("env", "e", LIST, (), "NAME=VALUE", "add to the environment; repeatable"),
    ("user", "u", TEXT, "", "UID[:GID]", "numeric user and group"),
    ("additional-gids", "g", LIST, (), "GID", "add a supplementary group; repeatable"),
    ("tty", "t", BOOL, False, "", "give the process a terminal"),
    _CONSOLE,
    _PIDFD,
    _PID_FILE,
    _DETACH,
    ("process-label", "", TEXT, "", "LABEL", "SELinux label of the process"),
    ("apparmor", "", TEXT, "", "PROFILE", "AppArmor profile of the process"),
    ("no-new-privs", "", BOOL, False, "", "set no_new_privs"),
    ("cap", "c", LIST, (), "CAP", "add a capability; repeatable"),
    _PRESERVE,
    ("cgroup", "", LIST, (), "[CTRL[,CTRL]:]PATH", "existing sub-cgroup to run in; repeatable"),
    ("ignore-paused", "", BOOL, False, "", "allow it in a paused container; the process stays frozen"),
)
_CRIU = (
    ("image-path", "", TEXT, "", "DIR", "the folder of the images (default: ./checkpoint)"),
    ("work-path", "", TEXT, "", "DIR", "the folder of criu's log and scratch files (default: the image path)"),
    ("tcp-established", "", BOOL, False, "", "keep established TCP connections"),
    ("ext-unix-sk", "", BOOL, False, "", "allow UNIX sockets whose other end is outside"),
    ("shell-job", "", BOOL, False, "", "allow a terminal that is the caller's"),
    ("lazy-pages", "", BOOL, False, "", "move memory when it is used, with userfaultfd"),
    ("file-locks", "", BOOL, False, "", "keep file locks"),
    ("manage-cgroups-mode", "", TEXT, "", "MODE", "soft, full, strict or ignore (default: soft)"),
    ("empty-ns", "", LIST, (), "NAMESPACE", "make the namespace without what was in it: network"),
    ("auto-dedup", "", BOOL, False, "", "drop pages of older images that newer ones replace"),
    ("network-lock", "", TEXT, "", "METHOD", "iptables, nftables or skip"),
)
_CHECKPOINT = (
    *_CRIU,
    ("parent-path", "", TEXT, "", "DIR", "the folder of an earlier --pre-dump, relative to the image path"),
    ("leave-running", "", BOOL, False, "", "let the container run on"),
    ("tcp-skip-in-flight", "", BOOL, False, "", "leave out TCP connections that are being made"),
    ("link-remap", "", BOOL, False, "", "keep open files that have been unlinked"),
    ("status-fd", "", INT, -1, "FD", "descriptor that gets a byte when --lazy-pages is ready to serve"),
    ("page-server", "", TEXT, "", "ADDRESS:PORT", "send memory pages to that page server"),
    ("pre-dump", "", BOOL, False, "", "write memory only and let the container run on"),
)
_RESTORE = (
    _BUNDLE, _CONFIG, _CONSOLE, _PID_FILE, _DETACH,
    ("no-pivot", "", BOOL, False, "", "accepted for callers of create; criu sets the root"),
    _NO_SUBREAPER,
    ("keep", "", BOOL, False, "", "keep the stopped container's state"),
    *_CRIU,
    ("tcp-close", "", BOOL, False, "", "close the TCP connections of the images"),
    ("lsm-profile", "", TEXT, "", "TYPE:NAME", "security profile of the restored processes"),
    ("lsm-mount-context", "", TEXT, "", "CONTEXT", "SELinux context of the restored mounts"),
)  # fmt: skip

GLOBAL = (
    ("debug", "", BOOL, False, "", "log at debug level, with the place in the source"),
    ("log", "", TEXT, "", "FILE", "log to FILE, file:PATH, journald:ID or syslog:ID instead of stderr"),
    ("log-format", "", TEXT, "text", "FORMAT", "text or json"),
    ("log-level", "", TEXT, "", "LEVEL", "error, warning, info or debug (default: info)"),
    ("root", "", TEXT, "", "DIR", "where the state of containers is kept (default: /run/pyruntime)"),
    ("systemd-cgroup", "", BOOL, False, "", "systemd driver; cgroupsPath is slice:prefix:name"),
    ("cgroup-manager", "", TEXT, "", "NAME", "cgroupfs, systemd or disabled (default: cgroupfs)"),
    ("rootless", "", TEXT, "auto", "WHEN", "tolerate cgroup permission errors: true, false or auto"),
    ("criu", "", TEXT, "", "PATH", "obsolete, ignored", True),
)

# name: (arguments, least, most, summary, about, flags[, stops])
VERBS: dict[str, tuple[Any, ...]] = {
    "create": ("ID", 1, 1, "create a container",
               "Makes the container of a bundle and leaves it waiting: its program runs when `start` is called.",
               _CREATE),
    "start": ("ID", 1, 1, "run the program of a created container",
              "Returns once the program has been executed; fails with the cause when it could not be.", ()),
    "run": ("ID | BUNDLE/", 1, 1, "create and start a container",
            "In the foreground it forwards signals, waits, removes the container and returns the program's exit code. "
            "An argument that is . or .. or holds a / is the bundle, and the container gets an id of its own. "
            "Process 1 of a pid namespace is ended by no signal that it does not handle: where Ctrl-C does nothing, "
            "`kill ID KILL` does.",
            (*_CREATE, _DETACH, ("keep", "", BOOL, False, "", "keep the stopped container's state"), _NO_SUBREAPER)),
    "state": ("ID", 1, 1, "print a container's state as JSON",
              "The status is read from the kernel each time.", ()),
    "kill": ("ID [SIGNAL]", 1, 2, "send a signal to the container's init (default: SIGTERM)",
             "SIGNAL is a number or a name with or without SIG, in any case; RTMIN+n and RTMAX-n are known.",
             (("all", "a", BOOL, False, "", "signal every process of the container"), _REGEX), True),
    "delete": ("ID", 1, 1, "remove a stopped container",
               "Removes what create made: cgroups, state and, with --force, the processes.",
               (("force", "f", BOOL, False, "", "kill it first if it lives; a missing id is no error"), _REGEX)),
    "exec": ("ID COMMAND [ARG...]", 1, -1, "run a further process in a container",
             "The process takes what the container was created with, changed by the flags. With --process only the id "
             "is needed. Flags after the id belong to the command.", _EXEC, True),
    "list": ("", 0, 0, "list containers", "One line per container under the root, sorted by id.",
             (_JSON_OR_TABLE, ("quiet", "q", BOOL, False, "", "ids only"))),
    "ps": ("ID [PS-OPTION...]", 1, -1, "list a container's processes",
           "The table is the output of ps(1), `-ef` by default, cut to the container's processes.",
           (_JSON_OR_TABLE,), True),
    "pause": ("ID", 1, 1, "freeze a container", "Freezes every process of its cgroup.", ()),
    "resume": ("ID", 1, 1, "thaw a paused container", "Undoes `pause`.", ()),
    "update": ("ID", 1, 1, "change a container's limits",
               "Only what is given changes. Device rules are never touched.", _UPDATE),
    "mounts": ("add|remove ID FILE", 3, 3, "add mounts to a running container, or remove them",
               "FILE is a list of mounts as in config.json, - for standard input. A relative source starts at the bundle.",
               ()),
    "events": ("ID", 1, 1, "print figures and out-of-memory events as JSON lines",
               "One object per line until the container ends.",
               (("interval", "", DURATION, 5.0, "DURATION", "time between two records, as in 5s or 1m"),
                ("stats", "", BOOL, False, "", "print one record and stop"))),
    "checkpoint": ("ID", 1, 1, "write a running container to files",
                   "criu writes its processes and memory; the container is deleted then, unless --leave-running or "
                   "--pre-dump is given. When it fails the container goes on.", _CHECKPOINT),
    "restore": ("ID", 1, 1, "make a container from the files of a checkpoint",
                "Takes the bundle that the container was made from. In the foreground it stays as run does.", _RESTORE),
    "spec": ("", 0, 0, "write an example config.json",
             "Refuses to replace a file.",
             (_BUNDLE,
              ("rootless", "", BOOL, False, "", "for a user without privileges"),
              ("file", "f", TEXT, "", "PATH", "where to write, - for standard output (default: config.json)"))),
    "features": ("", 0, 0, "print what this runtime supports as JSON",
                 "Needs no privileges and looks at no container.", ()),
    "explain": ("[BUNDLE]", 0, 1, "print the plan of a bundle and create nothing",
                "Both lanes in order: what is done on the host and what container-init does inside.",
                (("json", "", BOOL, False, "", "as JSON, with a version"),
                 ("show-env", "", BOOL, False, "", "show the values of environment variables"),
                 _BUNDLE, _CONFIG)),
    "validate": ("[BUNDLE]", 0, 1, "list all violations of a bundle's config.json",
                 "Every broken rule of schema and specification with its JSON pointer, and what this host cannot do. "
                 "Creates nothing.",
                 (("json", "", BOOL, False, "", "as JSON"), _BUNDLE, _CONFIG)),
}  # fmt: skip


def records(rows: tuple[tuple[Any, ...], ...]) -> tuple[Flag, ...]:
    """Flags as records."""
    return tuple([Flag(*row) for row in rows])


def verb(name: str) -> Verb | None:
    """The verb of that name, None when there is none."""
    row = VERBS.get(name)
    if row is None:
        return None
    arguments, least, most, summary, about, flags, *stops = row
    return Verb(name, arguments, least, most, summary, about, records(flags), bool(stops and stops[0]))
