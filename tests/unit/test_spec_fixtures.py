"""Every configuration of spec-fixtures gives the errors, and only the errors, that are listed for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pyruntime.errors import SpecError
from pyruntime.spec.document import load
from pyruntime.spec.parse import inspect, parse_spec
from pyruntime.spec.validate import validate_document

FIXTURES = Path(__file__).resolve().parents[2] / "spec-fixtures"
EXPECTED = json.loads((FIXTURES / "bad" / "expected.json").read_text())
BAD = sorted(path for path in (FIXTURES / "bad").glob("*.json") if path.stem != "expected")
GOOD = sorted((FIXTURES / "good").glob("*.json"))

# contract 1.7: docker and podman look for these in the whole text, so that no hint may hold one
LADDER = re.compile(r"permission denied|is a directory|not a directory|executable file not found|"
                    r"no such file or directory|operation not permitted|open executable", re.IGNORECASE)


def test_every_bad_file_is_listed():
    assert {path.stem for path in BAD} == set(EXPECTED)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_is_refused_at_the_listed_places(path):
    report = validate_document(path.read_bytes())
    places = [violation.field for violation in report.errors]
    assert sorted(places) == sorted(EXPECTED[path.stem])


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_says_one_short_line_with_a_hint(path):
    report = validate_document(path.read_bytes())
    for violation in report.errors + report.warnings:
        assert violation.message.isprintable()
        assert len(violation.message) < 300
        assert violation.hint.isprintable()
        assert violation.hint
        assert not LADDER.search(violation.hint)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_create_refuses_what_the_rules_refuse(path):
    document = load(path.read_bytes())
    errors = inspect(document).errors
    if not errors:
        parse_spec(document)
        return
    with pytest.raises(SpecError) as caught:
        parse_spec(document)
    assert caught.value.violations == errors
    assert str(caught.value) == errors[0].message


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_has_no_errors(path):
    report = validate_document(path.read_bytes())
    assert report.errors == ()
    assert report.spec == parse_spec(load(path.read_bytes()))


def test_unknown_keys_are_named_with_the_nearest_known_one():
    report = validate_document((FIXTURES / "good" / "unknown-keys.json").read_bytes())
    assert {violation.field: violation.hint for violation in report.warnings} == {
        "/com.example.extension": "it is ignored",
        "/linux/namespace": 'did you mean "namespaces"?',
        "/process/noNewPriviledges": 'did you mean "noNewPrivileges"?',
        "/root/readOnly": 'case counts: write "readonly"',
    }
