"""Reads a JSON document of an image field by field; the first broken rule is an InvalidImage that points at it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pyruntime.errors import InvalidImage


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that comes twice is an ambiguity that two readers resolve in two ways."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidImage(f"key {key!r} comes twice in one object", hint="readers would disagree: ask for a repair")
            seen.add(key)
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def load_object(raw: bytes, *, what: str, limit_bytes: int) -> dict[str, Any]:
    """The JSON object `raw` holds; size is checked before anything is parsed. Raises InvalidImage."""
    if len(raw) > limit_bytes:
        raise InvalidImage(f"{what} has {len(raw)} bytes, more than the {limit_bytes} that are read",
                           hint="an image document is small: this is damage or an attack")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidImage(f"{what} is not UTF-8: byte {error.start}", hint="JSON is UTF-8") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidImage(f"{what} is not JSON: {reason}", hint="is it another file, or damaged?") from None
    except InvalidImage as error:
        raise error.within(what) from None
    if not isinstance(value, dict):
        raise InvalidImage(f"{what} is {_kind(value)}, not an object", value=_shown(value))
    return value


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


class Fields:
    """One object of a document. `at` is its JSON pointer. A field that is null counts as absent."""

    def __init__(self, value: Any, at: str, what: str) -> None:
        self.at = at
        self.what = what
        if not isinstance(value, dict):
            raise InvalidImage(f"{what}: {at or 'it'} must be an object, not {_kind(value)}", field=at, value=_shown(value))
        self.values: dict[str, Any] = value

    def has(self, key: str) -> bool:
        """The field is there and not null."""
        return self.values.get(key) is not None

    def refuse(self, key: str, message: str, hint: str = "") -> NoReturn:
        """Raises InvalidImage for the field."""
        value = self.values.get(key)
        raise InvalidImage(f"{self.what}: {self.at}/{key} {message}", field=f"{self.at}/{key}",
                           value="" if value is None else _shown(value), hint=hint)

    def _get(self, key: str, kind: type, *, required: bool) -> Any:
        value = self.values.get(key)
        if value is None:
            if required:
                self.refuse(key, "is missing")
            return None
        if type(value) is not kind:
            self.refuse(key, f"must be {_kind(kind())}, not {_kind(value)}")
        return value

    def text(self, key: str, *, required: bool = False) -> str:
        """A string; "" when absent."""
        return self._get(key, str, required=required) or ""

    def number(self, key: str, *, required: bool = False, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """A whole number in [low, high]; 0 when absent."""
        value: int | None = self._get(key, int, required=required)
        if value is None:
            return 0
        if not low <= value <= high:
            self.refuse(key, f"must be from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        """A boolean; False when absent."""
        return bool(self._get(key, bool, required=False))

    def items(self, key: str, *, required: bool = False) -> list[Any]:
        """An array; empty when absent."""
        return self._get(key, list, required=required) or []

    def table(self, key: str, *, required: bool = False) -> dict[str, Any]:
        """An object; empty when absent."""
        return self._get(key, dict, required=required) or {}

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty when absent."""
        found = self.items(key)
        for number, value in enumerate(found):
            if not isinstance(value, str):
                raise InvalidImage(f"{self.what}: {self.at}/{key}/{number} must be a string, not {_kind(value)}",
                                   field=f"{self.at}/{key}/{number}", value=_shown(value))
        return tuple(found)

    def string_table(self, key: str) -> dict[str, str]:
        """An object of strings; empty when absent. A null value is an empty string, as Go's reader has it."""
        found = self.table(key)
        for name, value in found.items():
            if value is not None and not isinstance(value, str):
                self.refuse(key, f"must hold strings, {name!r} is {_kind(value)}")
        return {name: value or "" for name, value in found.items()}
