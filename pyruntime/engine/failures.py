"""Which status of the Docker API each exception has (contract engine-api 1, errors)."""

from __future__ import annotations

from pyruntime.errors import EngineError, ImageError, RuntimeFailure

INTERNAL = 500


def status_and_text(error: BaseException) -> tuple[int, str]:
    """(HTTP status, message) of an exception. What no rule raised is 500 with its own text."""
    if isinstance(error, (EngineError, ImageError)):
        return error.status, error.message
    if isinstance(error, RuntimeFailure):
        return INTERNAL, error.message
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return INTERNAL, f"{error.strerror.lower()}{where}"
    return INTERNAL, f"{type(error).__name__}: {error}"


def not_built(what: str) -> EngineError:
    """The answer of a family of routes that this version does not have."""
    return EngineError(f"{what} not implemented in this version of pyctrd", status=501)
