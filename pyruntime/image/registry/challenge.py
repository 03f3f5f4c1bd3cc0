"""`WWW-Authenticate` read into challenges (RFC 9110, 11.6.1). Pure.

One header field may hold several challenges, and a challenge's parameters are separated by the same comma as the
challenges: a word that is followed by `=` and a value is a parameter, any other word begins the next challenge.
Quoted text may hold commas, and registries do send them (`scope="repository:x:pull,push"`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT = 16384  # characters of a field; what is longer is not read
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(_WORD)
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t,"=]+))')
# The one word that schemes such as Negotiate have in place of parameters.
_OPAQUE = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_BETWEEN = re.compile(r"[ \t,]*")


class Challenge(Record):
    """One way to authenticate. `scheme` is lower case; so are the names of `parameters`."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """The first parameter of that name, "" when there is none."""
        return next((value for key, value in self.parameters if key == name), "")


def parse_challenges(fields: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of all header fields, in order. What cannot be read ends its field, without an error."""
    return tuple(challenge for field in fields for challenge in _parse(field[:LIMIT]))


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while True:
        at = _end(_BETWEEN.match(text, at), at)
        parameter = _PARAMETER.match(text, at)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1] = found[-1].replace(parameters=(*found[-1].parameters, (name.lower(), value)))
            at = parameter.end()
            continue
        scheme = _SCHEME.match(text, at)
        if parameter or not scheme or text[scheme.end() :].lstrip(" \t").startswith("="):
            return found
        found.append(Challenge(scheme[0].lower()))
        at = _end(_OPAQUE.match(text, scheme.end()), scheme.end())


def _end(match: re.Match[str] | None, otherwise: int) -> int:
    return match.end() if match else otherwise
