"""How the command line reads: guesses at words that nothing is called, and text that fits the terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pyruntime.cli import terminal
from pyruntime.cli.advice import nearest
from pyruntime.cli.flags import VERBS
from pyruntime.cli.help import help_text

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("word", "meant"),
    [("strat", "start"), ("sttae", "state"), ("lst", "list"), ("feat", "features"), ("delte", "delete"), ("pase", "pause"),
     ("foo", ""), ("stop", ""), ("rm", ""), ("logs", ""), ("", ""), ("x", "")],
)  # fmt: skip
def test_nearest(word: str, meant: str) -> None:
    assert nearest(word, VERBS) == meant


def test_nearest_of_nothing() -> None:
    assert nearest("start", ()) == ""


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [("a bc def", 4, ["a bc", "def"]), ("a bc def", 0, ["a bc def"]), ("abcdefgh i", 4, ["abcdefgh", "i"]), ("", 4, [""])],
)
def test_wrap(text: str, width: int, lines: list[str]) -> None:
    assert terminal.wrap(text, width) == lines


PAIRS = [("--a", "one two three four five six seven"), ("--long", "x")]


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (0, "  --a      one two three four five six seven\n  --long   x\n"),
        (36, "  --a      one two three four five\n           six seven\n  --long   x\n"),
        (30, "  --a\n        one two three four five\n        six seven\n  --long\n        x\n"),
    ],
    ids=str,
)
def test_rows(width: int, text: str) -> None:
    assert terminal.rows(PAIRS, margin=2, gap=3, width=width) == text


@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_fits_the_terminal(name: str) -> None:
    assert help_text(name, 80).split() == help_text(name).split()  # no word is lost
    lines = help_text(name, 80).splitlines()
    assert all(len(line) <= 80 for line in lines), [line for line in lines if len(line) > 80]


def test_columns_of_a_terminal() -> None:
    far, near = pty.openpty()
    try:
        subprocess.run(["stty", "cols", "61"], stdin=near, check=True)
        told = subprocess.run([sys.executable, "-c", "from pyruntime.cli.terminal import columns; import sys; sys.exit(columns())"],
                              stdin=subprocess.DEVNULL, stdout=near, check=False, cwd=REPOSITORY)  # fmt: skip
    finally:
        os.close(near)
        os.close(far)
    assert told.returncode == 61


def test_no_columns_in_a_pipe() -> None:
    program = "from pyruntime.cli.terminal import columns; print(columns())"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=REPOSITORY) == b"0\n"


@pytest.mark.parametrize("words", [["features"], ["list"], ["spec", "-f", "-"]], ids=str)
def test_a_reader_that_goes_is_no_failure(words: list[str], tmp_path: Path) -> None:
    """As in `pyruntime features | head -1`: silence, and the exit code that a shell gives SIGPIPE."""
    here, there = os.pipe()
    os.close(here)
    try:
        ended = subprocess.run([sys.executable, "-m", "pyruntime", "--root", str(tmp_path), *words], stdout=there,
                               stderr=subprocess.PIPE, check=False, cwd=REPOSITORY)  # fmt: skip
    finally:
        os.close(there)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_an_answer_that_cannot_be_written() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run([sys.executable, "-m", "pyruntime", "features"], stdout=full, stderr=subprocess.PIPE,
                               text=True, check=False, cwd=REPOSITORY)  # fmt: skip
    assert ended.returncode == 1
    assert "cannot write to standard output: no space left on device" in ended.stderr
