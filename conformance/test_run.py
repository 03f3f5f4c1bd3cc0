"""conformance/run itself: its table names tests that exist, it reads TAP right, and a failure is told."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

from conformance import oci_validation, report, requirements

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.conformance


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_tests_that_exist():
    missing = []
    for row in requirements.read():
        for test in row.tests:
            file, _, name = test.partition("::")
            path = ROOT / "tests" / file
            if not path.exists() or name not in functions(path):
                missing.append(test)
    assert missing == []


def test_no_row_twice():
    rows = [(row.section, row.text) for row in requirements.read()]
    assert len(rows) == len(set(rows))


def test_a_section_by_its_tests():
    call = subprocess.run([ROOT / "conformance/run", "--section", "bundle"], capture_output=True, text=True, check=False)
    assert call.returncode == 0, call.stdout + call.stderr
    assert call.stdout.startswith("TAP version 13\nok 1 - bundle: Filesystem Bundle: MUST: ")
    assert call.stdout.endswith("1..2\n# 2 hold, 0 do not\n")


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ({"a::b": "passed", "c::d": "passed"}, "passed"),
        ({"a::b": "passed", "c::d": "skipped"}, "skipped"),
        ({"a::b": "failed", "c::d": "passed"}, "failed"),
        ({"a::b": "passed"}, "not run"),
    ],
)
def test_a_row_is_as_good_as_its_worst_test(outcomes, verdict):
    row = requirements.Row("section", "MUST", "text", ("a::b", "c::d"))
    assert requirements.verdict(row, outcomes) == verdict


def test_a_requirement_that_fails_is_told(capsys):
    row = requirements.Row("section", "MUST", "text", ("a::b",))
    tap = report.Tap()
    tap.table([row], {"a::b": "failed"})
    tap.end()
    assert tap.failed == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "not ok 1 - section: MUST: text", "# a::b: failed", "1..1", "# 0 hold, 1 do not",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("out", "code", "passed", "skipped", "failures"),
    [
        ("TAP version 13\nok 1 - a\nok 2 # SKIP b\n1..2\n", 0, 1, 1, ()),
        ("ok 1 - a\nnot ok 2 - b\n  ---\n1..2\n", 0, 1, 0, ("b",)),
        ('  ---\n  {\n    "error": "c\\nRefer to: d"\n  }\n1..0\n', 0, 0, 0, ("c",)),
        ("", 1, 0, 0, ("said",)),
        ("ok 1 - a\n", 1, 1, 0, ("said",)),
    ],
)
def test_tap(out, code, passed, skipped, failures):
    result = oci_validation.read_tap("name", out, "said\nmore\n", code)
    assert result == oci_validation.Result("name", passed, skipped, failures)


def result_of(*failures, passed=0):
    return oci_validation.Result("name", passed, 0, failures)


def test_a_failure_without_a_note_is_not_explained():
    known = [oci_validation.Note("na.*", "b+", "because")]
    rounds = oci_validation.Rounds((result_of("bb", "bb", "c"), result_of("bb")))
    assert oci_validation.explain(rounds, known) == [("bb", 2, "because"), ("c", 1, "")]
    assert all(note.why for note in oci_validation.notes())


def test_the_best_run_counts():
    rounds = oci_validation.Rounds((result_of("b", "c"), result_of("b", passed=1), result_of("b", passed=2)))
    assert (rounds.best, rounds.whole) == (result_of("b", passed=2), 0)
    rounds = oci_validation.Rounds((result_of("b", passed=9), result_of(passed=1)))
    assert (rounds.best, rounds.whole) == (result_of(passed=1), 1)


def test_a_program_that_passes_elsewhere_alone_is_told(capsys):
    ours, theirs = (oci_validation.Rounds((result_of("b"), result_of(*more))) for more in (("b",), ()))
    for runs, failed in ((ours, 0), (theirs, 1)):
        tap = report.Tap()
        tap.validated(report.Validated(ours, oci_validation.explain(ours, [oci_validation.Note("name", "b", "why")]), runs))
        assert tap.failed == failed
    assert "it passes with the other runtime" in capsys.readouterr().out


def test_programs_are_run_and_their_containers_removed(tmp_path):
    """A stand-in for a validation program: it must find RUNTIME, and what it leaves must go."""
    folder = tmp_path / "tree"
    one = folder / "validation/mine/mine.t"
    one.parent.mkdir(parents=True)
    (folder / "runtimetest").touch()
    one.write_text('#!/bin/sh\necho "ok 1 - $($RUNTIME --version | head -1)"\necho "$TMPDIR" >where\n')
    one.chmod(0o755)
    assert oci_validation.programs(folder) == [one]
    result = oci_validation.run(one, str(ROOT / "build/pyruntime"), folder)
    assert (result.passed, result.failures) == (1, ())
    assert not os.path.exists((folder / "where").read_text().strip())
    with pytest.raises(FileNotFoundError, match="no built validation programs"):
        oci_validation.programs(tmp_path)


@pytest.mark.parametrize(("runtimes", "runs", "whole"), [
    (["/bin/true", "/bin/true"], 1, [1, 1]), (["/bin/true"], 1, [1]),
    (["/bin/false", "/bin/false"], 3, [0, 0]), (["/bin/false"], 3, [0]),
    (["/bin/true", "/bin/false"], 5, [5, 0]),
])  # fmt: skip
def test_a_program_that_fails_is_run_again_on_every_runtime(tmp_path, runtimes, runs, whole):
    one = tmp_path / "one.t"
    one.write_text('#!/bin/sh\n$RUNTIME && echo "ok 1 - a" || echo "not ok 1 - a"\n')
    one.chmod(0o755)
    found = oci_validation.compare(one, runtimes, tmp_path, 3, 5)
    assert {len(rounds.results) for rounds in found} == {runs}
    assert [rounds.whole for rounds in found] == whole
