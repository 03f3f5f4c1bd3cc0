"""Log records: contract 1.6."""

from __future__ import annotations

import json
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from pyruntime.cli.log import LEVELS, Log, json_line, one_line, open_log, text_line
from pyruntime.cli.log_service import send
from pyruntime.errors import RuntimeFailure, UsageError

if TYPE_CHECKING:
    from pathlib import Path

FAILURE = RuntimeFailure('no "x"', field="/mounts/0", value="x", hint="try y")


@pytest.mark.parametrize(
    ("message", "quoted"),
    [
        ("plain", "plain"),
        ("a/b@c^d+e_f-g.h", "a/b@c^d+e_f-g.h"),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("größe", '"größe"'),
        ("tab\there", '"tab\\there"'),
        ("\x01", '"\\x01"'),
        ("\u2028", '"\\u2028"'),
        ("\udc80", '"\\x80"'),
        ("", '""'),
    ],
    ids=ascii,
)
def test_text_line(message: str, quoted: str) -> None:
    pairs = {"level": "error", "msg": message, "time": "2006-01-02T15:04:05Z"}
    assert text_line(pairs) == f'time="2006-01-02T15:04:05Z" level=error msg={quoted}\n'


def test_json_line_is_one_object_with_sorted_keys_and_no_spaces() -> None:
    line = json_line({"time": "T", "msg": 'a "b" \n', "level": "error"})
    assert line == '{"level":"error","msg":"a \\"b\\" \\n","time":"T"}\n'


def test_a_byte_that_is_no_utf_8_keeps_the_record_parsable() -> None:
    line = json_line({"level": "error", "msg": one_line("\udcff"), "time": "T"})
    assert json.loads(line.encode("utf-8"))["msg"] == "\\xff"


@pytest.mark.parametrize(("text", "line"), [("a\nb\n", "a\\nb"), ("x", "x"), ("\x1b[31m", "\\x1b[31m")])
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


def fail_into(log: Log, capfd: pytest.CaptureFixture[str]) -> str:
    """What goes to stderr."""
    log.fail(FAILURE)
    return capfd.readouterr().err


TEXT = re.compile(r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ" level=error msg="no \\"x\\""')
DETAILS = ["  field: /mounts/0", "  value: x", "  hint: try y"]


def test_stderr_gets_record_and_details(capfd: pytest.CaptureFixture[str]) -> None:
    lines = fail_into(open_log("", "text", "", debug=False), capfd).splitlines()
    assert TEXT.fullmatch(lines[0])
    assert lines[1:] == DETAILS


@pytest.mark.parametrize("prefix", ["", "file:"])
def test_file_gets_the_record_and_stderr_the_bare_line(
    prefix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    lines = fail_into(open_log(f"{prefix}{path}", "text", "", debug=False), capfd).splitlines()
    assert lines == ['no "x"', *DETAILS]
    written = path.read_text().splitlines()
    assert written[0] == "before"
    assert TEXT.fullmatch(written[1])
    assert len(written) == 2


def test_json_file_is_exactly_one_object(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(str(path), "json", "", debug=False)
    log.warn("a warning")
    log.debug("detail")
    log.fail(FAILURE)
    record = json.loads(path.read_text())
    assert sorted(record) == ["level", "msg", "time"]
    assert (record["level"], record["msg"]) == ("error", 'no "x"')
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["time"])


def test_json_with_debug_has_every_record_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(str(path), "json", "", debug=True)
    log.warn("a warning")
    log.debug("detail")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["level"] for record in records] == ["warning", "debug"]
    assert all(record["func"] == "test_json_with_debug_has_every_record_with_its_place" for record in records)
    assert all("test_cli_log.py:" in record["file"] for record in records)


def test_the_file_is_made_with_mode_0644(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_log(str(tmp_path / "log"), "text", "", debug=False)
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("level", "debug", "shown"),
    [
        ("", False, ["warning"]),
        ("error", False, []),
        ("warning", False, ["warning"]),
        ("debug", False, ["warning", "debug"]),
        ("", True, ["warning", "debug"]),
    ],
)
def test_levels(level: str, debug: bool, shown: list[str], tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(str(path), "text", level, debug=debug)
    log.warn("w")
    log.debug("d")
    assert re.findall(r"level=(\w+)", path.read_text()) == shown


@pytest.mark.parametrize(
    ("words", "message"),
    [(("", "xml", ""), "invalid log-format: xml"), (("", "text", "loud"), "invalid log-level: loud")],
)
def test_refused(words: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_log(*words, debug=False)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("service", "received"),
    [
        ("journald:web", b"MESSAGE=oh\nPRIORITY=3\nSYSLOG_IDENTIFIER=web\n"),
        ("syslog:web", b"<27>web: oh"),
        ("syslog:", b"<27>pyruntime: oh"),
    ],
)
def test_services_get_a_datagram(service: str, received: bytes, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(60)
        send(service, "error", "oh", journal=path, syslog=path)
        assert listener.recv(4096) == received


def test_a_service_that_is_not_there_fails_nothing(tmp_path: Path) -> None:
    send("syslog:x", "error", "oh", syslog=str(tmp_path / "none"))


def test_every_level_has_a_place() -> None:
    assert sorted(LEVELS, key=LEVELS.__getitem__) == ["error", "warning", "info", "debug"]
