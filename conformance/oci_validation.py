"""Runs the validation programs of opencontainers/runtime-tools and reads their TAP.

The programs are built elsewhere (README.md says how) and given as a directory. RUNTIME names the runtime; each program
makes its bundles below TMPDIR and is ended after a minute. A program that fails is run again several times, on
every runtime alike, for some of them are races: each runtime is judged by its best run. Nothing in this file knows a single
program: what is known of their failures stands in validation.toml, judged by the specification.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NOTES = Path(__file__).resolve().parent / "validation.toml"
TIMEOUT_S = 60


class Result(NamedTuple):
    """What one program said of one runtime. `failures`: the descriptions of its `not ok` lines and of what ended it."""

    program: str
    passed: int
    skipped: int
    failures: tuple[str, ...]


class Rounds(NamedTuple):
    """All runs of one program on one runtime; at least one."""

    results: tuple[Result, ...]

    @property
    def best(self) -> Result:
        """The run with the fewest failures, and of those the one with the most checks."""
        return min(self.results, key=lambda result: (len(result.failures), -result.passed))

    @property
    def whole(self) -> int:
        """How many of the runs passed."""
        return sum(not result.failures for result in self.results)


class Explained(NamedTuple):
    """A failure, in how many of the runs it came, and why it is none of the runtime's: "" when nothing explains it."""

    failure: str
    runs: int
    why: str


class Note(NamedTuple):
    """Why a failure is not one of the runtime. `program` and `check` are regular expressions: its name, what it said."""

    program: str
    check: str
    why: str


def programs(folder: Path) -> list[Path]:
    """The built programs of a tree of runtime-tools, by name. Raises FileNotFoundError when there are none."""
    found = sorted((folder / "validation").glob("*/*.t"), key=lambda path: path.name)
    if not found or not (folder / "runtimetest").exists():
        raise FileNotFoundError(f"{folder}: no built validation programs; `make runtimetest validation-executables`")
    return found


def run(program: Path, runtime: str, folder: Path) -> Result:
    """One program against one runtime, with a temporary directory and a state root of its own."""
    temporary = Path(tempfile.mkdtemp(prefix="oci-validation-"))
    wrapper = temporary / "runtime"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(runtime)} --root {temporary}/state "$@"\n')
    wrapper.chmod(0o755)
    env = {**os.environ, "RUNTIME": str(wrapper), "TMPDIR": str(temporary)}
    # What a runtime leaves mounted goes with the namespace.
    call = subprocess.Popen(["unshare", "--mount", program], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)  # fmt: skip
    try:
        out, err = call.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(call.pid, signal.SIGKILL)
        out, err = call.communicate()
        err += f"\nended after {TIMEOUT_S} s"
    finally:
        _clean_up(wrapper, temporary)
    return read_tap(program.stem, out, err, call.returncode)


def compare(program: Path, runtimes: Sequence[str], folder: Path, rounds: int, most: int) -> list[Rounds]:
    """Runs on each runtime, by turns: one; `rounds` when it fails on any; up to `most` while it has passed on some alone."""
    found: list[list[Result]] = [[] for _ in runtimes]
    while True:
        for runtime, results in zip(runtimes, found, strict=True):
            results.append(run(program, runtime, folder))
        done = len(found[0])
        passed = sum(any(not result.failures for result in results) for results in found)
        flawless = done == 1 and passed == len(runtimes)
        if flawless or (done >= rounds and passed in (0, len(runtimes))) or done >= max(rounds, most):
            return [Rounds(tuple(results)) for results in found]


def _clean_up(wrapper: Path, temporary: Path) -> None:
    """Some programs leave their containers behind, whatever the runtime."""
    state = temporary / "state"
    for entry in sorted(state.iterdir()) if state.exists() else ():
        subprocess.run([wrapper, "delete", "--force", entry.name], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(temporary, ignore_errors=True)


def read_tap(name: str, out: str, err: str, code: int) -> Result:
    """A Result from TAP, from the YAML of an error that was printed without a test line, and from the exit code."""
    good = re.findall(r"^ok \d+ ?(.*)$", out, re.MULTILINE)
    bad = [text.removeprefix("- ") for text in re.findall(r"^not ok \d+ ?(.*)$", out, re.MULTILINE)]
    if not good and not bad:
        bad += re.findall(r'^\s*"error": "(.*?)(?:\\n.*)?"$', out, re.MULTILINE)
    if code:
        lines = [line for line in err.splitlines() if line.strip() and not line.startswith("exit status")]
        bad.append(lines[0] if lines else f"exit status {code}")
    skipped = sum("# SKIP" in text for text in good)
    return Result(name, len(good) - skipped, skipped, tuple(bad))


def notes(path: Path = NOTES) -> list[Note]:
    """The known failures."""
    return [Note(**entry) for entry in tomllib.loads(path.read_text())["failure"]]


def explain(rounds: Rounds, known: list[Note]) -> list[Explained]:
    """Every failure that any of the runs had, in the order in which they came."""
    seen = Counter(failure for result in rounds.results for failure in dict.fromkeys(result.failures))
    name = rounds.best.program
    explained = []
    for failure, runs in seen.items():
        why = [note.why for note in known if re.fullmatch(note.program, name) and re.search(note.check, failure)]
        explained.append(Explained(failure, runs, why[0] if why else ""))
    return explained
