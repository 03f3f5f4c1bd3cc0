"""Events: the ring, who listens, filters, and times."""

from __future__ import annotations

import threading
import time

import pytest

from pyruntime.engine.events import RING, Events, compile_filters, parse_time
from pyruntime.errors import EngineError


def everything(_event):
    return True


def told(events, filters):
    """What a listener with filters hears of the events emitted before."""
    until = time.time_ns()
    found = events.follow(compile_filters(filters), 0, until, threading.Event())
    return [f"{event.type} {event.action} {event.id}" for event in found]


@pytest.fixture
def events():
    made = Events()
    made.emit("image", "pull", "host:5000/a/b:1", {"name": "host:5000/a/b", "stage": "x"})
    made.emit("image", "tag", "sha256:aa", {"name": "c:2"})
    made.emit("container", "die", "f00d", {"image": "c:2", "name": "web", "k": "v"})
    made.emit("container", "health_status: healthy", "beef", {"name": "db"})
    made.emit("daemon", "reload", "id", {"name": "box"})
    return made


@pytest.mark.parametrize(("filters", "ids"), [
    ({}, ["host:5000/a/b:1", "sha256:aa", "f00d", "beef", "id"]),
    ({"type": ["image"]}, ["host:5000/a/b:1", "sha256:aa"]),
    ({"type": ["image", "daemon"], "event": ["tag", "reload"]}, ["sha256:aa", "id"]),
    ({"event": ["health_status"]}, ["beef"]),
    ({"image": ["c"]}, ["sha256:aa", "f00d"]),
    ({"image": ["host:5000/a/b"]}, ["host:5000/a/b:1"]),
    ({"container": ["web"]}, ["f00d"]), ({"container": ["be"]}, ["beef"]), ({"container": ["x"]}, []),
    ({"label": ["stage"]}, ["host:5000/a/b:1"]), ({"label": ["k=v"]}, ["f00d"]), ({"label": ["k=w"]}, []), ({"label": ["k", "stage"]}, []),
    ({"scope": ["swarm"]}, []), ({"daemon": ["box"]}, ["id"]),
], ids=str)
def test_filters(events, filters, ids):
    assert [line.split()[-1] for line in told(events, filters)] == ids


def test_a_filter_that_is_not_known(events):
    with pytest.raises(EngineError, match="invalid filter 'colour'"):
        compile_filters({"colour": ["red"]})


def test_the_ring_keeps_the_newest():
    events = Events()
    for number in range(RING + 10):
        events.emit("image", "tag", str(number), {})
    assert told(events, {})[0] == "image tag 10"


def test_old_clients_fields_and_times():
    events = Events()
    events.emit("container", "die", "f00d", {"image": "c"})
    events.emit("daemon", "reload", "id", {})
    first, second = (event.wire() for event in events.follow(everything, 0, time.time_ns(), threading.Event()))
    assert (first["status"], first["id"], first["from"], first["scope"]) == ("die", "f00d", "c", "local")
    assert first["time"] == first["timeNano"] // 10**9
    assert "status" not in second


def test_nothing_is_missed_after_the_call_and_closing_ends_it():
    events, gone = Events(), threading.Event()
    found = events.follow(everything, None, None, gone)
    assert events.listening() == 1
    events.emit("image", "tag", "one", {})
    assert next(found).id == "one"
    found.close()
    assert events.listening() == 0
    unread = events.follow(everything, None, None, gone)
    unread.close()
    assert events.listening() == 0
    waiting = events.follow(everything, None, None, gone)
    gone.set()
    assert list(waiting) == []


@pytest.mark.parametrize(("text", "moment"), [("", None), ("7", 7_000_000_000), ("7.5", 7_500_000_000), ("0", 0), ("1.000000001", 1_000_000_001)])
def test_times(text, moment):
    assert parse_time(text) == moment


@pytest.mark.parametrize("text", ["x", "1.x", "1 2"])
def test_what_is_no_time(text):
    with pytest.raises(EngineError, match="invalid syntax"):
        parse_time(text)
