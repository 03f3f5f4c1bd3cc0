"""Routes of images. What depends on the version that a client speaks is decided here, every rule in engine.images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyruntime.api.server.wire import Answer, answer
from pyruntime.engine import images

if TYPE_CHECKING:

    from pyruntime.api.server.wire import Request
    from pyruntime.engine.engine import Engine

NO_VIRTUAL_SIZE = (1, 44)  # from here on images have no VirtualSize
NO_NONE = (1, 43)  # from here on an image without names has empty lists


def list_(engine: Engine, request: Request) -> Answer:
    """The images."""
    query = request.query
    rows = images.summaries(engine, query.filters(), intermediate=query.flag("all"), shared=query.flag("shared-size"))
    return answer([_row(row, request.version) for row in rows])


def _row(row: dict[str, Any], version: tuple[int, int]) -> dict[str, Any]:
    """A row of the list as clients of `version` know it."""
    row = dict(row)
    if version < NO_NONE and not row["RepoTags"] and not row["RepoDigests"]:
        row |= {"RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"]}
    if version < NO_VIRTUAL_SIZE:
        row["VirtualSize"] = row["Size"]
    return row


def inspect(engine: Engine, request: Request) -> Answer:
    """One image."""
    value = images.inspect(engine, request.params["name"])
    if request.version < NO_VIRTUAL_SIZE:
        value["VirtualSize"] = value["Size"]
    return answer(value)


def history(engine: Engine, request: Request) -> Answer:
    """How an image came about."""
    return answer(images.history(engine, request.params["name"]))


def tag(engine: Engine, request: Request) -> Answer:
    """A further name."""
    images.tag(engine, request.params["name"], request.query.text("repo"), request.query.text("tag"))
    return Answer(201)


def remove(engine: Engine, request: Request) -> Answer:
    """A name, or an image, away."""
    query = request.query
    return answer(images.remove(engine, request.params["name"], force=query.flag("force"), prune=not query.flag("noprune")))


def prune(engine: Engine, request: Request) -> Answer:
    """What nobody names or uses away."""
    return answer(images.prune(engine, request.query.filters()))


def search(engine: Engine, request: Request) -> Answer:
    """Names on the hub."""
    from pyruntime.engine import registries

    query = request.query
    return answer(registries.search(engine, query.text("term"), query.number("limit"), query.filters()))


def distribution(engine: Engine, request: Request) -> Answer:
    """What a registry has under a name."""
    from pyruntime.engine import registries

    return answer(registries.distribution(engine, request.params["name"], request.headers.get("x-registry-auth", "")))


def auth(engine: Engine, request: Request) -> Answer:
    """Whether a registry takes credentials."""
    from pyruntime.engine import registries

    return answer(registries.login(engine, request.json()))


ROUTES = (
    ("GET", "/images/json", list_),
    ("GET", "/images/search", search),
    ("GET", "/images/{name*}/json", inspect),
    ("GET", "/images/{name*}/history", history),
    ("POST", "/images/prune", prune),
    ("POST", "/images/{name*}/tag", tag),
    ("DELETE", "/images/{name*}", remove),
    ("GET", "/distribution/{name*}/json", distribution),
    ("POST", "/auth", auth),
)
