"""Routes of the system: ping, version, info, events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyruntime.api.server.wire import Answer, Stream, answer, encode
from pyruntime.engine import images, system
from pyruntime.engine.events import compile_filters, parse_time
from pyruntime.errors import EngineError

if TYPE_CHECKING:
    from pyruntime.api.server.wire import Request, Sink
    from pyruntime.engine.engine import Engine

# Builder-Version 1 until /session and /grpc are served: command lines before 23 obey it.
PING_HEADERS = (("Builder-Version", "1"), ("Swarm", "inactive"), ("Pragma", "no-cache"),
                ("Cache-Control", "no-cache, no-store, must-revalidate"))  # fmt: skip
# `type` of GET /system/df -> the key of its answer
KINDS = {"container": "Containers", "image": "Images", "volume": "Volumes", "build-cache": "BuildCache"}
OLD_USAGE = (1, 44)
PLAIN = "text/plain; charset=utf-8"


def ping(_engine: Engine, request: Request) -> Answer:
    """Whether the engine answers, and the version that clients negotiate with."""
    return Answer(200, b"" if request.method == "HEAD" else b"OK", PLAIN, PING_HEADERS)


def version(_engine: Engine, _request: Request) -> Answer:
    """Versions of the engine and its parts."""
    return answer(system.version())


def info(engine: Engine, _request: Request) -> Answer:
    """The engine and its machine."""
    return answer(system.info(engine, len(engine.store.images())))


def disk_usage(engine: Engine, request: Request) -> Answer:
    """What takes space; `type` (repeated) names the kinds that are wanted."""
    wanted = request.query.all("type")
    for kind in wanted:
        if kind not in KINDS:
            raise EngineError(f"unknown object type: {kind}", status=400)
    value: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
    for kind in wanted or KINDS:
        value |= images.disk_usage(engine) if kind == "image" else {KINDS[kind]: []}
    if request.version < OLD_USAGE:
        value["BuilderSize"] = 0
        for row in value["Images"] or []:
            row["VirtualSize"] = row["Size"]
    return answer(value)


def events(engine: Engine, request: Request) -> Stream:
    """What happened since, and what happens until; for ever without `until`."""
    matches = compile_filters(request.query.filters())
    since, until = request.query.text("since"), request.query.text("until")
    since_ns, until_ns = parse_time(since), parse_time(until)
    if since_ns is not None and until_ns is not None and since_ns > until_ns:
        raise EngineError(f"`since` time ({since}) cannot be after `until` time ({until})", status=400)

    def produce(sink: Sink) -> None:
        found = engine.events.follow(matches, since_ns, until_ns, request.gone)
        try:
            sink.start()
            for event in found:
                sink.write(encode(event.wire()))
        finally:
            found.close()

    return Stream(produce)


ROUTES = (
    ("GET", "/_ping", ping, True),
    ("HEAD", "/_ping", ping, True),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("GET", "/events", events),
    ("GET", "/system/df", disk_usage),
)
