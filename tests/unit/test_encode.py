"""encode and decode: the bytes that container-init reads."""

from __future__ import annotations

import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.plan.encode import HEADER, STEP, decode, encode
from pyruntime.plan.layout import LAYOUT_HASH
from pyruntime.plan.opcodes import HEADER_SIZE, MAGIC, OPS, RETRY, STEP_SIZE
from pyruntime.plan.order import compile_plan
from pyruntime.plan.step import Deferred, HostStep, Options, Plan, Step
from pyruntime.spec.parse import parse_spec
from tests.plan_samples import BUNDLE, CGROUPS, documents, hosts, plan

NAME = st.binary(max_size=8).filter(lambda raw: b"\0" not in raw)  # any bytes can be a file name
TEXT = NAME.map(lambda raw: raw.decode("utf-8", "surrogateescape"))
NUMBER = st.integers(-(1 << 63), (1 << 63) - 1)

KINDS = {
    "int": NUMBER,
    "slot": st.integers(-1, 5),
    "str": st.one_of(TEXT, st.sampled_from(["/a", "/a", "/\udcff"])),
    "blob": st.binary(max_size=9),
    "strv": st.lists(TEXT, max_size=3).map(tuple),
}


@st.composite
def init_steps(draw, *, inner=False):
    op = draw(st.sampled_from(sorted(OPS)))
    args = tuple(draw(KINDS[kind]) for _, kind in OPS[op][1])
    if inner:
        return Step(op, args, "", (), (), draw(st.integers(1, 200)), draw(st.booleans()))
    tolerate = tuple(draw(st.lists(st.integers(1, 200), max_size=4)))
    others = tuple(draw(st.lists(init_steps(inner=True), max_size=2)))
    return Step(op, args, tolerate=tolerate, alternatives=others)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(init_steps(), max_size=6).map(tuple), st.integers(3, 99))
def test_decode_is_the_inverse(steps, fd_base):
    found = decode(encode(Plan(steps, slots=6, fd_base=fd_base), blobs={}))
    assert (found.steps, found.slots, found.fd_base) == (steps, 6, fd_base)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), hosts())
def test_decode_is_the_inverse_for_real_plans(config, host):
    made = compile_plan(parse_spec(config), BUNDLE, host, Options("c1", hook_state_prefix="{"), CGROUPS)
    blobs = {"seccomp": b"filter-bytes-16!"}
    found = decode(encode(made, blobs=blobs))
    assert [plain(step, blobs) for step in made.init_steps()] == list(found.steps)
    assert (found.slots, found.fd_base) == (made.slots, made.fd_base)


def plain(step, blobs):
    """The step as it reads after decoding: no origin, no deferred blob."""
    args = tuple(blobs[value.kind] if isinstance(value, Deferred) else value for value in step.args)
    others = tuple(plain(other, blobs) for other in step.alternatives)
    return step.replace(args=args, origin="", alternatives=others)


def test_layout_of_the_bytes():
    other = Step("make_path", ("/a", 0o755, 0, -1), on_errno=2, retry=True)
    steps = (HostStep("spawn", ()), Step("chdir", ("/a", 64), tolerate=(13, 2), alternatives=(other,)))
    data = encode(Plan(steps, slots=7, fd_base=5), blobs={})
    pool = HEADER_SIZE + 2 * STEP_SIZE
    assert HEADER.unpack_from(data) == (
        MAGIC,
        HEADER_SIZE,
        LAYOUT_HASH,
        2,
        HEADER_SIZE,
        pool,
        len(data) - pool,
        7,
        5,
        0,
        0,
    )
    chdir, make_path = (STEP.unpack_from(data, HEADER_SIZE + n * STEP_SIZE) for n in range(2))
    assert chdir == (OPS["chdir"][0], 1, 0, 13, 2, 0, 0, pool, 64, 0, 0, 0, 0)
    assert make_path == (OPS["make_path"][0], RETRY, 2, 0, 0, 0, 0, pool, 0o755, 0, -1, 0, 0)
    assert data[pool:] == b"/a\0"


def test_sizes_are_those_of_the_drawing():
    assert (HEADER.size, STEP.size) == (HEADER_SIZE, STEP_SIZE)


def test_every_value_is_stored_once():
    env = ("A=1", "B=2")
    twice = Plan((Step("find_program", ("sh", env)), Step("execve", (("sh",), env))), slots=2)
    data = encode(twice, blobs={})
    assert data.count(b"A=1") == 1
    assert data.count(b"sh\0") == 1


def test_not_given_is_offset_zero():
    data = encode(Plan((Step("remount", ("", 1, "")),), slots=2), blobs={})
    assert struct.unpack_from("<6q", data, HEADER_SIZE + 8) == (0, 1, 0, 0, 0, 0)


def test_an_empty_list_is_given():
    data = encode(Plan((Step("execve", (("sh",), ())),), slots=2), blobs={})
    assert struct.unpack_from("<6q", data, HEADER_SIZE + 8)[1] != 0


def test_unsigned_words_wrap():
    steps = (Step("bounding", ((1 << 64) - 1, 40)),)
    assert decode(encode(Plan(steps, slots=2), blobs={})).steps[0].args == (-1, 40)


def test_bytes_of_names_survive():
    steps = (Step("chdir", ("/\udcff\udc80", 0)),)
    assert b"/\xff\x80\0" in encode(Plan(steps, slots=2), blobs={})


@pytest.mark.parametrize(
    ("steps", "error", "said"),
    [
        ((Step("chdir", ("/a\0b", 0)),), ValueError, "NUL"),
        ((Step("execve", (("a", "b\0"), ())),), ValueError, "NUL"),
        ((Step("chdir", ("/a",)),), ValueError, "takes 2 arguments"),
        ((Step("nonsense", ()),), KeyError, "nonsense"),
        ((Step("seccomp", (Deferred("seccomp"), 0, -1)),), KeyError, "seccomp"),
    ],
    ids=str,
)
def test_refused(steps, error, said):
    with pytest.raises(error, match=said):
        encode(Plan(steps, slots=2), blobs={})


@pytest.mark.parametrize("at", [0, 4, 8])
def test_another_layout_is_refused(at):
    data = bytearray(encode(Plan((), slots=2), blobs={}))
    data[at] ^= 1
    with pytest.raises(ValueError, match="not a plan"):
        decode(bytes(data))


def test_compiling_and_encoding_is_a_matter_of_a_millisecond():
    """Start-up is a budget: the best of many, far above the 0.3 ms it takes, far below what a slow way would."""
    best = 1.0
    for _ in range(50):
        start = time.thread_time()
        encode(plan(), blobs={})
        best = min(best, time.thread_time() - start)
    assert best < 0.005
