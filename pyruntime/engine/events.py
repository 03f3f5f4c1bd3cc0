"""What happened: a ring of the newest events, listeners that wait for more, and the filters (contract engine-api 2.4)."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pyruntime.errors import EngineError
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

RING = 256  # events that a late listener can still be told
BACKLOG = 4096  # events that wait for one listener; a slower one loses the oldest
LOOK_S = 1.0  # how often a waiting listener looks whether its client is still there
WITH_ID = ("container", "image")  # types whose events have the fields of old clients
FILTERS = ("container", "daemon", "event", "image", "label", "network", "type", "volume", "scope", "plugin", "builder",
           "service", "node", "secret", "config")  # fmt: skip


class Event(Record):
    """One event. `attributes` holds what clients show and filter by, `name` and all labels among it."""

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time_ns: int

    def wire(self) -> dict[str, Any]:
        """The event with Docker's names."""
        old: dict[str, Any] = {}
        if self.type in WITH_ID:
            old = {"status": self.action, "id": self.id}
            if origin := self.attributes.get("image"):
                old["from"] = origin
        return {**old, "Type": self.type, "Action": self.action,
                "Actor": {"ID": self.id, "Attributes": self.attributes}, "scope": "local",
                "time": self.time_ns // 10**9, "timeNano": self.time_ns}  # fmt: skip


NOTHING = Event("", "", "", {}, 0)  # what a generator gives once it listens


class Events:
    """All events of this daemon. Safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ring: deque[Event] = deque(maxlen=RING)
        self._listeners: list[queue.Queue[Event]] = []

    def emit(self, kind: str, action: str, actor: str, attributes: dict[str, str]) -> None:
        """Tells everybody."""
        with self._lock:
            event = Event(kind, action, actor, attributes, time.time_ns())
            self._ring.append(event)
            for listener in self._listeners:
                if listener.full():
                    listener.get_nowait()
                listener.put_nowait(event)

    def listening(self) -> int:
        """How many listen."""
        return len(self._listeners)

    def follow(self, matches: Callable[[Event], bool], since_ns: int | None, until_ns: int | None,
               gone: threading.Event) -> Generator[Event, None, None]:  # fmt: skip
        """Past events since `since_ns` (None: none), then new ones until `until_ns` (None: for ever) or `gone`.

        Listening begins with the call, so nothing that happens after it is missed, and ends with close().
        """
        found = self._follow(matches, since_ns, until_ns, gone)
        next(found)
        return found

    def _follow(self, matches: Callable[[Event], bool], since_ns: int | None, until_ns: int | None,
                gone: threading.Event) -> Generator[Event, None, None]:  # fmt: skip
        mine: queue.Queue[Event] = queue.Queue(BACKLOG)
        with self._lock:
            past = [] if since_ns is None else [event for event in self._ring if event.time_ns >= since_ns]
            self._listeners.append(mine)
        try:
            yield NOTHING
            yield from (event for event in past if (until_ns is None or event.time_ns <= until_ns) and matches(event))
            while not gone.is_set():
                left_s = LOOK_S if until_ns is None else (until_ns - time.time_ns()) / 1e9
                if left_s <= 0:
                    return
                try:
                    event = mine.get(timeout=min(left_s, LOOK_S))
                except queue.Empty:
                    continue
                if matches(event):
                    yield event
        finally:
            with self._lock:
                self._listeners.remove(mine)


def compile_filters(filters: dict[str, list[str]]) -> Callable[[Event], bool]:
    """Values of one key are alternatives, keys all have to hold. Raises EngineError 400 for a key that is unknown."""
    for key in filters:
        if key not in FILTERS:
            raise EngineError(f"invalid filter '{key}'", status=400)
    return lambda event: all(not values or _holds(event, key, values) for key, values in filters.items())


def _holds(event: Event, key: str, values: list[str]) -> bool:
    """Whether one filter holds."""
    if key == "type":
        return event.type in values
    if key == "event":
        return event.action in values or event.action.partition(":")[0] in values
    if key == "scope":
        return "local" in values
    if key == "label":
        return all(label_holds(event.attributes, value) for value in values)
    if key == "image":
        name = event.attributes.get("name" if event.type == "image" else "image", "")
        known = {event.id, _without_tag(event.id), name, _without_tag(name)}
        return bool(known & set(values))
    return event.type == key and any(value and (event.id.startswith(value) or event.attributes.get("name") == value)
                                     for value in values)  # fmt: skip


def label_holds(labels: dict[str, str], wanted: str) -> bool:
    """Whether `labels` has the key of `key` or the value of `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _without_tag(name: str) -> str:
    """A reference without its tag."""
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag and "@" not in name else name


def parse_time(text: str) -> int | None:
    """Nanoseconds since 1970 of `seconds[.nanoseconds]`, None for "". Raises EngineError 400."""
    if not text:
        return None
    whole, _, part = text.partition(".")
    if not whole.lstrip("-").isdigit() or (part and not part.isdigit()):
        raise EngineError(f'strconv.ParseInt: parsing "{text}": invalid syntax', status=400)
    return int(whole) * 10**9 + int(part[:9].ljust(9, "0") if part else 0)
