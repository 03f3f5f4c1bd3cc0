"""TAP for the terminal and Markdown for the repository, from the rows of the table and the validation programs."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

from conformance.oci_validation import Result
from conformance.requirements import FAILED, NOT_RUN, PASSED, SKIPPED, Row, verdict


class Validated(NamedTuple):
    """One validation program: our result, its failures with their reasons ("" for none), and the other runtime's."""

    ours: Result
    failures: list[tuple[str, str]]
    theirs: Result | None

    @property
    def unexplained(self) -> bool:
        return any(not why for _, why in self.failures)


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
        self.line(f"oci validation: {one.ours.program}: {one.ours.passed} checks passed", good=not one.unexplained)
        for failure, why in one.failures:
            print(f"#   {failure}\n#     {why or 'no explanation'}")

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
             "Checks passed and failed by each program of opencontainers/runtime-tools.", "",
             f"| program | pyruntime{name} |", f"| --- | ---{bar} |"]  # fmt: skip
    for one in validated:
        other = f" | {_counts(one.theirs)}" if one.theirs is not None else ""
        lines.append(f"| {one.ours.program} | {_counts(one.ours)}{other} |")
    lines += ["", "### Failures, and why they are none of the runtime's"]
    for one in validated:
        for (failure, why), times in Counter(one.failures).items():
            often = f" ({times} times)" if times > 1 else ""
            lines += ["", f"- `{one.ours.program}`: {failure}{often}", f"  {why or '**not explained**'}"]
    return lines


def _counts(result: Result) -> str:
    failed = f", {len(result.failures)} failed" if result.failures else ""
    return f"{result.passed} passed{failed}"
