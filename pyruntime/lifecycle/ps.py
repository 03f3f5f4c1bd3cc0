"""ps: the processes of a container, by its cgroups and their sub-cgroups (contract 2.2)."""

from __future__ import annotations

from pyruntime.lifecycle import state, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.lifecycle.settings import Settings


def ps(settings: Settings, container_id: str) -> list[int]:
    """Host pids, sorted; [] for a stopped container."""
    with store.lookup(settings.root, container_id) as entry:
        found = state.load(entry)
        if found["cgroup_paths"]:
            from pyruntime.cgroup import manager

            return sorted(manager.processes(tuple(found["cgroup_paths"].items())))
        return [] if state.status(entry, found) == "stopped" else [int(found["init_process_pid"])]
