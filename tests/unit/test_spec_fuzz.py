"""Whatever the bytes or the document: SpecError or a Spec, never another exception."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.errors import SpecError
from pyruntime.spec.document import dump, load
from pyruntime.spec.ids import UsageError, check_container_id, parse_duration_s, parse_size, parse_user
from pyruntime.spec.parse import inspect, parse_process, parse_resources, parse_spec

GOOD = [json.loads(path.read_text())
        for path in sorted((Path(__file__).resolve().parents[2] / "spec-fixtures" / "good").glob("*.json"))]


def words(node):
    """All keys and texts of the good fixtures: what a document has to be made of to get past the first check."""
    if type(node) is dict:
        for key, value in node.items():
            yield key
            yield from words(value)
    elif type(node) is list:
        for value in node:
            yield from words(value)
    elif type(node) is str:
        yield node


WORDS = sorted(set(words(GOOD)))
texts = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
numbers = st.integers() | st.sampled_from([0, 1, -1, (1 << 32) - 1, 1 << 32, 1 << 63, 1 << 64, 10 ** 30])
leaves = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=5),
                      max_leaves=25)
documents = st.dictionaries(texts, values, max_size=8)


@st.composite
def damaged(draw):
    """A good configuration with some of its values replaced by anything."""
    document = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    for _ in range(draw(st.integers(1, 4))):
        place = document
        while True:
            keys = list(place) if type(place) is dict else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if type(place[key]) not in (dict, list) or draw(st.integers(0, 3)) == 0:
                place[key] = draw(values)
                break
            place = place[key]
    return document


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(data):
    try:
        document = load(data)
    except SpecError as error:
        assert str(error).isprintable()
    else:
        assert document == json.loads(data)


@given(st.text('{}[]",:\\0 etrufalsn', max_size=60))
def test_nearly_json(text):
    try:
        ours = load(text.encode())
    except SpecError:
        ours = None
    try:
        theirs = json.loads(text)
    except ValueError:
        theirs = None
    assert ours == (theirs if type(theirs) is dict else None)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents | damaged())
def test_any_document(document):
    findings = inspect(document)
    assert (findings.spec is None) == bool(findings.errors)
    for violation in findings.errors + findings.strict + findings.warnings:
        assert violation.message.isprintable()
        assert len(violation.message) < 8000
        assert violation.hint.isprintable()
        assert violation.value.isprintable()
        resolves(document, violation.field)
    for parse in (parse_spec, parse_process, parse_resources):
        try:
            parse(document)
        except SpecError as error:
            assert error.violations
    assert load(dump(document).encode()) == document


def resolves(document, pointer):
    """Every step of the pointer but the last leads to a value; the last may be the one that is missing."""
    place = document
    for step in pointer.split("/")[1:-1]:
        key = step.replace("~1", "/").replace("~0", "~")
        place = place.get(key, {}) if type(place) is dict else place[int(key)] if type(place) is list else {}
    assert type(place) in (dict, list), pointer


@given(st.text(max_size=20))
def test_any_argument(text):
    for parse in (check_container_id, parse_user, parse_size, parse_duration_s):
        try:
            parse(text)
        except UsageError as error:
            assert str(error).isprintable()
