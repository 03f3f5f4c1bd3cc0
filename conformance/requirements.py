"""The table of runtime-spec's requirements (requirements.toml) and what our own tests say of each.

A Row is what one sentence of the specification asks for. `results` runs the tests that the rows name, once each, and
`verdict` gives the worst of a row's tests: a requirement holds when every test that shows it passes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).resolve().parent / "requirements.toml"
PASSED, SKIPPED, FAILED, NOT_RUN = "passed", "skipped", "failed", "not run"
ORDER = (PASSED, SKIPPED, NOT_RUN, FAILED)  # from best to worst


class Row(NamedTuple):
    """One requirement. `tests`: PATH::FUNCTION below tests/; `why`: the reason when there is nothing to test."""

    section: str
    level: str
    text: str
    tests: tuple[str, ...]
    why: str = ""


def read(path: Path = TABLE) -> list[Row]:
    """The rows in the table's order. Raises ValueError for a row of another shape."""
    rows = []
    for section in tomllib.loads(path.read_text())["section"]:
        for row in section["rows"]:
            if len(row) not in (3, 4) or bool(row[2]) == (len(row) == 4):
                raise ValueError(f"{section['name']}: a row has tests, or a reason for having none: {row}")
            rows.append(Row(section["name"], row[0], row[1], tuple(row[2]), *row[3:]))
    return rows


def results(tests: list[str]) -> dict[str, str]:
    """What each named test came to: the worst of its parameters; a test that pytest does not find is NOT_RUN."""
    files = sorted({test.partition("::")[0] for test in tests})
    names = sorted({test.partition("::")[2] for test in tests})
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # By function name, so that a test that is gone is a row of the report, not an error of pytest.
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", "-k", " or ".join(names),
                   *(f"tests/{file}" for file in files if (ROOT / "tests" / file).exists())]  # fmt: skip
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        cases = ET.parse(report).getroot().iter("testcase") if report.exists() else ()
        for case in cases:
            module = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            key = f"{module}.py::{case.get('name', '').partition('[')[0]}"
            found[key] = worst([found.get(key, PASSED), _outcome(case)])
    return {test: found.get(test, NOT_RUN) for test in tests}


def _outcome(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return FAILED
    return SKIPPED if case.find("skipped") is not None else PASSED


def worst(outcomes: list[str]) -> str:
    """The one that counts. One skipped parameter among passed ones does not make a requirement unshown."""
    shown = [outcome for outcome in outcomes if outcome != SKIPPED] or outcomes
    return max(shown, key=ORDER.index)


def verdict(row: Row, found: dict[str, str]) -> str:
    """PASSED, FAILED, SKIPPED or NOT_RUN for a row; a row without tests is SKIPPED."""
    outcomes = [found.get(test, NOT_RUN) for test in row.tests]
    return max(outcomes, key=ORDER.index) if outcomes else SKIPPED
