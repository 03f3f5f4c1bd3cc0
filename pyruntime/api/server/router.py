"""Paths to handlers: version prefixes, patterns with braces, and the answers for what is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyruntime.errors import EngineError
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyruntime.api.server.wire import Answer, Hijack, Request, Stream

    Handler = Callable[[Request], Answer | Stream | Hijack]

API_VERSION, MIN_API_VERSION = (1, 51), (1, 24)
PREFIX = re.compile(r"/v([0-9]{1,4})\.([0-9]{1,4})(?=/)")
ABSOLUTE = re.compile(r"https?://[^/]*(?=/)", re.IGNORECASE)  # RFC 9112, 3.2.2: a server takes it, proxies send it
BRACES = re.compile(r"\{([a-z]+)(\*?)\}")


class Route(Record):
    """`{id}` in a pattern matches one piece of the path, `{name*}` several. An inline handler runs on the event loop."""

    method: str
    pattern: str
    handler: Handler
    inline: bool = False


class Match(Record):
    """A route found for a path, with what its braces matched."""

    route: Route
    params: dict[str, str]


class Router:
    """Routes in order; the first that matches method and path wins. HEAD is no GET: the reference engine lists both."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = [(route, _compile(route.pattern)) for route in routes]

    def find(self, method: str, path: str) -> Match:
        """The route of a decoded path without prefix. Raises EngineError 404."""
        for route, pattern in self._routes:
            if route.method == method and (found := pattern.fullmatch(path)):
                return Match(route, found.groupdict())
        raise EngineError("page not found", status=404)


def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression."""
    parts, at = [], 0
    for braces in BRACES.finditer(pattern):
        parts += [re.escape(pattern[at : braces.start()]), f"(?P<{braces[1]}>{'.+' if braces[2] else '[^/]+'})"]
        at = braces.end()
    return re.compile("".join([*parts, re.escape(pattern[at:])]))


def version_text(version: tuple[int, int]) -> str:
    """(1, 51) as 1.51."""
    return f"{version[0]}.{version[1]}"


def split_version(raw_path: str) -> tuple[tuple[int, int], str]:
    """(version, decoded path without prefix); without prefix the newest version. Raises EngineError 400."""
    raw_path = ABSOLUTE.sub("", raw_path)
    found = PREFIX.match(raw_path)
    if found is None:
        return API_VERSION, unquote(raw_path)
    version = (int(found[1]), int(found[2]))
    if version > API_VERSION:
        raise EngineError(f"client version {version_text(version)} is too new. "
                          f"Maximum supported API version is {version_text(API_VERSION)}", status=400)  # fmt: skip
    if version < MIN_API_VERSION:
        raise EngineError(f"client version {version_text(version)} is too old. Minimum supported API version is "
                          f"{version_text(MIN_API_VERSION)}, please upgrade your client to a newer version",
                          status=400)  # fmt: skip
    return version, unquote(raw_path[found.end() :])
