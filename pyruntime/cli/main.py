"""The `pyruntime` command: global flags, dispatch to one verb, and the outermost frame that turns failures into words.

Nothing here imports a room: a verb's function does that when it is called, so each verb pays for itself alone
(tests/test_startup.py lists what each may load). Answers go straight to descriptor 1, records and details to the log.
Exit codes are contract 1.5: a runtime error is 1, in `exec` 255, an unknown command 3.
"""

from __future__ import annotations

import posix
import sys

from pyruntime.cli import verbs
from pyruntime.cli.flags import GLOBAL, Verb, records, verb
from pyruntime.cli.log import Log, open_log, write_all
from pyruntime.cli.parse import HelpAsked, Parsed, check_count, parse_flags
from pyruntime.cli.paths import absolute
from pyruntime.errors import HostError, RuntimeFailure, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyruntime.lifecycle.settings import Settings

DEFAULT_ROOT = "/run/pyruntime"
PREFIXES = {"create": "pyruntime create failed", "run": "pyruntime run failed", "exec": "exec failed"}
# Verbs that run in the launcher's own interpreter (csrc/launcher_embed.c); all others start a plain one.
FAST = ("create", "start", "run", "state", "kill", "delete", "exec", "pause", "resume", "update", "checkpoint")
FAILURE, EXEC_FAILURE, NO_SUCH_VERB, INTERRUPTED = 1, 255, 3, 130
NO_READER = 141  # what a shell makes of a program that SIGPIPE ended
# What a signal must not cut short.
CHANGING = ("create", "run", "start", "exec", "delete", "pause", "resume", "update", "mounts",
            "checkpoint", "restore")
VERSION_FLAG = ("version", "v", "bool", False, "", "print versions")
ROOTLESS = {"": "auto", "auto": "auto", "1": "true", "t": "true", "T": "true", "true": "true", "TRUE": "true",
            "True": "true", "0": "false", "f": "false", "F": "false", "false": "false", "FALSE": "false",
            "False": "false"}  # fmt: skip
CGROUP_MANAGERS = ("cgroupfs", "systemd", "disabled")


def entry() -> NoReturn:
    """Runs the command of sys.argv and leaves the process without finalising the interpreter."""
    status = main(sys.argv)
    for stream in (getattr(sys, "stdout", None), getattr(sys, "stderr", None)):  # absent before full initialisation
        if stream is not None:
            stream.flush()
    posix._exit(status)  # noqa: SLF001 - its public name


def main(argv: list[str]) -> int:
    """The exit code of the command `argv`, argv[0] being the program's name as messages show it."""
    try:
        # "-V" is crun's letter for --version.
        words = ["--version" if word == "-V" else word for word in argv[1:2]] + argv[2:]
        parsed = parse_flags(records((*GLOBAL, VERSION_FLAG)), words, stops=True)
    except UsageError as failure:
        return _usage(Log(), failure, "", separator=".")
    except HelpAsked:
        return _help("")
    if parsed.values["version"]:
        return _version()
    if not parsed.rest:
        return _help("")
    try:
        log = _open_log(parsed)
    except (UsageError, OSError) as failure:
        Log().fail(_worded(failure))
        return FAILURE
    return _dispatch(argv[0], parsed, log)


def _dispatch(program: str, parsed: Parsed, log: Log) -> int:
    """Runs the verb that the positionals name."""
    name, words = parsed.rest[0], list(parsed.rest[1:])
    if name in ("help", "h"):
        return _help(words[0] if words else "")
    if name not in FAST and "_pyruntime_launcher" in sys.modules:
        sys.modules["_pyruntime_launcher"].plain()
    called = verb(name)
    if called is None:
        return _no_such_verb(log, name)
    try:
        arguments = parse_flags(called.flags, words, stops=called.stops)
    except UsageError as failure:
        return _usage(log, failure, name, separator=":")
    except HelpAsked:
        return _help(name)
    try:
        check_count(program, name, arguments.rest, called.least, called.most)
    except UsageError as failure:
        return _usage(log, failure, name, separator="")
    return _call(called, parsed, arguments, log)


def _call(called: Verb, parsed: Parsed, arguments: Parsed, log: Log) -> int:
    """Calls the verb; the one place that turns every failure into a line and an exit code."""
    try:
        call = verbs.Call(settings_of(parsed, log), arguments.values, arguments.given, arguments.rest,
                          "root" in parsed.given)  # fmt: skip
        if called.name in CHANGING:
            from pyruntime.native import wait

            wait.arm()
        return verbs.FUNCTIONS[called.name](call)
    except KeyboardInterrupt:
        return INTERRUPTED
    except verbs.NoReaderError:
        return NO_READER
    except Exception as error:  # noqa: BLE001 - the outermost frame
        if log.debugging:
            _print_traceback(error)
        failure = _worded(error)
        prefix = PREFIXES.get(called.name)
        log.fail(failure.within(prefix) if prefix else failure)
        if called.name == "exec" or (called.name == "run" and failure.late):
            return EXEC_FAILURE
        return getattr(failure, "exit_code", FAILURE)


def settings_of(parsed: Parsed, log: Log) -> Settings:
    """The lifecycle's settings from the global flags. Raises UsageError."""
    from pyruntime.lifecycle.settings import Settings

    values = parsed.values
    manager = values["cgroup_manager"] or ("systemd" if values["systemd_cgroup"] else "cgroupfs")
    if manager not in CGROUP_MANAGERS:
        raise UsageError(f"invalid cgroup manager: {manager}", hint=f"managers are {', '.join(CGROUP_MANAGERS)}")
    rootless = ROOTLESS.get(values["rootless"])
    if rootless is None:
        raise UsageError(f'strconv.ParseBool: parsing "{values["rootless"]}": invalid syntax',
                         hint="--rootless is true, false or auto")  # fmt: skip
    if "criu" in parsed.given:
        log.warn("--criu is obsolete and ignored: criu is looked up in PATH")
    root = absolute(values["root"]) if values["root"] else default_root()
    cache = {} if values["root"] else {"cache": f"{root}-cache"}
    if root == "/":
        raise UsageError("Option --root argument should not be set to /")
    return Settings(root=root, cgroup_manager=manager, rootless=rootless, debug=log.debugging, warn=log.warn,
                    **cache)  # fmt: skip


def default_root() -> str:
    """/run/pyruntime; for a user without root's rights, or root of a user namespace, below XDG_RUNTIME_DIR.

    That folder is made here, sticky, so that cleaners of XDG_RUNTIME_DIR leave it (XDG base directory specification).
    """
    runtime_dir = posix.environ.get(b"XDG_RUNTIME_DIR", b"")
    if not runtime_dir or not _honours_xdg():
        return DEFAULT_ROOT
    root = runtime_dir.decode("utf-8", "surrogateescape") + "/pyruntime"
    try:
        posix.mkdir(root, 0o700)
    except FileExistsError:
        pass
    posix.chmod(root, 0o1700)
    return root


def _honours_xdg() -> bool:
    """False for the machine's real root, and for a user namespace's root whose USER says root (contract 1.8)."""
    if posix.geteuid() != 0:
        return True
    fd = posix.open("/proc/self/uid_map", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        initial = posix.read(fd, 4096).split() == [b"0", b"0", b"4294967295"]
    finally:
        posix.close(fd)
    return not initial and posix.environ.get(b"USER") != b"root"


def _open_log(parsed: Parsed) -> Log:
    values = parsed.values
    return open_log(values["log"], values["log_format"], values["log_level"], debug=values["debug"])


def _worded(error: BaseException) -> RuntimeFailure:
    """`error` as a failure with one line of words."""
    if isinstance(error, RuntimeFailure):
        return error
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return HostError(f"{where}{error.strerror.lower()}", errno=error.errno or 0)
    if isinstance(error, MemoryError):
        return RuntimeFailure("out of memory")
    if isinstance(error, ImportError) and error.name and not error.name.startswith("pyruntime"):
        return RuntimeFailure(f"cannot import {error.name}: {error}",
                              hint=f"install the package that has {error.name.partition('.')[0]!r}")  # fmt: skip
    if isinstance(error, ModuleNotFoundError) or _is_of_package(error):
        missing = f" {error.name}" if isinstance(error, ModuleNotFoundError) else f": {error}"
        return RuntimeFailure(f"cannot load{missing}", hint="the installation is damaged, or memory or descriptors ran out")
    return RuntimeFailure(f"internal error: {type(error).__name__}: {error}", hint="--debug shows the traceback")


def _is_of_package(error: BaseException) -> bool:
    """Whether it is of `from package import module` where the module's file could not be read."""
    return isinstance(error, ImportError) and hasattr(sys.modules.get(error.name or ""), "__path__")


def _print_traceback(error: BaseException) -> None:
    import traceback

    write_all(2, "".join(traceback.format_exception(error)))


def _usage(log: Log, failure: UsageError, name: str, *, separator: str) -> int:
    """Words of the command line that no verb takes: help on stdout, the error in the log."""
    from pyruntime.cli.help import help_text
    from pyruntime.cli.terminal import columns

    told = f"Incorrect Usage{separator} {failure}" if separator else "Incorrect Usage."
    write_all(1, f"{told}\n\n{help_text(name, columns())}")
    log.fail(failure)
    return FAILURE


def _help(name: str) -> int:
    """Prints help of the verb `name`, or of the program; an unknown name exits 3."""
    from pyruntime.cli.help import help_text
    from pyruntime.cli.terminal import columns

    if name and verb(name) is None:
        return _no_such_verb(Log(), name)
    write_all(1, help_text(name, columns()))
    return 0


def _no_such_verb(log: Log, name: str) -> int:
    """A first word that is no command."""
    from pyruntime.cli.advice import nearest

    meant = nearest(name, verbs.FUNCTIONS)
    guess = f"did you mean {meant}? " if meant else ""
    log.fail(UsageError(f"No help topic for '{name}'", hint=f"{guess}`pyruntime help` lists the commands"))
    return NO_SUCH_VERB


def _version() -> int:
    from pyruntime.cli.help import version_text

    write_all(1, version_text())
    return 0
