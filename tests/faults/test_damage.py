"""State of every kind damaged: the processes go, the directory goes, the id is free again (R4, R7, R15)."""

from __future__ import annotations

import os
import random
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults import sweep, tally
from tests.system.leaks import Watch
from tests.system.runtime import reap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

SEED = os.environ.get("PYRUNTIME_SEED", "1")
FILES = ("identity", "state.json", "exec.fifo", "exec.err", "seccomp.bpf")
SAMPLE, ALL = 4, 2 * 13  # for each file


def flip(data: bytes, chance: random.Random) -> bytes:
    """One byte changed."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


def shuffle(data: bytes, chance: random.Random) -> bytes:
    """Two blocks exchanged."""
    at = chance.randrange(1, len(data))
    return data[at:] + data[:at]


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": lambda data, chance: data[: chance.randrange(len(data))],
    "extended": lambda data, chance: data + chance.randbytes(50),
    "a byte changed": flip,
    "garbage": lambda data, chance: chance.randbytes(len(data)),
    "zeros": lambda data, chance: bytes(len(data)),
    "shuffled": shuffle,
    "doubled": lambda data, chance: data + data,
}
KINDS = (*DAMAGE, "missing", "a FIFO", "a dangling link", "a link to itself", "a socket", "unreadable")


def damage(path: Path, kind: str, chance: random.Random) -> None:
    """Do it to one file of a state directory."""
    data = path.read_bytes() if path.is_file() else b"a FIFO has no data of its own"
    if kind == "unreadable":
        path.chmod(0)
        return
    path.unlink()
    if kind in DAMAGE:
        path.write_bytes(DAMAGE[kind](data, chance))
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a dangling link":
        path.symlink_to("/nonexistent/file")
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    elif kind == "a socket":
        os.mknod(path, 0o140600)


def check(runtime: Runtime, bundle: Bundle, name: str, kind: str, chance: random.Random, *, start: bool) -> None:
    """One container, one file of it damaged: every verb ends in good time with words; delete --force removes it."""
    watch = Watch()
    container = runtime.new_id()
    assert runtime("create", "-b", bundle.path, container).code == 0
    if start:
        assert runtime("start", container).code == 0
    damage(runtime.root / container / name, kind, chance)
    for verb in chance.sample(("state", "kill", "start", "pause", "exec"), 2):
        result = runtime(verb, container, *(["true"] if verb == "exec" else []), timeout_s=sweep.LIMIT_S)
        sweep.check_words(sweep.Struck(result, -1))
    result = runtime("delete", "--force", container, timeout_s=sweep.LIMIT_S)
    assert result.code == 0, (name, kind, result)
    left = sweep.settle(watch, runtime)
    assert not left, (name, kind, left)


def run_damage(runtime: Runtime, bundle: Bundle, name: str, number: int, seed: str) -> None:
    """A number of damages to one file; each kind once before any comes again."""
    chance = random.Random(seed)
    kinds = [KINDS[i % len(KINDS)] for i in range(number)] if number >= len(KINDS) else chance.sample(KINDS, number)
    failed = []
    for kind in kinds:
        try:
            start = not name.startswith("exec.") and chance.random() < 0.5  # the FIFOs go with `start`
            check(runtime, bundle, name, kind, chance, start=start)
        except AssertionError as failure:
            failed.append(f"{name}, {kind}: {failure}")
            for container in runtime.ids():
                runtime("delete", "--force", container)
    tally.add(f"{name} damaged, then delete --force", cases=number, failed=len(failed))
    assert not failed, "\n\n".join(failed)


@pytest.mark.parametrize("name", FILES)
def test_sample(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """Some damages of each file, chosen by PYRUNTIME_SEED."""
    run_damage(runtime, make_bundle("sleep 600", sweep.RICH), name, SAMPLE, f"{SEED} {name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_all(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """Every kind of damage several times."""
    run_damage(runtime, make_bundle("sleep 600", sweep.RICH), name, ALL, f"{SEED} {name} all")


def test_a_folder_in_place_of_the_state(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Nothing is removed recursively: the processes go, the folder is named, and when it is gone the rest goes."""
    bundle = make_bundle("sleep 600")
    name = runtime.new_id()
    assert runtime("create", "-b", bundle.path, name).code == 0
    path = runtime.root / name / "state.json"
    path.unlink()
    path.mkdir()
    (path / "precious").write_text("kept")
    result = runtime("delete", "--force", name)
    assert result.code == 1, result
    assert "state.json" in result.err
    sweep.check_words(sweep.Struck(result, -1))
    assert (path / "precious").read_text() == "kept"
    (path / "precious").unlink()
    path.rmdir()
    assert runtime("delete", "--force", name).code == 0
    reap()
    assert runtime.ids() == []


def test_a_stranger_with_the_recorded_pid(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """identity and state.json name a pid that is another process by now: it lives on, the container does not (R7)."""
    name = runtime.new_id()
    assert runtime("create", "-b", make_bundle("sleep 600").path, name).code == 0
    time.sleep(0.05)  # a start time has ticks of 10 ms: by pid and tick a process is known
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        folder = runtime.root / name
        pid = runtime("state", name).out.split('"pid": ')[1].split(",")[0]
        state = (folder / "state.json").read_text()
        (folder / "state.json").write_text(
            state.replace(f'"init_process_pid":{pid}', f'"init_process_pid":{stranger.pid}')
        )
        (folder / "identity").write_bytes((folder / "identity").read_bytes().split(b"\n")[0] + b"\n")
        for verb in ("kill", "pause", "start"):
            result = runtime(verb, name)
            assert result.code == 1, (verb, result)
        assert runtime("delete", "--force", name).code == 0
        reap()
        assert stranger.poll() is None
        assert not os.path.exists(f"/proc/{pid}/exe")
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("name", ["state.json.tmp", "seccomp.bpf.tmp", "identity.tmp"])
def test_a_write_that_was_cut(runtime: Runtime, make_bundle: MakeBundle, name: str) -> None:
    """create was killed between write and rename: the half of a file that it left is ours and goes (R3)."""
    container = runtime.new_id()
    assert runtime("create", "-b", make_bundle("sleep 600").path, container).code == 0
    (runtime.root / container / name).write_bytes(b"half")
    assert runtime("delete", "--force", container).code == 0
    reap()
    assert runtime.ids() == []


@pytest.mark.parametrize("kind", ["half", "link"])
def test_a_pid_file_that_was_cut(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, kind: str) -> None:
    """What a runtime that was killed left beside a pid file, or somebody else put there, stops no later create (R3)."""
    other, beside, path = tmp_path / "other", tmp_path / ".pid", tmp_path / "pid"
    other.write_text("kept")
    if kind == "half":
        beside.write_text("12")
    else:
        beside.symlink_to(other)
    name = runtime.new_id()
    assert runtime("create", "-b", make_bundle("sleep 600").path, "--pid-file", path, name).code == 0
    assert path.read_text() == runtime("state", name).out.split('"pid": ')[1].split(",")[0]
    assert not path.is_symlink()
    assert not os.path.lexists(beside)
    assert other.read_text() == "kept"
    assert runtime("delete", "--force", name).code == 0
    reap()
