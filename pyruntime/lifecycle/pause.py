"""pause and resume: the freezer, and nothing else (contract 1.3)."""

from __future__ import annotations

from pyruntime.cgroup import manager
from pyruntime.errors import HostError
from pyruntime.lifecycle import state, states, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.lifecycle.settings import Settings


def pause(settings: Settings, container_id: str) -> None:
    """Freeze a running or created container."""
    _switch(settings, container_id, "pause")


def resume(settings: Settings, container_id: str) -> None:
    """Thaw a paused container; it is what it was before."""
    _switch(settings, container_id, "resume")


def _switch(settings: Settings, container_id: str, verb: str) -> None:
    with store.lookup(settings.root, container_id) as entry:
        entry.lock()
        found = state.load(entry)
        states.check(state.status(entry, found), verb, container_id)
        paths = tuple(found["cgroup_paths"].items())
        if not paths:
            raise HostError(f"cannot {verb} a container without a cgroup",
                            hint="it takes a freezer cgroup: cgroups were disabled, or not delegated to the user")
        (manager.freeze if verb == "pause" else manager.thaw)(paths)
