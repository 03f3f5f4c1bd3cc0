"""Records: fields from annotations, immutable, compared by type and value."""

from __future__ import annotations

import pickle

import pytest

from pyruntime.record import Record


class Point(Record):
    x: int
    y: int = 2


class Point3(Point):
    z: int = 3


class Other(Record):
    x: int
    y: int = 2


@pytest.mark.parametrize(("record", "values"), [
    (Point(1), (1, 2)),
    (Point(1, 5), (1, 5)),
    (Point(y=5, x=1), (1, 5)),
    (Point(1, y=5), (1, 5)),
    (Point3(1), (1, 2, 3)),
    (Point3(1, z=9), (1, 2, 9)),
    (Point3(1, 2, 4), (1, 2, 4)),
], ids=repr)
def test_fields_come_from_positions_names_and_defaults(record, values):
    assert tuple(record) == values
    assert tuple(getattr(record, name) for name in record._fields) == values


@pytest.mark.parametrize(("call", "said"), [
    (Point, "needs 'x'"),
    (lambda: Point(1, 2, 3), "takes 2 fields, 3 given"),
    (lambda: Point(1, z=3), "no field 'z'"),
    (lambda: Point(1, x=3), "'x' or got it twice"),
    (lambda: Point(1).replace(q=1), "no field 'q'"),
])
def test_wrong_calls_name_the_field(call, said):
    with pytest.raises(TypeError, match=said):
        call()


def test_a_record_cannot_be_changed():
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 5  # type: ignore[misc]
    with pytest.raises(AttributeError):
        point.new = 5  # type: ignore[attr-defined]
    assert point == Point(1)


def test_equality_asks_for_the_same_type():
    assert Point(1) == Point(1, 2)
    assert Point(1) != Other(1)
    assert Point(1) != (1, 2)
    assert Point(1) != Point(2)
    assert len({Point(1), Point(1, 2), Point(2)}) == 2


def test_replace_gives_a_copy():
    point = Point3(1)
    assert point.replace(z=7) == Point3(1, 2, 7)
    assert point == Point3(1)


def test_repr_shows_names():
    assert repr(Point3(1, z="a")) == "Point3(x=1, y=2, z='a')"


def test_match_statement_reads_fields_in_order():
    match Point3(1, 5):
        case Point3(x, y, z):
            assert (x, y, z) == (1, 5, 3)


def test_pickle_keeps_type_and_values():
    assert pickle.loads(pickle.dumps(Point3(4, 5, 6))) == Point3(4, 5, 6)
