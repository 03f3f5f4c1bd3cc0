"""events: figures of a container, and its out-of-memory events as they happen (contract 2.3)."""

from __future__ import annotations

from time import monotonic

from pyruntime.cgroup import stats as figures
from pyruntime.cgroup.events import OomWatch
from pyruntime.lifecycle import state, states, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyruntime.lifecycle.settings import Settings

LOOK_EVERY_S = 1.0  # how often to ask whether the container has ended, where no descriptor tells


def _paths(settings: Settings, container_id: str) -> tuple[tuple[str, str], ...]:
    """The cgroups of a living container. Raises NotFoundError, StateError."""
    with store.lookup(settings.root, container_id) as entry:
        found = state.load(entry)
        states.check(state.status(entry, found), "events", container_id)
        return tuple(found["cgroup_paths"].items())


def _record(container_id: str, paths: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {"type": "stats", "id": container_id, "data": figures.stats(paths)}


def stats(settings: Settings, container_id: str) -> dict[str, Any]:
    """One record now."""
    return _record(container_id, _paths(settings, container_id))


def watch(settings: Settings, container_id: str, interval_s: float) -> Iterator[dict[str, Any]]:
    """Figures every `interval_s` (first after one), `oom` records at once; ends when the cgroup is empty."""
    paths = _paths(settings, container_id)
    with OomWatch(paths) as oom:
        due = monotonic() + interval_s
        while not oom.emptied():
            yield from _out_of_memory(container_id, oom.wait(max(0.0, min(due - monotonic(), LOOK_EVERY_S))))
            if monotonic() >= due:
                due += interval_s
                if not oom.emptied():
                    yield _record(container_id, paths)
        yield from _out_of_memory(container_id, oom.take())  # the last may have come while a record was being read


def _out_of_memory(container_id: str, number: int) -> Iterator[dict[str, Any]]:
    for _ in range(number):
        yield {"type": "oom", "id": container_id}
