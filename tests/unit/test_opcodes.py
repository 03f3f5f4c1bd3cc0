"""The opcodes are one source: what is generated from them is committed, and the C side handles every one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyruntime.plan import opcodes
from pyruntime.plan.layout import LAYOUT_HASH

TREE = Path(__file__).resolve().parents[2]
KINDS = {"int", "slot", "str", "blob", "strv"}


def test_generated_files_are_current() -> None:
    assert (TREE / "csrc" / "opcodes.h").read_text() == opcodes.c_header()
    assert opcodes.fnv1a64(opcodes.layout_text()) == LAYOUT_HASH


def test_fnv_is_the_published_function() -> None:
    assert opcodes.fnv1a64("") == 0xCBF29CE484222325
    assert opcodes.fnv1a64("foobar") == 0x85944171F73967E8  # draft-eastlake-fnv, test vectors


@pytest.mark.parametrize("name", opcodes.OPS)
def test_op(name: str) -> None:
    number, args = opcodes.OPS[name]
    assert 0 < number < 96
    assert len(args) <= opcodes.MAX_ARGS
    assert {kind for _, kind in args} <= KINDS
    assert len({argument for argument, _ in args}) == len(args)


@pytest.mark.parametrize("table", ["MESSAGES", "BARRIERS", "OP_FLAGS"])
def test_numbers_are_distinct(table: str) -> None:
    numbers = list(getattr(opcodes, table).values())
    assert len(set(numbers)) == len(numbers)


def test_op_numbers_are_distinct() -> None:
    numbers = [number for number, _ in opcodes.OPS.values()]
    assert len(set(numbers)) == len(numbers)


def test_op_flags_are_single_bits() -> None:
    assert all(bit & (bit - 1) == 0 for bit in opcodes.OP_FLAGS.values())


def test_every_op_has_its_function_in_c() -> None:
    table = set(re.findall(r"\[OP_([A-Z_]+)\] = op_([a-z_]+),", (TREE / "csrc" / "init.c").read_text()))
    assert table == {(name.upper(), name) for name in opcodes.OPS}


@pytest.mark.parametrize("change", [
    ("OPS", {**opcodes.OPS, "chroot": (26, (("path", "str"),))}),
    ("BARRIERS", {**opcodes.BARRIERS, "ready": 7}),
    ("MAX_MESSAGE", 4096),
], ids=lambda change: change[0])
def test_the_hash_covers_the_layout(monkeypatch: pytest.MonkeyPatch, change: tuple[str, object]) -> None:
    monkeypatch.setattr(opcodes, change[0], change[1])
    assert opcodes.fnv1a64(opcodes.layout_text()) != LAYOUT_HASH
