"""The decoder of container-init refuses every plan that is not well formed, before any step runs.

Each row damages one thing in a good plan. The program reports step -1, EINVAL and one word; a plan it accepts would
reach the barrier at its end. Needs no privilege.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyruntime.plan.opcodes import HEADER_SIZE, OPS, STEP_SIZE
from tests.kernel.initkit import PROGRAM, SANITIZED, TREE, Run, Step, build, pack

FUZZ_S = 2
STEPS = [
    Step("umask", 0o22),
    Step("make_path", "/a", 0o755, 0, -1, tolerate=(errno.EBADF,)),
    Step("mount", "tmpfs", "tmpfs", "/a", ("size=4k", "ro"), 0, 0, tolerate=(errno.EBADF,),
         instead=(Step("umask", 1, on_errno=errno.EPERM, retry=True), Step("umask", 2, on_errno=errno.ENOENT))),
    Step("setgroups", b"", tolerate=(errno.EPERM,)),
    Step("barrier", 5),
]


@pytest.fixture(scope="module", params=["plain", "sanitize"])
def program(request: pytest.FixtureRequest) -> Path:
    if request.param == "plain":
        if not PROGRAM.exists():
            pytest.skip("container-init is not built")
        return PROGRAM
    if shutil.which("gcc") is None:
        pytest.skip("no gcc for the build with sanitizers")
    build("sanitize")
    return SANITIZED


def at_header(index: int, value: int) -> Callable[[bytearray], None]:
    """Set the u32 with that index after the hash: 0 steps, 1 steps_offset, 2 pool_offset, 3 pool_size, 4 slots..."""
    return lambda plan: struct.pack_into("<I", plan, 16 + 4 * index, value)


def at_step(index: int, offset: int, kind: str, value: int) -> Callable[[bytearray], None]:
    return lambda plan: struct.pack_into(f"<{kind}", plan, HEADER_SIZE + STEP_SIZE * index + offset, value)


def at_arg(index: int, arg: int, value: int) -> Callable[[bytearray], None]:
    return at_step(index, 8 + 8 * arg, "q", value)


def arg_of(plan: bytes, index: int, arg: int) -> int:
    return int(struct.unpack_from("<q", plan, HEADER_SIZE + STEP_SIZE * index + 8 + 8 * arg)[0])


def in_pool(index: int, arg: int, shift: int, value: int) -> Callable[[bytearray], None]:
    """Change the u32 that lies `shift` bytes behind what an argument points to."""
    return lambda plan: struct.pack_into("<I", plan, arg_of(plan, index, arg) + shift, value)


def unterminated(plan: bytearray) -> None:
    """The last bytes of the pool without NUL, and a text that runs into them."""
    plan[-8:] = b"xxxxxxxx"
    at_arg(1, 0, len(plan) - 4)(plan)


def cut(size: int) -> Callable[[bytearray], None]:
    def change(plan: bytearray) -> None:
        del plan[size:]
    return change


# what is damaged, the word that names it
BAD = [
    (cut(0), "EPROTO"), (cut(47), "EPROTO"), (cut(HEADER_SIZE), "steps"), (cut(HEADER_SIZE + 100), "steps"),
    (lambda plan: struct.pack_into("<I", plan, 0, 0), "magic"),
    (lambda plan: struct.pack_into("<I", plan, 4, 56), "magic"),
    (lambda plan: struct.pack_into("<Q", plan, 8, 1), "layout"),
    (at_header(0, 1 << 31), "steps"), (at_header(0, 0xFFFFFFFF), "steps"), (at_header(1, 0), "steps"),
    (at_header(1, 52), "steps"), (at_header(1, 0xFFFFFFF8), "steps"), (at_header(2, 0), "pool"),
    (at_header(2, 0xFFFFFFFF), "pool"), (at_header(3, 0xFFFFFFFF), "pool"), (at_header(3, 4), "argument"),
    (at_header(4, 0), "slots"), (at_header(4, 1), "slots"), (at_header(4, 1 << 20), "slots"),
    (at_header(5, 2), "slots"), (at_header(5, 1 << 24), "slots"),
    (at_header(6, 1), "flags"), (at_header(7, 1), "flags"),
    (at_step(0, 0, "H", 0), "op"), (at_step(0, 0, "H", 96), "op"), (at_step(0, 0, "H", 0xFFFF), "op"),
    (at_step(0, 0, "H", 99), "op"),
    (at_step(0, 2, "B", 0x80), "alternatives"), (at_step(6, 2, "B", 1), "alternatives"),
    (at_step(2, 2, "B", 5), "alternatives"), (at_step(2, 2, "B", 3), "alternatives"),
    (at_step(3, 2, "B", 1), "alternatives"), (at_step(3, 3, "B", 0), "alternatives"),
    (at_step(0, 3, "B", 2), "alternatives"),
    (at_arg(0, 1, 1), "argument"), (at_arg(0, 5, -1), "argument"),
    (at_arg(1, 0, 0), "argument"), (at_arg(1, 0, 1), "argument"), (at_arg(1, 0, -1), "argument"),
    (at_arg(1, 0, 1 << 40), "argument"), (at_arg(1, 0, (1 << 63) - 1), "argument"), (unterminated, "argument"),
    (at_arg(1, 3, -2), "argument"), (at_arg(1, 3, 16), "argument"), (at_arg(1, 3, 1 << 32), "argument"),
    (in_pool(2, 3, 0, 1 << 30), "argument"), (in_pool(2, 3, 0, 0xFFFFFFFF), "argument"),
    (in_pool(2, 3, 4, 0), "argument"), (in_pool(2, 3, 4, 0xFFFFFFFF), "argument"),
    (in_pool(5, 0, 0, 0xFFFFFFFF), "argument"), (in_pool(5, 0, 0, 1 << 16), "argument"),
    (at_arg(6, 0, 0), "number"), (at_arg(6, 0, 6), "number"), (at_arg(6, 0, 1 << 40), "number"),
]


def run(plan: bytes, program: Path) -> Run:
    started = Run(plan, program=program)
    try:
        while True:
            message = started.receive()
            if message is None or message.type in ("ERROR", "BARRIER"):
                break
        started.host.close()
        return started.wait()
    finally:
        started.close()


def test_the_undamaged_plan_is_accepted(program: Path) -> None:
    ran = run(pack(STEPS), program)
    assert ran.kinds() == ["BARRIER"], ran.messages


@pytest.mark.parametrize(("damage", "word"), BAD, ids=[f"{i}-{word}" for i, (_, word) in enumerate(BAD)])
def test_damage_is_refused(program: Path, damage: Callable[[bytearray], None], word: str) -> None:
    plan = bytearray(pack(STEPS))
    damage(plan)
    ran = run(bytes(plan), program)
    assert ran.kinds() == ["ERROR"], (ran.messages, ran.text())
    assert (ran.error.step, ran.error.errno) == (-1, errno.EINVAL)
    assert ran.error.payload.decode() == ("" if word == "EPROTO" else word)
    assert ran.status == 1


@pytest.mark.parametrize("step", [
    Step("place_fd", 2, 3), Step("place_fd", -1, 1), Step("place_fd", 2, -1), Step("close_from", 2),
    Step("close_from", 4), Step("execve", (), ()), Step("execve", None, ("A=b",)),
    Step("hook", "/bin/true", None, None, 0, (), None), Step("hook", "/bin/true", None, None, 0, ("a", "b", "c"), None), Step("setgroups", b"\1\2\3"),
    Step("seccomp", b"\0" * 9, 0, -1), Step("seccomp", None, 0, -1), Step("barrier", 7),
    Step("mount", "tmpfs", None, None, (), 0, 0), Step("mask", None),
], ids=lambda step: f"{step.op}{step.args}")
def test_dangerous_numbers_and_missing_texts_are_refused(program: Path, step: Step) -> None:
    ran = run(pack([step]), program)
    assert ran.kinds() == ["ERROR"], ran.messages
    assert (ran.error.step, ran.error.errno) == (-1, errno.EINVAL)
    assert ran.error.payload in (b"number", b"argument")


@pytest.mark.parametrize("first", [
    struct.pack("<Iiii", 2, -1, 0, 1),  # FDS before PLAN
    struct.pack("<Iiii", 1, -1, 0, 0),  # announces nothing
    struct.pack("<Iiii", 1, -1, 0, 1) + b"\0" * 8,  # names slots that carry no descriptor
    b"short",
], ids=["fds", "none", "slots", "short"])
def test_a_wrong_first_message_is_refused(program: Path, first: bytes) -> None:
    started = Run(pack(STEPS), program=program, raw_first=first)
    try:
        started.receive()
        assert started.wait().status == 1
        assert (started.error.step, started.error.errno) == (-1, errno.EPROTO)
    finally:
        started.close()


def test_fuzz_the_decoder(tmp_path: Path) -> None:
    """A few seconds of libFuzzer over plans with every op; findings would be files in tmp_path."""
    if shutil.which("clang") is None:
        pytest.skip("no clang for libFuzzer")
    try:
        build("fuzz")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"clang without libFuzzer: {error.stderr.decode()[-200:]}")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    samples = {"int": 1, "slot": 2, "str": "/x", "blob": b"\0" * 8, "strv": ("a", "b=c")}
    for name, (_, args) in OPS.items():
        (corpus / name).write_bytes(pack([Step(name, *(samples[kind] for _, kind in args))]))
    (corpus / "all").write_bytes(pack(STEPS))
    done = subprocess.run([TREE / "csrc" / "fuzz-decode", f"-max_total_time={FUZZ_S}", "-seed=1", "-verbosity=0",
                           f"-artifact_prefix={tmp_path}/", corpus], capture_output=True, check=False, timeout=600,
                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert done.returncode == 0, done.stderr.decode()[-2000:]
