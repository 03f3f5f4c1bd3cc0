"""What a transfer tells as lines of the API, and names as the API takes them."""

from __future__ import annotations

import pytest

from pyruntime.engine.body import BodyReader
from pyruntime.engine.images import boolean, matches, wanted_reference
from pyruntime.engine.transfers import Lines, bar, platform_of, progress_line, pulled_reference
from pyruntime.errors import EngineError
from pyruntime.image.progress import Progress
from pyruntime.image.reference import parse_reference


@pytest.mark.parametrize(("progress", "line"), [
    (Progress("", "Digest: x"), {"status": "Digest: x"}),
    (Progress("latest", "Pulling from a/b"), {"status": "Pulling from a/b", "id": "latest"}),
    (Progress("aa", "Waiting"), {"status": "Waiting", "progressDetail": {}, "id": "aa"}),
    (Progress("aa", "Downloading", 500, 1000), {"status": "Downloading", "progressDetail": {"current": 500, "total": 1000},
                                                "progress": "[=========================>                         ]     500B/1kB", "id": "aa"}),
])
def test_lines(progress, line):
    assert progress_line(progress) == line


def test_a_full_bar():
    assert bar(2_000_000, 2_000_000) == f"[{'=' * 50}>]      2MB/2MB"


def test_the_first_line_waits_for_the_registry_s_answer():
    told = []
    lines = Lines(told.append)
    lines(Progress("1", "Pulling from a/b"))
    assert told == []
    lines(Progress("aa", "Pulling fs layer"))
    assert [line["status"] for line in told] == ["Pulling from a/b", "Pulling fs layer"]


@pytest.mark.parametrize(("name", "label", "text"), [
    ("x", "1", "docker.io/library/x:1"), ("x:2", "", "docker.io/library/x:2"), ("x", "", "docker.io/library/x"),
    ("h:5/a", f"sha256:{'a' * 64}", f"h:5/a@sha256:{'a' * 64}"),
])
def test_pulled(name, label, text):
    assert str(pulled_reference(name, label)) == text


@pytest.mark.parametrize(("repository", "label", "text"), [("x", "", "x:latest"), ("x:1", "", "x:1"), ("x", "2", "x:2"), ("docker.io/library/x", "2", "x:2")])
def test_tagged(repository, label, text):
    assert wanted_reference(repository, label).familiar == text


@pytest.mark.parametrize(("text", "found"), [("", "None"), ("linux/arm64", "linux/arm64"), ('{"os":"linux","architecture":"arm","variant":"v6"}', "linux/arm/v6")])
def test_platforms(text, found):
    assert str(platform_of(text)) == found


def test_a_platform_that_is_broken():
    with pytest.raises(EngineError, match="invalid platform"):
        platform_of("{")


@pytest.mark.parametrize(("name", "pattern", "fits"), [
    ("x:1", "x", True), ("x:1", "x:1", True), ("x:1", "x:*", True), ("x:1", "*", True), ("a/x:1", "*", False), ("a/x:1", "a/*", True), ("a/x:1", "a/x:2", False),
    ("h:5/a/x:1", "h:5/*/x", True),
])
def test_patterns(name, pattern, fits):
    assert matches(parse_reference(name), [pattern]) is fits


def test_booleans_of_filters():
    assert [boolean({"d": values}, "d") for values in ([], ["true"], ["1", "t"], ["false"])] == [None, True, True, False]
    for values in (["maybe"], ["true", "false"]):
        with pytest.raises(EngineError, match="invalid filter"):
            boolean({"d": values}, "d")


def test_pieces_as_a_file():
    reader = BodyReader([b"abc", b"", b"de"])
    assert [reader.read(2) for _ in range(5)] == [b"ab", b"c", b"de", b"", b""]
