"""Every route, and how a function of an engine becomes a handler."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pyruntime.api.server.router import API_VERSION, Route, Router, version_text
from pyruntime.version import VERSION

if TYPE_CHECKING:
    from pyruntime.engine.engine import Engine


def make_router(engine: Engine) -> Router:
    """The routes of `engine`."""
    from pyruntime.api.server import routes_absent, routes_images, routes_system

    rows = (*routes_system.ROUTES, *routes_images.ROUTES, *routes_absent.ROUTES)
    return Router(Route(method, pattern, partial(handler, engine), bool(inline))
                  for method, pattern, handler, *inline in rows)  # fmt: skip


def common_headers() -> tuple[tuple[str, str], ...]:
    """What every answer carries."""
    return (("Api-Version", version_text(API_VERSION)), ("Docker-Experimental", "false"), ("Ostype", "linux"),
            ("Server", f"Docker/{VERSION} (linux)"))  # fmt: skip
