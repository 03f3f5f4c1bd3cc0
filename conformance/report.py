"""TAP for the terminal and Markdown for the repository, from the rows of the table and the validation programs."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

from conformance.oci_validation import Explained, Rounds
from conformance.requirements import FAILED, NOT_RUN, PASSED, SKIPPED, Row, verdict


class Validated(NamedTuple):
    """One validation program: our runs, their failures with the reasons, and the other runtime's runs."""

    ours: Rounds
    failures: list[Explained]
    theirs: Rounds | None = None

    @property
    def unexplained(self) -> bool:
        return any(not failure.why for failure in self.failures)

    @property
    def behind(self) -> bool:
        """Whether the other runtime passed and ours never did."""
        return self.theirs is not None and self.theirs.whole > 0 and self.ours.whole == 0


class Tap:
    """The Test Anything Protocol, version 13, as results come in."""

    def __init__(self) -> None:
        self.count = self.failed = 0
        print("TAP version 13")

    def line(self, text: str, *, good: bool, skip: str = "") -> None:
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {text}{f' # SKIP {skip}' if skip else ''}", flush=True)

    def table(self, rows: list[Row], found: dict[str, str]) -> None:
        for row in rows:
            outcome = verdict(row, found)
            skip = (row.why or "its tests were skipped") if outcome == SKIPPED else ""
            self.line(f"{row.section}: {row.level}: {row.text}", good=outcome in (PASSED, SKIPPED), skip=skip)
            if outcome in (FAILED, NOT_RUN):
                print("\n".join(f"# {test}: {found.get(test, NOT_RUN)}" for test in row.tests))

    def validated(self, one: Validated) -> None:
        best = one.ours.best
        good = not one.unexplained and not one.behind
        self.line(f"oci validation: {best.program}: {best.passed} checks passed", good=good)
        if one.behind:
            print("#   it passes with the other runtime")
        for failure in one.failures:
            print(f"#   {failure.failure}{_often(failure, one.ours)}\n#     {failure.why or 'no explanation'}")

    def end(self) -> None:
        print(f"1..{self.count}\n# {self.count - self.failed} hold, {self.failed} do not")


def markdown(rows: list[Row], found: dict[str, str], validated: list[Validated], runtime: str, beside: str) -> str:
    """The whole report; a run of a part of the table makes a report of that part."""
    lines = ["# Conformance report", "",
             f"Made by `conformance/run` on {datetime.now(UTC):%Y-%m-%d}, Linux {os.uname().release}, {_version(runtime)}.",
             "", "## runtime-spec 1.3, every MUST and SHOULD for Linux", "", *_summary(rows, found)]  # fmt: skip
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            lines += ["", f"### {section}", "", "| level | requirement | result | shown by |", "| --- | --- | --- | --- |"]
        shown = "<br>".join(f"`{test}`" for test in row.tests) or row.why
        lines.append(f"| {row.level} | {row.text} | {verdict(row, found)} | {shown} |")
    if validated:
        lines += ["", *_validation(validated, beside)]
    return "\n".join(lines) + "\n"


def _version(runtime: str) -> str:
    call = subprocess.run([runtime, "--version"], capture_output=True, text=True, check=False)
    return call.stdout.partition("\n")[0] or runtime


def _summary(rows: list[Row], found: dict[str, str]) -> list[str]:
    counts = Counter(verdict(row, found) for row in rows)
    return [", ".join(f"{counts[name]} {name}" for name in (PASSED, SKIPPED, FAILED, NOT_RUN) if counts[name]) + "."]


def _validation(validated: list[Validated], beside: str) -> list[str]:
    """The side by side table, then each failure with its reason."""
    name = f" | {_version(beside)}" if beside else ""
    bar = " | ---" if beside else ""
    lines = ["## OCI validation programs", "",
             "Checks passed and failed by each program of opencontainers/runtime-tools. One that failed was run as often as its",
             "cell says on each runtime, by turns; the best run counts.", "",
             f"| program | pyruntime{name} |", f"| --- | ---{bar} |"]  # fmt: skip
    for one in validated:
        other = f" | {_counts(one.theirs)}" if one.theirs is not None else ""
        lines.append(f"| {one.ours.best.program} | {_counts(one.ours)}{other} |")
    lines += ["", "### Failures, and why they are none of the runtime's"]
    for one in validated:
        for failure in one.failures:
            lines += ["", f"- `{one.ours.best.program}`: {failure.failure}{_often(failure, one.ours)}"]
            lines += [f"  {failure.why or '**not explained**'}"]
    return lines


def _often(failure: Explained, rounds: Rounds) -> str:
    """In which part of the runs; nothing for all of them."""
    runs = len(rounds.results)
    return "" if failure.runs == runs else f" (in {failure.runs} of {runs} runs)"


def _counts(rounds: Rounds) -> str:
    best, runs = rounds.best, len(rounds.results)
    failed = f", {len(best.failures)} failed" if best.failures else ""
    again = f", {rounds.whole} of {runs} runs whole" if runs > 1 else ""
    return f"{best.passed} passed{failed}{again}"
