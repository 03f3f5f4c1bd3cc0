"""The table of states (runtime.md, Lifecycle; `paused` is runc's) and the peers' words for what is not in it."""

from __future__ import annotations

from pyruntime.errors import StateError

TRANSITIONS: dict[str, dict[str, str]] = {
    "creating": {"ready": "created"},
    "created": {"start": "running", "kill": "created", "pause": "paused", "exec": "created", "update": "created",
                "exit": "stopped", "delete": "deleted", "events": "created"},
    "running": {"pause": "paused", "kill": "running", "exec": "running", "update": "running", "exit": "stopped",
                "events": "running", "mounts": "running", "checkpoint": "deleted"},
    "paused": {"resume": "running or created", "kill": "paused", "update": "paused", "exit": "stopped",
               "events": "paused", "checkpoint": "deleted"},
    "stopped": {"delete": "deleted"},
}


def check(status: str, verb: str, container_id: str) -> None:
    """Raises StateError in the peers' words (contract 1.7) when a container of `status` does not take `verb`."""
    if verb in TRANSITIONS[status]:
        return
    raise StateError(_message(status, verb, container_id), hint=_hint(status, verb))


def _message(status: str, verb: str, container_id: str) -> str:
    if verb == "start":
        return {
            "running": "cannot start an already running container",
            "stopped": "cannot start a container that has stopped",
        }.get(status, f"cannot start a container in the {status} state")
    if verb == "exec":
        paused = " (use --ignore-paused to override)" if status == "paused" else ""
        return f"cannot exec in a {status} container{paused}"
    if verb == "delete":
        return f"cannot delete container {container_id} that is not stopped: {status}"
    if verb == "events":
        return f"container with id {container_id} is not running"
    return "container not paused" if verb == "resume" else "container not running"


def _hint(status: str, verb: str) -> str:
    if verb == "delete":
        return "stop it first with kill, or use delete --force"
    if status == "creating":
        return "it is still being created, or its creation was interrupted; delete --force cleans it"
    allowed = [name for name in TRANSITIONS[status] if name not in ("exit", "ready")]
    return f"its status is {status}; that allows: {', '.join(allowed)}"
