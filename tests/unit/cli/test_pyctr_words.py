"""Docker-style words: GNU flags, letters in one word, and the texts of docker's errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyruntime.cli.flags import BOOL, INT, LIST, TEXT, records
from pyruntime.cli.parse import HelpAsked
from pyruntime.cli.pyctr import commands
from pyruntime.cli.pyctr.main import count_problem
from pyruntime.cli.pyctr.words import parse_words
from pyruntime.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[3]
FLAGS = records((("all", "a", BOOL, False, "", "x"), ("quiet", "q", BOOL, False, "", "x"), ("format", "f", TEXT, "", "", "x"),
                 ("filter", "", LIST, (), "filter", "x"), ("limit", "n", INT, 0, "", "x")))


@pytest.mark.parametrize(("words", "values", "rest"), [
    ("-aq x", {"all": True, "quiet": True}, ("x",)),
    ("x --all=false -f json y", {"all": False, "format": "json"}, ("x", "y")),
    ("-fjson --filter a=b --filter=c=", {"format": "json", "filter": ("a=b", "c=")}, ()),
    ("-aqf=json", {"all": True, "quiet": True, "format": "json"}, ()),
    ("-n 5 -- -a", {"limit": 5, "all": False}, ("-a",)),
    ("- -a", {"all": True}, ("-",)),
], ids=str)
def test_words(words, values, rest):
    parsed = parse_words(FLAGS, words.split())
    assert {key: parsed.values[key] for key in values} == values
    assert parsed.rest == rest


@pytest.mark.parametrize(("words", "message"), [
    ("--nope", "unknown flag: --nope"),
    ("-ax", "unknown shorthand flag: 'x' in -x"),
    ("--format", "flag needs an argument: --format"),
    ("-af", "flag needs an argument: 'f' in -f"),
    ("---a", "bad flag syntax: ---a"),
    ("-n x", 'invalid argument "x" for "-n, --limit" flag: strconv.ParseInt: parsing "x": invalid syntax'),
    ("--filter x", 'invalid argument "x" for "--filter" flag: bad format of filter (expected name=value)'),
    ("--all=2", 'invalid argument "2" for "-a, --all" flag: strconv.ParseBool: parsing "2": invalid syntax'),
], ids=str)
def test_wrong_words(words, message):
    with pytest.raises(UsageError) as error:
        parse_words(FLAGS, words.split())
    assert str(error.value) == message


def test_help_and_the_end_of_flags():
    with pytest.raises(HelpAsked):
        parse_words(FLAGS, ["-ah"])
    assert parse_words(FLAGS, ["x", "-a"], stops=1).rest == ("x", "-a")


def test_a_command_keeps_its_flags():
    parsed = parse_words(FLAGS, ["x", "-a", "y", "sh", "-c", "z"], stops=3)
    assert (parsed.rest, parsed.values["all"]) == (("x", "y", "sh", "-c", "z"), True)


@pytest.mark.parametrize(("least", "most", "count", "problem"), [
    (1, 1, 0, "requires 1 argument"), (2, 2, 1, "requires 2 arguments"), (0, 0, 1, "accepts no arguments"),
    (1, -1, 0, "requires at least 1 argument"), (0, 1, 2, "requires at most 1 argument"), (1, 2, 3, "requires at most 2 arguments"),
    (1, 2, 0, "requires at least 1 argument"),
    (1, -1, 4, ""),
])
def test_counts(least, most, count, problem):
    assert count_problem(commands.Command("x", "", least, most, "", (), ""), count) == problem


@pytest.mark.parametrize("name", [*commands.ROWS, *commands.ALIASES])
def test_the_table_is_sound(name):
    from importlib import import_module

    found = commands.command(name)
    module, _, function = found.function.partition(".")
    assert callable(getattr(import_module(f"pyruntime.cli.pyctr.{module}"), function))
    letters = [flag.short for flag in found.flags if flag.short]
    assert len(letters) == len(set(letters))
    assert commands.find(name.split())[0] == found


@pytest.mark.parametrize("words", [["help"], ["pull", "--help"], ["--version"]], ids=str)
def test_an_answer_that_nobody_reads(words):
    """Silence when the reader has gone, a line when there is no room."""
    call = [sys.executable, "-c", "from pyruntime.cli.pyctr.main import entry; entry()", *words]
    here, there = os.pipe()
    os.close(here)
    gone = subprocess.run(call, stdout=there, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY)
    os.close(there)
    assert (gone.returncode, gone.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        failed = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, check=False, cwd=REPOSITORY)
    assert (failed.returncode, failed.stderr) == (1, b"cannot write to standard output: no space left on device\n")
