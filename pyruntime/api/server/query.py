"""Query strings as Docker reads them: booleans, repeated keys, filters in both shapes (contract engine-api 1)."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

from pyruntime.errors import EngineError

FALSE = frozenset({"", "0", "no", "false", "none"})
MAX_FIELDS = 1000


class Query:
    """The fields of a query string. A key that is absent and an empty value are the same but for `has`."""

    def __init__(self, text: str) -> None:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            raise EngineError(f"query string has over {MAX_FIELDS} fields", status=400) from None
        self._values: dict[str, list[str]] = {}
        for key, value in pairs:
            self._values.setdefault(key, []).append(value)

    def has(self, key: str) -> bool:
        """Whether the key stands there at all."""
        return key in self._values

    def text(self, key: str, default: str = "") -> str:
        """The first value."""
        return self._values.get(key, [default])[0]

    def all(self, key: str) -> list[str]:
        """Every value of a repeated key, in order."""
        return list(self._values.get(key, []))

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean: empty, 0, no, false and none are false, all else is true."""
        return self.text(key).strip().lower() not in FALSE if key in self._values else default

    def number(self, key: str, default: int = 0) -> int:
        """A decimal integer. Raises EngineError 400."""
        text = self.text(key)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise EngineError(f'strconv.Atoi: parsing "{text}": invalid syntax', status=400) from None

    def filters(self) -> dict[str, list[str]]:
        """The `filters` field: {"name":{"web":true}} and {"name":["web"]} alike. Raises EngineError 400."""
        text = self.text("filters")
        if not text:
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = False
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise EngineError(f"invalid filter: {text}", status=400)
        return {str(key): _values(text, entry) for key, entry in value.items()}


def _values(text: str, entry: object) -> list[str]:
    """The wanted values of one filter, in either shape."""
    if isinstance(entry, list) and all(isinstance(item, str) for item in entry):
        return entry
    if isinstance(entry, dict):
        return [key for key, wanted in entry.items() if wanted]
    raise EngineError(f"invalid filter: {text}", status=400)
