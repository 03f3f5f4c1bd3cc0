"""Routes of objects that this engine has none of: empty lists, look-ups that find nothing, families of other versions.

A look-up answers as an engine without containers does, so clients that ask first (`docker inspect`, Compose) go on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pyruntime.api.server.wire import Answer, answer
from pyruntime.engine.failures import not_built
from pyruntime.engine.images import check_filters
from pyruntime.errors import EngineError

if TYPE_CHECKING:
    from pyruntime.api.server.wire import Request
    from pyruntime.engine.engine import Engine

NO_SWARM = ("This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node "
            "to swarm and try again.")  # fmt: skip
CONTAINERS = ("ancestor before exited expose health id is-task isolation label name network publish since status "
              "volume")  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")


def _empty(_engine: Engine, request: Request, *, value: Any, filters: str = "") -> Answer:
    """A list with nothing in it; `filters` are those it may be asked with."""
    check_filters(request.query.filters(), tuple(filters.split()))
    return answer(value)


def _no_container(_engine: Engine, request: Request) -> Answer:
    """Any question about a container."""
    raise EngineError(f"No such container: {request.params['id']}", status=404)


def _no_commit(_engine: Engine, request: Request) -> Answer:
    """An image of a container."""
    raise EngineError(f"No such container: {request.query.text('container')}", status=404)


def _no_exec(_engine: Engine, request: Request) -> Answer:
    """Any question about a process started by exec."""
    raise EngineError(f"No such exec instance: {request.params['id']}", status=404)


def _no_volume(_engine: Engine, request: Request) -> Answer:
    """Any question about a volume; removing one by force is no error."""
    if request.method == "DELETE" and request.query.flag("force"):
        return Answer(204)
    raise EngineError(f"get {request.params['name']}: no such volume", status=404)


def _no_network(_engine: Engine, request: Request) -> Answer:
    """Any question about a network."""
    raise EngineError(f"network {request.params['id']} not found", status=404)


def _no_plugin(_engine: Engine, request: Request) -> Answer:
    """Any question about a plugin."""
    raise EngineError(f'plugin "{request.params["name"]}" not found', status=404)


def _not_built(_engine: Engine, _request: Request, *, what: str) -> Answer:
    """A family of routes that is not here."""
    raise not_built(what)


def _no_swarm(_engine: Engine, _request: Request) -> Answer:
    """Everything that only a manager of a swarm can do."""
    raise EngineError(NO_SWARM, status=503)


def _prunes() -> list[tuple[Any, ...]]:
    """Pruning what there is none of."""
    answers: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("containers", {"ContainersDeleted": None, "SpaceReclaimed": 0}, "label label! until"),
        ("volumes", {"VolumesDeleted": [], "SpaceReclaimed": 0}, "all label label!"),
        ("networks", {"NetworksDeleted": None}, "label label! until"),
        ("build", {"CachesDeleted": None, "SpaceReclaimed": 0},
         "description id inuse parent private shared type unused-for until"),
    )  # fmt: skip
    return [("POST", f"/{what}/prune", partial(_empty, value=value, filters=known)) for what, value, known in answers]


def _families() -> list[tuple[Any, ...]]:
    """Families without any object that could be asked for."""
    built = [("POST", "/containers/create", "containers are"),
             ("POST", "/build", "building images is"), ("POST", "/build/cancel", "building images is"),
             ("POST", "/session", "sessions of BuildKit are"), ("POST", "/grpc", "sessions of BuildKit are"),
             ("GET", "/networks", "networks are"), ("POST", "/networks/create", "networks are"),
             ("POST", "/volumes/create", "volumes are"), ("GET", "/plugins/privileges", "plugins are"),
             ("POST", "/plugins/pull", "plugins are"), ("POST", "/plugins/create", "plugins are")]  # fmt: skip
    rows: list[tuple[Any, ...]] = [(method, pattern, partial(_not_built, what=what)) for method, pattern, what in built]
    for name in ("swarm", "nodes", "services", "tasks", "secrets", "configs"):
        for method in ("GET", "POST", "DELETE"):
            rows += [(method, f"/{name}", _no_swarm), (method, f"/{name}/{{rest*}}", _no_swarm)]
    return rows


def _lookups() -> list[tuple[Any, ...]]:
    """One object by its name, in every way; these rows come last, after words that stand where a name may."""
    rows: list[tuple[Any, ...]] = []
    for pattern, handler in (("/containers/{id}", _no_container), ("/exec/{id}", _no_exec), ("/networks/{id}", _no_network),
                             ("/volumes/{name}", _no_volume), ("/plugins/{name}", _no_plugin)):  # fmt: skip
        for method in METHODS:
            rows += [(method, pattern, handler), (method, f"{pattern}/{{rest*}}", handler)]
    return rows


ROUTES = (
    ("GET", "/containers/json", partial(_empty, value=[], filters=CONTAINERS)),
    ("GET", "/volumes", partial(_empty, value={"Volumes": [], "Warnings": None}, filters="dangling driver label name")),
    ("GET", "/plugins", partial(_empty, value=[], filters="capability enabled")),
    ("POST", "/commit", _no_commit),
    *_prunes(),
    *_families(),
    *_lookups(),
)
