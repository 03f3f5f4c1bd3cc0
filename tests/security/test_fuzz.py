"""Bytes that nobody wrote on purpose: parsers in C under libFuzzer, config.json under hypothesis, all C under analysis."""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import sweep
from tests.kernel.initkit import Step, pack
from tests.system.bundle import BASE
from tests.system.leaks import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

TREE = Path(__file__).resolve().parents[2]
FUZZ_S = 3
ROOM = "/dev/shm"
PASSWD = (b"\0root:x:0:0:root:/root:/bin/sh\n", b"\1a:x:1:1::/a/b/c:\n\n::::::\n", b"\2" + b"x" * 5000 + b"\nb:x:2:2:b:/b:\n")
PATHS = (
    b"\0\0a/b/c\0x\0/abs/y\0z\0../../up/q", b"\20\0d/e/l/m\0l\0/d/x\0x\0abs/../k", b"\0\1abs/new\0", b"\0\0up/new\0l\0up",
    b"\0\0" + b"deep/" * 300 + b"\0", b"\1\0l\0l\0l\0",
)  # fmt: skip
PROC = (b"\1self/oom_score_adj", b"\1sys/kernel/domainname", b"\1thread-self/attr/exec", b"\2self/../1/comm", b"\0" + b"\0" * 7 + b"\x80")


def messages() -> tuple[bytes, ...]:
    """What a host sends: plan and descriptors, more of them, releases; and the same in the wrong order."""
    plan = pack([Step("barrier", 5), Step("close_slot", 1), Step("chdir", "/")])

    def record(kind: int, value: int, fds: int, slots: bytes = b"") -> bytes:
        content = struct.pack("<Iiii", kind, -1, 0, value) + slots
        return struct.pack("<BH", fds, len(content)) + content

    head, slot = struct.pack("<H", len(plan)) + plan, struct.pack("<I", 1)
    return (
        b"\1\5" + head + record(1, 1, 1) + record(3, 5, 0),
        b"\2\x85" + head + record(1, 3, 2, slot) + record(2, 1, 1, slot) + record(3, 5, 0),
        b"\2\4" + head + record(1, 2, 2, struct.pack("<I", 4000)) + record(2, 9, 9, slot * 9),
        b"\0\1" + head + record(3, 1, 0),
        b"\1\1" + struct.pack("<H", 8) + b"too tiny" + record(1, 1, 1),
    )


def make(target: str) -> subprocess.CompletedProcess[str]:
    """A target of csrc/Makefile."""
    return subprocess.run(
        ["make", "-s", "-C", TREE / "csrc", target], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize(("target", "seeds", "longest"), [
    ("passwd", lambda: PASSWD, 16384),  # S27: the container's /etc/passwd
    ("path", lambda: PATHS, 2000),  # S1, S20, S23: names below the root
    ("proc", lambda: PROC, 300),  # S2, S21: writes meant for procfs
    ("wire", messages, 16384),  # S13: the socket to the host and the descriptors that come by it
], ids=["passwd", "path", "proc", "wire"])  # fmt: skip
def test_parsers_of_container_init(tmp_path: Path, target: str, seeds: Callable[[], tuple[bytes, ...]], longest: int) -> None:
    """A few seconds of libFuzzer each, with address and undefined-behaviour sanitizers; S27, S1, S2, S13, S20, S21, S23."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    built = make(f"fuzz-{target}")
    if built.returncode != 0:
        pytest.skip(f"needs libFuzzer (Debian: libclang-rt-dev): {built.stderr[-200:]}")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, text in enumerate(seeds()):
        (corpus / str(number)).write_bytes(text)
    options = [f"-max_total_time={FUZZ_S}", "-seed=1", f"-max_len={longest}", f"-artifact_prefix={tmp_path}/"]
    with tempfile.TemporaryDirectory(dir=ROOM if os.access(ROOM, os.W_OK) else None) as room:
        done = subprocess.run(
            [TREE / f"csrc/fuzz-{target}", *options, corpus],
            capture_output=True,
            check=False,
            timeout=300,
            cwd=room,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
        )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]


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
    run_examples(runtime, make_bundle("sleep 600"), 40)


@pytest.mark.slow
@pytest.mark.system
def test_many_damaged_configurations(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R1, R2: many of them."""
    run_examples(runtime, make_bundle("sleep 600"), 500)
