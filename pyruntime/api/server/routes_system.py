"""Routes of the system: ping, version, info, events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.api.server.wire import Answer, Stream, answer, encode
from pyruntime.engine import system
from pyruntime.engine.events import compile_filters, parse_time

if TYPE_CHECKING:
    from pyruntime.api.server.wire import Request, Sink
    from pyruntime.engine.engine import Engine

# Builder-Version 1 until /session and /grpc are served: command lines before 23 obey it.
PING_HEADERS = (("Builder-Version", "1"), ("Swarm", "inactive"), ("Pragma", "no-cache"),
                ("Cache-Control", "no-cache, no-store, must-revalidate"))  # fmt: skip
PLAIN = "text/plain; charset=utf-8"


def ping(_engine: Engine, request: Request) -> Answer:
    """Whether the engine answers, and the version that clients negotiate with."""
    return Answer(200, b"" if request.method == "HEAD" else b"OK", PLAIN, PING_HEADERS)


def version(_engine: Engine, _request: Request) -> Answer:
    """Versions of the engine and its parts."""
    return answer(system.version())


def info(engine: Engine, _request: Request) -> Answer:
    """The engine and its machine."""
    return answer(system.info(engine, 0))


def events(engine: Engine, request: Request) -> Stream:
    """What happened since, and what happens until; for ever without `until`."""
    matches = compile_filters(request.query.filters())
    since_ns, until_ns = parse_time(request.query.text("since")), parse_time(request.query.text("until"))
    found = engine.events.follow(matches, since_ns, until_ns, request.gone)

    def produce(sink: Sink) -> None:
        sink.start()
        for event in found:
            sink.write(encode(event.wire()))

    return Stream(produce)


ROUTES = (
    ("GET", "/_ping", ping, True),
    ("HEAD", "/_ping", ping, True),
    ("GET", "/version", version),
    ("GET", "/info", info),
    ("GET", "/events", events),
)
