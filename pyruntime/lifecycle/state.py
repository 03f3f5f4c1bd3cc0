"""state and list: what a container is now, derived from the kernel every time (contract 1.8, 2.1)."""

from __future__ import annotations

from errno import ENXIO
from posix import O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_WRONLY, close, fstat, listdir, lstat, open

from pyruntime.errors import HostError, NotFoundError, RuntimeFailure
from pyruntime.lifecycle import process, store
from pyruntime.spec.ids import check_container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings
    from pyruntime.spec.config import Spec

DEFAULT_ROOT = "/run/pyruntime"


def load(entry: store.Entry) -> dict[str, Any]:
    """What state.json says, or what can still be told from `identity` of a container that never came to `ready`.

    Raises NotFoundError for a foreign directory, HostError for a container whose state is damaged.
    """
    found = entry.state()
    if found is not None:
        return found
    identity = entry.identity()
    if identity is None:
        raise NotFoundError(f"container does not exist: {entry.path} holds no state of pyruntime", value=entry.id,
                            hint="the directory is left alone; an empty one goes with delete")
    if entry.read("state.json") is not None:
        raise HostError(f"state of container {entry.id} is damaged", value=f"{entry.path}/state.json",
                        hint="delete --force still kills its processes and cleans up")
    return {"id": entry.id, "init_process_pid": identity.pid, "init_process_start": identity.start_time,
            "created": "", "cgroup_paths": dict(identity.cgroup_paths), "bundle": "", "rootfs": "",
            "config": {}, "incomplete": True, "token": identity.token}


def status(entry: store.Entry, found: dict[str, Any]) -> str:
    """creating, created, running, paused or stopped."""
    if found.get("incomplete"):
        return "creating" if entry.locked_elsewhere() else "stopped"
    if not alive(found):
        return "stopped"
    if is_frozen(found["cgroup_paths"]):
        return "paused"
    return "created" if waits_for_start(entry) else "running"


def alive(found: dict[str, Any]) -> bool:
    """Whether init is there, and not another process of its number."""
    return process.start_time(int(found["init_process_pid"])) == int(found["init_process_start"]) != 0


def is_frozen(paths: dict[str, str]) -> bool:
    """Whether the container's cgroup is frozen: one read."""
    for key, file, frozen in (("freezer", "freezer.state", b"FROZEN"), ("", "cgroup.freeze", b"1")):
        if key in paths:
            from pyruntime.host.probe import read_file

            try:
                return read_file(f"{paths[key]}/{file}", 32).strip() == frozen
            except OSError:
                return False
    return False


def waits_for_start(entry: store.Entry) -> bool:
    """Whether init still holds exec.fifo open for reading."""
    try:
        close(open("exec.fifo", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW, dir_fd=entry.fd))
    except OSError as error:
        if error.errno != ENXIO:
            return False
        return False
    return True


def spec(found: dict[str, Any]) -> Spec:
    """The configuration saved at create."""
    from pyruntime.spec.parse import parse_spec

    return parse_spec(found["config"])


def state(settings: Settings, container_id: str) -> dict[str, Any]:
    """The OCI state with the peers' keys, in their order; `owner` is "". Raises NotFoundError."""
    with store.lookup(settings.root, container_id) as entry:
        return describe(entry, owner="")


def describe(entry: store.Entry, *, owner: str) -> dict[str, Any]:
    """One row of contract 2.1."""
    found = load(entry)
    now = status(entry, found)
    config = found["config"]
    value = {"ociVersion": found.get("oci_version", "1.3.0"), "id": entry.id,
             "pid": 0 if now == "stopped" else int(found["init_process_pid"]), "status": now,
             "bundle": found["bundle"], "rootfs": found["rootfs"], "created": found["created"]}
    if config.get("annotations"):
        value["annotations"] = config["annotations"]
    value["owner"] = owner
    return value


def list_(settings: Settings) -> list[dict[str, Any]]:
    """Every container below the root, by name; one that cannot be read is a warning, not an end (R4)."""
    try:
        names = sorted(listdir(settings.root))
    except FileNotFoundError as error:
        if settings.root == DEFAULT_ROOT:
            return []
        raise HostError(f"open {settings.root}: no such file or directory", errno=2, value=settings.root,
                        hint="no container was ever made below that root") from error
    except PermissionError as error:
        raise HostError(f"open {settings.root}: permission denied", errno=error.errno or 0,
                        hint=store.refused_hint(settings.root, error)) from error
    rows = []
    for name in names:
        try:
            check_container_id(name)
            with store.lookup(settings.root, name) as entry:
                rows.append(describe(entry, owner=_owner(entry)))
        except (RuntimeFailure, OSError, KeyError, ValueError, TypeError) as failure:
            if _is_there(f"{settings.root}/{name}"):  # else it was deleted since the root was listed
                settings.warn(f"load container {name}: {failure}")
    return rows


def _is_there(path: str) -> bool:
    try:
        lstat(path)
    except OSError:
        return False
    return True


def _owner(entry: store.Entry) -> str:
    """The user name, or #uid, of whom the state directory belongs to."""
    from pwd import getpwuid

    uid = fstat(entry.fd).st_uid
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
