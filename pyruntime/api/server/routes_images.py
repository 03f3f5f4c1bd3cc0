"""Routes of images. What depends on the version that a client speaks is decided here, every rule in engine.images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyruntime.api.server.wire import Answer, ClientGone, Stream, answer, encode, lower_keys
from pyruntime.engine import images
from pyruntime.engine.failures import status_and_text
from pyruntime.errors import Cancelled, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.api.server.wire import Request, Sink
    from pyruntime.engine.engine import Engine

TAR = "application/x-tar"
NO_FILTER = (1, 41)  # until here a name may stand in the field `filter`
NO_VIRTUAL_SIZE = (1, 44)  # from here on images have no VirtualSize
NO_NONE = (1, 43)  # from here on an image without names has empty lists


def list_(engine: Engine, request: Request) -> Answer:
    """The images."""
    query = request.query
    filters = query.filters()
    if request.version < NO_FILTER and query.text("filter"):
        filters.setdefault("reference", []).append(query.text("filter"))
    rows = images.summaries(engine, filters, intermediate=query.flag("all"), shared=query.flag("shared-size"))
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
    value = images.inspect(engine, request.params["name"], request.query.text("platform"))
    if request.version < NO_VIRTUAL_SIZE:
        value["VirtualSize"] = value["Size"]
    return answer(value)


def history(engine: Engine, request: Request) -> Answer:
    """How an image came about."""
    return answer(images.history(engine, request.params["name"], request.query.text("platform")))


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


# ---- streams --------------------------------------------------------------------------------------------------------
def json_lines(work: Callable[[Callable[[dict[str, Any]], None]], None]) -> Stream:
    """A stream of JSON lines that `work` tells; an error after the first is a line, one before it an ordinary answer."""

    def produce(sink: Sink) -> None:
        told = False

        def tell(line: dict[str, Any]) -> None:
            nonlocal told
            told = True
            sink.write(encode(line)[:-1] + b"\r\n")

        try:
            work(tell)
        except Exception as error:
            if not told or isinstance(error, (ClientGone, Cancelled)):
                raise
            _, text = status_and_text(error)
            tell({"errorDetail": {"message": text}, "error": text})

    return Stream(produce)


def create(engine: Engine, request: Request) -> Stream:
    """A pull, or an import with fromSrc."""
    from pyruntime.engine import transfers

    query, header = request.query, request.headers.get("x-registry-auth", "")
    if name := query.text("fromImage"):
        return json_lines(lambda tell: transfers.pull(engine, name, query.text("tag"), query.text("platform"), header, tell,
                                                      request.gone))  # fmt: skip
    if not query.text("fromSrc"):
        raise EngineError("fromImage or fromSrc has to say what to make an image of", status=400)
    asked = transfers.Import(query.text("fromSrc"), query.text("repo"), query.text("tag"), query.text("message"),
                             tuple(query.all("changes")), query.text("platform"))  # fmt: skip
    return json_lines(lambda tell: transfers.import_rootfs(engine, request.body, asked, tell))


def push(engine: Engine, request: Request) -> Stream:
    """To the registry that the name says."""
    from pyruntime.engine import transfers

    header = request.headers.get("x-registry-auth", "")
    return json_lines(lambda tell: transfers.push(engine, request.params["name"], request.query.text("tag"),
                                                  request.query.text("platform"), header, tell, request.gone))  # fmt: skip


def load(engine: Engine, request: Request) -> Stream:
    """Images out of an archive."""
    from pyruntime.engine import transfers

    return json_lines(lambda tell: transfers.load(engine, request.body, request.query.text("platform"), tell))


def save(engine: Engine, request: Request) -> Stream:
    """An archive of images."""
    from pyruntime.engine import transfers

    names = [request.params["name"]] if "name" in request.params else request.query.all("names")
    return Stream(lambda sink: transfers.save(engine, names, request.query.text("platform"), sink.write), TAR)


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

    return answer(registries.login(engine, lower_keys(request.json())))


ROUTES = (
    ("GET", "/images/json", list_),
    ("GET", "/images/search", search),
    ("GET", "/images/get", save),
    ("GET", "/images/{name*}/get", save),
    ("GET", "/images/{name*}/json", inspect),
    ("GET", "/images/{name*}/history", history),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("POST", "/images/prune", prune),
    ("POST", "/images/{name*}/push", push),
    ("POST", "/images/{name*}/tag", tag),
    ("DELETE", "/images/{name*}", remove),
    ("GET", "/distribution/{name*}/json", distribution),
    ("POST", "/auth", auth),
)
