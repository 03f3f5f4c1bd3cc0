"""Log records in the form runc's callers parse (contract 1.6), without the logging package.

text   time="2006-01-02T15:04:05Z" level=error msg="…"     msg quoted when it holds more than plain characters
json   {"level":"error","msg":"…","time":"…"}              keys sorted; only the final error unless --debug, because
                                                           podman reads the whole file as exactly one object
The target is stderr, a file that is appended to (0644), `journald:ID` or `syslog:ID`. With any target but stderr the
final error also goes bare to stderr, where conmon and cri-o look. Field, value and hint lines only ever go to stderr.
"""

from __future__ import annotations

import posix
import sys

from pyruntime.errors import RuntimeFailure, UsageError
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = {"debug": 3, "info": 2, "warning": 1, "error": 0}
MAX_LINE = 7900  # bytes of a message, so that its record is at most 8 KiB
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
            "\v": "\\v"}  # fmt: skip


class Log(Record):
    """Where records go and which. `fd` is borrowed or lives as long as the process; -1 with `service`."""

    fd: int = 2
    service: str = ""  # journald:ID or syslog:ID
    json: bool = False
    level: int = LEVELS["info"]

    @property
    def debugging(self) -> bool:
        """Whether debug records are written."""
        return self.level >= LEVELS["debug"]

    def warn(self, message: str) -> None:
        """A warning; in JSON mode only with --debug."""
        self._record("warning", message)

    def debug(self, message: str) -> None:
        """A debug record, when --debug is on."""
        self._record("debug", message)

    def fail(self, failure: RuntimeFailure) -> None:
        """The final error: one record, the bare line on stderr when the log is elsewhere, then its details.

        On stderr all of it is one write: nobody's lines come between, and no hint stands there without its error.
        """
        message = one_line(str(failure))
        tail = "".join(line + "\n" for line in map(one_line, failure.details()))
        if self.fd == 2:
            self._write("error", message, tail)
        else:
            self._write("error", message)
            write_all(2, f"{message}\n{tail}")

    def _record(self, level: str, message: str) -> None:
        if self.level >= LEVELS[level] and (not self.json or self.debugging):
            self._write(level, one_line(message))

    def _write(self, level: str, message: str, tail: str = "") -> None:
        import time

        pairs = {"level": level, "msg": message, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        if self.debugging:
            pairs.update(_place())
        if self.service:
            from pyruntime.cli.log_service import send

            send(self.service, level, message)
        else:
            write_all(self.fd, (json_line(pairs) if self.json else text_line(pairs)) + tail)


def open_log(target: str, log_format: str, level: str, *, debug: bool) -> Log:
    """The log that the global flags ask for. Raises UsageError for a bad format or level, OSError for the file."""
    if log_format not in ("text", "json"):
        raise UsageError(f"invalid log-format: {log_format}", hint="formats are text and json")
    if level and level not in LEVELS:
        raise UsageError(f"invalid log-level: {level}", hint="levels are error, warning, info and debug")
    number = LEVELS["debug" if debug else level or "info"]
    if target.startswith(("journald:", "syslog:")):
        return Log(-1, target, log_format == "json", number)
    path = target.removeprefix("file:")
    if path in ("", "/dev/stderr"):
        return Log(2, "", log_format == "json", number)
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC
    return Log(posix.open(path, flags, 0o644), "", log_format == "json", number)


def one_line(message: str) -> str:
    """`message` with line ends and other control characters made visible, so that a record stays one line (R1)."""
    if not message.isprintable():
        message = "".join([c if c.isprintable() else _ESCAPES.get(c) or _escape(c) for c in message.rstrip("\n")])
    return message if len(message) < MAX_LINE // 8 else _shortened(message)


def _shortened(message: str) -> str:
    """`message` without its middle when its record would pass MAX_LINE bytes: callers match the ends."""
    size = len(message.encode("utf-8", "surrogateescape")) + message.count('"') + message.count("\\")
    if size <= MAX_LINE:
        return message
    kept = MAX_LINE // 8  # characters at each end, of at most four bytes
    return f"{message[:kept]} … {message[-kept:]}"


def text_line(pairs: Mapping[str, str]) -> str:
    """time, level, msg, then further pairs, as logrus writes them."""
    order = ["time", "level", "msg", *[key for key in pairs if key not in ("time", "level", "msg")]]
    return " ".join([f"{key}={_quoted(pairs[key])}" for key in order]) + "\n"


def json_line(pairs: Mapping[str, str]) -> str:
    """One object on one line, keys sorted, no spaces."""
    from pyruntime.spec.document import dump

    return dump(pairs, sort_keys=True) + "\n"


def write_all(fd: int, text: str) -> None:
    """All of `text` to `fd`; what cannot be written is lost, as there is nowhere to say so."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[posix.write(fd, data) :]
    except OSError:
        return


def _quoted(text: str) -> str:
    if text and _PLAIN.issuperset(text):
        return text
    return '"' + "".join([_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text]) + '"'


def _escape(char: str) -> str:
    """A character that is not printable as Go's strconv.Quote shows it."""
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _place() -> dict[str, str]:
    """Function and file of the code that logs: the first frame outside this module."""
    frame = sys._getframe(1)  # noqa: SLF001 - what the logging package uses too
    while frame.f_back is not None and frame.f_code.co_filename == _place.__code__.co_filename:
        frame = frame.f_back
    return {"func": frame.f_code.co_qualname, "file": f"{frame.f_code.co_filename}:{frame.f_lineno}"}
