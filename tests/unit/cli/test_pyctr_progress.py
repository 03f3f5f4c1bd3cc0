"""Progress: lines on a terminal in the order of docker's, plain ones in a pipe. The terminal is a real one."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from pyruntime.cli.pyctr import progress

REPOSITORY = Path(__file__).resolve().parents[3]
DIGEST = f"Digest: sha256:{'a' * 64} and more words than the terminal is wide"
LINES = [
    {"status": "Pulling from big", "id": "1"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "one"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "two"},
    {"status": "Downloading", "progressDetail": {"current": 5_000_000, "total": 20_000_000}, "id": "two"},
    {"status": "Pull complete", "progressDetail": {}, "id": "one"},
    {"status": "Pull complete", "progressDetail": {}, "id": "two"},
    {"status": "Pulling from big", "id": "2"},
    {"status": DIGEST},
    {"aux": {"Tag": "1"}},
    {"stream": "Loaded image: x\n"},
]
SHOWN = ["1: Pulling from big", "one: Pull complete", "two: Pull complete", "2: Pulling from big", DIGEST, "Loaded image: x"]
PROGRAM = """
import json, sys
from pyruntime.cli.pyctr.progress import follow
assert follow(json.loads(sys.argv[1])) == [{"Tag": "1"}]
"""


def on_terminal(columns: int, **environment: str) -> str:
    """All that a terminal of that width gets: until its last writer has gone, in as many pieces as the kernel gives."""
    far, near = pty.openpty()
    text = b""
    try:
        subprocess.run(["stty", "cols", str(columns)], stdin=near, check=True)
        with subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(LINES)], stdout=near, stdin=subprocess.DEVNULL,
                              cwd=REPOSITORY, env={**os.environ, "TERM": "xterm", **environment}) as call:  # fmt: skip
            os.close(near)
            with suppress(OSError):  # the end of a terminal
                while piece := os.read(far, 1 << 16):
                    text += piece
        assert call.returncode == 0
        return text.decode().replace("\r\n", "\n")
    finally:
        os.close(far)


@pytest.mark.parametrize("columns", [80, 30, 8])
def test_what_stays_on_the_terminal_is_whole_and_in_order(columns: int) -> None:
    text = on_terminal(columns)
    assert re.split(r"\x1b\[[0-9;?]*[A-Za-z]", text)[-1].splitlines() == SHOWN
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


def test_a_dumb_terminal_gets_plain_lines() -> None:
    text = on_terminal(80, TERM="dumb")
    assert "\x1b" not in text
    assert text.splitlines()[-1] == "Loaded image: x"


def test_no_colour_when_it_is_not_wanted() -> None:
    assert not re.search(r"\x1b\[[0-9;]+m", on_terminal(80, NO_COLOR="1"))


def test_plain_lines_have_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    progress.follow(LINES)
    assert capsys.readouterr().out.splitlines() == [
        "1: Pulling from big", "one: Pulling fs layer", "two: Pulling fs layer", "one: Pull complete", "two: Pull complete",
        "2: Pulling from big", DIGEST, "Loaded image: x"]  # fmt: skip


def test_quiet_is_silent_but_for_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.follow(LINES, quiet=True) == [{"Tag": "1"}]
    with pytest.raises(progress.WorkFailed, match="it broke"):
        progress.follow([{"errorDetail": {"message": "it broke"}, "error": "it broke"}], quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (80, "two: Downloading ━━━━━━━━━━                               5MB/20MB"),
        (40, "two: Downloading ━━━           5MB/20MB"),
        (30, "two: Downloading 5MB/20MB"),
    ],
    ids=str,
)
def test_a_bar_takes_the_room_there_is(width: int, row: str) -> None:
    screen = progress.Screen()
    screen._console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), width=width, force_terminal=False)
    line = LINES[3]
    text = screen._row(progress.text_of(line), *progress.figures(line), len("two: Downloading"))
    assert text.plain == row
