"""delete: a stopped or created container goes, with force any (contract 1.4, 3.3; DESIGN, runtime 5)."""

from __future__ import annotations

from pyruntime.errors import HostError, NotFoundError, RuntimeFailure
from pyruntime.lifecycle import cleanup, state, states, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings


def delete(settings: Settings, container_id: str, *, force: bool = False) -> None:
    """Remove the container. With `force` a living one is killed first and a missing one is fine.

    Raises NotFoundError, StateError while it runs, HostError when something cannot be removed.
    """
    try:
        entry = store.lookup(settings.root, container_id)
    except NotFoundError:
        if force:
            return
        raise
    with entry:
        if force and entry.locked_elsewhere():
            end_holder(entry)
        entry.lock()
        if not store.is_current(entry):
            if force:
                return
            raise NotFoundError("container does not exist", value=container_id)
        _delete(settings, entry, force=force)


def end_holder(entry: store.Entry) -> None:
    """Kill what a call that holds the lock may wait for, a hook or a program that hangs; it then undoes its work."""
    left = cleanup.remains(entry)
    if left is not None:
        cleanup.kill(left)


def _delete(settings: Settings, entry: store.Entry, *, force: bool) -> None:
    if cleanup.remains(entry) is None:
        _foreign(entry, force=force)
        return
    found: dict[str, Any] | None = None
    try:
        found = state.load(entry)
        now = state.status(entry, found)
        if now == "creating" and not state.alive(found):
            now = "stopped"  # the lock that tells of a creator is our own
    except RuntimeFailure:
        if not force:
            raise
        now = "stopped"
    if not force:
        states.check(now, "delete", entry.id)
    cleanup.destroy(entry, damaged=found is None)
    if found is not None:
        run_poststop(settings, entry, found)


def _foreign(entry: store.Entry, *, force: bool) -> None:
    """No state of ours: a directory with nothing in it but our empty names goes, anything else stays."""
    names = entry.foreign_names()
    if names:
        raise HostError(f"container does not exist: {entry.path} is not a container of pyruntime",
                        value=" ".join(names), hint="nothing in it was touched; remove it by hand if it is not needed")
    entry.remove()
    if not force:
        raise NotFoundError("container does not exist", value=entry.id, hint="its empty state directory was removed")


def run_poststop(settings: Settings, entry: store.Entry, found: dict[str, Any]) -> None:
    """poststop hooks; a failing one is a warning and the next still runs (runtime.md, Lifecycle 12)."""
    if not found["config"].get("hooks", {}).get("poststop"):
        return
    from pyruntime.lifecycle import hooks
    from pyruntime.lifecycle.prepare import hook_state

    spec = state.spec(found)
    value = hook_state(entry.id, "stopped", 0, found["bundle"], spec)
    hooks.run_poststop(spec.hooks.poststop, value, settings.warn)


