"""`process` of config.json (runtime-spec config.md, Process): the process object of a bundle or of exec --process."""

from __future__ import annotations

from pyruntime.spec.config import Capabilities, ConsoleSize, Process, Rlimit, User
from pyruntime.spec.document import quote
from pyruntime.spec.reader import INT64, LATER, NO_ID, PROCESS, UINT32, UINT64, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RLIMITS = frozenset({  # getrlimit(2)
    "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
    "RLIMIT_SIGPENDING", "RLIMIT_STACK"})
MAX_UMASK = 0o7777


def parse_process(document: dict[str, Any], pointer: str = "") -> Process:
    """The process object in `document`; pointers of violations begin with `pointer`.

    Raises SpecError with all violations: args empty, cwd missing or relative, and the rules below.
    """
    reader = Reader()
    process = read_process(reader, document, pointer)
    reader.finish()
    return process


def read_process(reader: Reader, obj: dict[str, Any], at: str) -> Process:
    """The process object; what is wrong goes to `reader`."""
    scheduler = io_priority = affinity = None
    if "scheduler" in obj or "ioPriority" in obj or "execCPUAffinity" in obj:
        from pyruntime.spec import parse_rare

        scheduler = parse_rare.read_scheduler(reader, obj, at)
        io_priority = parse_rare.read_io_priority(reader, obj, at)
        affinity = parse_rare.read_affinity(reader, obj, at)
    return Process(
        _read_cwd(reader, obj, at), _read_args(reader, obj, at), reader.flag(obj, "terminal", at),
        _read_console(reader, obj, at), read_env(reader, obj, at), _read_user(reader, obj, at),
        _read_capabilities(reader, obj, at), _read_rlimits(reader, obj, at), reader.flag(obj, "noNewPrivileges", at),
        _read_oom_score(reader, obj, at), reader.text(obj, "apparmorProfile", at),
        reader.text(obj, "selinuxLabel", at), scheduler, io_priority, affinity)


def _read_cwd(reader: Reader, obj: dict[str, Any], at: str) -> str:
    cwd = reader.text(obj, "cwd", at)
    if not cwd:
        if not obj.get("cwd"):
            reader.error(PROCESS, f"{at}/cwd", "Cwd property must not be empty", hint='"/" is a good choice')
    elif cwd[0] != "/":
        reader.error(PROCESS, f"{at}/cwd", "Cwd must be an absolute path", cwd,
                     f"the path is inside the container: write {quote('/' + cwd)}")
    return cwd


def _read_args(reader: Reader, obj: dict[str, Any], at: str) -> tuple[str, ...]:
    args = reader.texts(obj, "args", at)
    if not args and not obj.get("args"):
        reader.error(PROCESS, f"{at}/args", "args must not be empty", hint='the program and its arguments: ["sh"]')
    return args


def _read_console(reader: Reader, obj: dict[str, Any], at: str) -> ConsoleSize | None:
    size = reader.table(obj, "consoleSize", at)
    if size is None:
        return None
    at += "/consoleSize"
    return ConsoleSize(reader.count(size, "height", at, UINT64), reader.count(size, "width", at, UINT64))


def read_env(reader: Reader, obj: dict[str, Any], at: str) -> tuple[str, ...]:
    """`env` as K=V; also for hooks. Messages: contract 3.4."""
    env = reader.texts(obj, "env", at)
    for index, entry in enumerate(env):
        mark = entry.find("=")
        if mark > 0:
            continue
        what = "missing '='" if mark < 0 else "name cannot be empty"
        reader.error(LATER, f"{at}/env/{index}", f"invalid environment variable: {what}", entry, "write NAME=value")
    return env


def _read_user(reader: Reader, obj: dict[str, Any], at: str) -> User:
    user = reader.table(obj, "user", at)
    if user is None:
        return User()
    at += "/user"
    umask = reader.number(user, "umask", at, UINT32)
    if umask is not None and umask > MAX_UMASK:
        reader.error(LATER, f"{at}/umask", f"umask {umask} is out of range", umask,
                     "JSON has decimal numbers only: octal 0022 is 18")
    return User(reader.id(user, "uid", at), reader.id(user, "gid", at), umask, _read_gids(reader, user, at))


def _read_gids(reader: Reader, user: dict[str, Any], at: str) -> tuple[int, ...]:
    gids = user.get("additionalGids")
    if gids is None:
        return ()
    if type(gids) is not list:
        reader.wrong(f"{at}/additionalGids", gids, "array", "write a list of numbers: [10, 20]")
        return ()
    if not all(type(gid) is int and 0 <= gid < NO_ID for gid in gids):
        positions = {str(index): gid for index, gid in enumerate(gids)}
        for index, gid in enumerate(gids):
            if gid is None:
                reader.wrong(f"{at}/additionalGids/{index}", gid, "uint32")
            else:
                reader.id(positions, str(index), f"{at}/additionalGids")
        return ()
    return tuple(gids)


def _read_capabilities(reader: Reader, obj: dict[str, Any], at: str) -> Capabilities | None:
    sets = reader.table(obj, "capabilities", at)
    if sets is None:
        return None
    at += "/capabilities"
    return Capabilities(
        reader.texts(sets, "bounding", at), reader.texts(sets, "effective", at), reader.texts(sets, "permitted", at),
        reader.texts(sets, "inheritable", at), reader.texts(sets, "ambient", at))


def _read_rlimits(reader: Reader, obj: dict[str, Any], at: str) -> tuple[Rlimit, ...]:
    limits: list[Rlimit] = []
    seen: set[str] = set()
    for index, row in reader.rows(obj, "rlimits", at):
        here = f"{at}/rlimits/{index}"
        name = reader.text(row, "type", here)
        if name not in RLIMITS:
            reader.one_of(name, RLIMITS, LATER, f"{here}/type", f"wrong rlimit value: {quote(name)[1:-1]}")
        elif name in seen:
            reader.error(LATER, f"{here}/type", f"duplicated rlimit {name}", name, "one entry for each type")
        seen.add(name)
        limits.append(_read_rlimit(reader, row, here, name))
    return tuple(limits)


def _read_rlimit(reader: Reader, row: dict[str, Any], at: str, name: str) -> Rlimit:
    soft, hard = reader.number(row, "soft", at, UINT64), reader.number(row, "hard", at, UINT64)
    for key, value in (("soft", soft), ("hard", hard)):
        if value is None and row.get(key) is None:
            reader.error(LATER, f"{at}/{key}", f"rlimit {quote(name)} has no {key} limit",
                         hint="soft and hard are both needed; no limit is 18446744073709551615")
    if soft is not None and hard is not None and soft > hard:
        reader.error(LATER, f"{at}/soft", f"rlimit {quote(name)}: soft limit {soft} is above hard limit {hard}", soft,
                     "the soft limit is at most the hard one: setrlimit(2)")
    return Rlimit(name, soft or 0, hard or 0)


def _read_oom_score(reader: Reader, obj: dict[str, Any], at: str) -> int | None:
    score = reader.number(obj, "oomScoreAdj", at, INT64)
    if score is not None and not -1000 <= score <= 1000:
        reader.error(LATER, f"{at}/oomScoreAdj", f"oomScoreAdj {score} is out of range", score, "from -1000 to 1000")
    return score
