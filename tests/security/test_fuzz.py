"""Bytes that nobody wrote on purpose: parsers in C under libFuzzer, config.json under hypothesis, all C under analysis."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import sweep
from tests.system.bundle import BASE
from tests.system.leaks import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

TREE = Path(__file__).resolve().parents[2]
FUZZ_S = 3
LINES = (b"\0root:x:0:0:root:/root:/bin/sh\n", b"\1a:x:1:1::/a/b/c:\n\n::::::\n", b"\2" + b"x" * 5000 + b"\nb:x:2:2:b:/b:\n")


def make(target: str) -> subprocess.CompletedProcess[str]:
    """A target of csrc/Makefile."""
    return subprocess.run(
        ["make", "-s", "-C", TREE / "csrc", target], capture_output=True, text=True, check=False, timeout=600
    )


def test_passwd_of_the_image(tmp_path: Path) -> None:
    """S27: the parser of the container's /etc/passwd, with address and undefined-behaviour sanitizers."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    built = make("fuzz-passwd")
    if built.returncode != 0:
        pytest.skip(f"needs libFuzzer (Debian: libclang-rt-dev): {built.stderr[-200:]}")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, text in enumerate(LINES):
        (corpus / str(number)).write_bytes(text)
    options = [f"-max_total_time={FUZZ_S}", "-seed=1", "-max_len=16384", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(
        [TREE / "csrc/fuzz-passwd", *options, corpus],
        capture_output=True,
        check=False,
        timeout=300,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


@pytest.mark.slow
def test_static_analysis() -> None:
    """gcc -fanalyzer and clang-tidy find nothing in any C file."""
    for tool in ("gcc", "clang-tidy"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    done = make("analyze")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


# --- config.json ----------------------------------------------------------------------------------------------------
CHAPTERS = ("process", "mounts", "linux", "hostname", "annotations")  # not the rootfs and not what runs on the host
NUMBERS = st.integers(-(1 << 65), 1 << 65) | st.sampled_from([0, 1, -1, (1 << 32) - 1, 1 << 31, 1 << 63])
TEXTS = st.text(max_size=6) | st.sampled_from(["/", "/proc", "/dev", "..", "/proc/self/fd", "a", "rbind", "mount", "user"])
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


@st.composite
def damaged(draw: Any) -> dict[str, Any]:
    """A good configuration with one to three of its values replaced."""
    document = json.loads(json.dumps({**copy.deepcopy(BASE), "hostname": "h", "annotations": {"a": "b"}}))
    document["linux"] |= {"sysctl": {"kernel.msgmax": "1"}, "maskedPaths": ["/proc/keys"], "resources": {"pids": {"limit": 9}}}
    document["process"] |= {"rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "capabilities": {"bounding": []}}
    for _ in range(draw(st.integers(1, 3))):
        place = document
        key: Any = draw(st.sampled_from(CHAPTERS))
        while isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 5)):
            place = place[key]
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place[key] = draw(VALUES)
    return document


def check(runtime: Runtime, bundle: Bundle, document: dict[str, Any]) -> None:
    """create says yes, or says why not in words and leaves nothing; delete --force removes the rest."""
    watch = Watch()
    name = runtime.new_id()
    (bundle.path / "config.json").write_text(json.dumps(document))
    result = runtime("create", "-b", bundle.path, name)
    sweep.check_words(sweep.Struck(result, -1))
    if result.code != 0:
        assert not (left := sweep.settle(watch, runtime)), (left, result)
    assert runtime("delete", "--force", name).code == 0
    assert not (left := sweep.settle(watch, runtime)), (left, result)


def run_examples(runtime: Runtime, bundle: Bundle, number: int) -> None:
    """So many documents, the same in every run."""

    @settings(max_examples=number, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(damaged())
    def one(document: dict[str, Any]) -> None:
        check(runtime, bundle, document)

    one()


@pytest.mark.system
def test_damaged_configurations(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R1, R2: never a traceback, never anything left."""
    run_examples(runtime, make_bundle("sleep 60"), 40)


@pytest.mark.slow
@pytest.mark.system
def test_many_damaged_configurations(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R1, R2: many of them."""
    run_examples(runtime, make_bundle("sleep 60"), 500)
