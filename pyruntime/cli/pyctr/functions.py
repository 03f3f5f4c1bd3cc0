"""The functions of --format templates, Go's and docker's, and how Go prints values. Pure."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

if TYPE_CHECKING:
    from collections.abc import Callable

VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")


def text_of(value: Any) -> str:
    """`value` as Go prints it with %v: `map[a:1]`, `[a b]`, `true`, `<no value>`."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(_inner, value)) + "]"
    return str(value() if callable(value) else value)


def _inner(value: Any) -> str:
    return "<nil>" if value is None else text_of(value)


def _kind(value: Any) -> str:
    return {str: "string", bool: "bool", int: "int", float: "float64"}.get(type(value), "interface {}")


def _float(value: float) -> str:
    """%v of a float64: the shortest digits, an exponent from 1e+21 on."""
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return re.sub(r"e([+-])(\d)$", r"e\g<1>0\2", repr(value))


def quoted(text: str) -> str:
    """%q: a Go string literal."""
    return json.dumps(text, ensure_ascii=False)


def to_json(value: Any) -> str:
    """Compact JSON, a table row as an object of all its columns."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=lambda made: made())


def title(text: str) -> str:
    """The first letter of every word in upper case."""
    return re.sub(r"(^|[^\w'])(\w)", lambda found: found[1] + found[2].upper(), text)


def truncate(text: str, size: int) -> str:
    """At most `size` characters."""
    return text[:size]


def pad(text: str, before: int, after: int) -> str:
    """Blanks around a text that is not empty."""
    return " " * before + text + " " * after if text else text


def index(value: Any, *keys: Any) -> Any:
    """value[key1][key2]…; a key that a map does not have gives the zero value. Raises IndexError."""
    for key in keys:
        if isinstance(value, dict):
            strings = all(isinstance(item, str) for item in value.values())
            value = value.get(str(key), "" if strings else None)
        elif value is None:
            raise IndexError("index of nil pointer")
        else:
            if not isinstance(key, int):
                raise TypeError("cannot index slice/array with type string")
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
    return value


def cut(value: Any, *bounds: int) -> Any:
    """`slice`: value[a:b]."""
    low, high = (*bounds, len(value))[:2] if bounds else (0, len(value))
    if not 0 <= low <= high <= len(value):
        raise IndexError(f"index out of range: {high}")
    return value[low:high]


def length(value: Any) -> int:
    """`len`; of null 0."""
    if isinstance(value, (bool, int, float)):
        raise TypeError(f"len of type {'bool' if isinstance(value, bool) else 'int'}")
    return len(value or ())


def equal(first: Any, *others: Any) -> bool:
    """`eq`: the first equals one of the others."""
    if not others:
        raise TypeError("missing argument for comparison")
    return any(_comparable(first, other) and first == other for other in others)


def _comparable(one: Any, two: Any) -> bool:
    """Whether the kinds fit. Raises TypeError."""
    if one is None or two is None:
        return True
    kinds = [("number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__)
             for value in (one, two)]  # fmt: skip
    if kinds[0] != kinds[1]:
        raise TypeError("incompatible types for comparison")
    return True


def less(one: Any, two: Any) -> bool:
    """`lt`."""
    return bool(_comparable(one, two) and one < two)


def printed(*values: Any) -> str:
    """`print`: blanks only between two values that are no strings."""
    text, before = "", True
    for number, value in enumerate(values):
        string = isinstance(value, str)
        text += (" " if number and not string and not before else "") + text_of(value)
        before = string
    return text


def printf(text: str, *values: Any) -> str:
    """`printf` with the verbs people use: v s d q x X t f g e c %."""
    left = list(values)

    def one(found: re.Match[str]) -> str:
        flags, width, precision, verb = found.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        if verb in "vst":
            value, verb = text_of(value), "s"
        elif verb == "q":
            value, verb = quoted(text_of(value)), "s"
        elif verb in "xX" and isinstance(value, str):
            value, verb = value.encode().hex(), "s"
        try:
            return str(f"%{flags}{width}{'.' + precision if precision else ''}{verb}" % value)
        except (TypeError, ValueError):
            return f"%!{verb}({_kind(value)}={text_of(value)})"

    made = VERB.sub(one, text)
    return made + (f"%!(EXTRA {', '.join(text_of(value) for value in left)})" if left else "")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json, "split": lambda text, separator: text.split(separator) if separator else list(text),
    "join": lambda items, separator: separator.join(map(text_of, items or ())),
    "lower": lambda text: text_of(text).lower(), "upper": lambda text: text_of(text).upper(), "title": title,
    "truncate": truncate, "pad": pad, "println": lambda *values: " ".join(map(text_of, values)) + "\n",
    "print": printed, "printf": printf, "len": length, "index": index, "slice": cut, "not": lambda value: not value,
    "eq": equal, "ne": lambda one, two: not equal(one, two), "lt": less,
    "le": lambda one, two: not less(two, one), "gt": lambda one, two: less(two, one),
    "ge": lambda one, two: not less(one, two),
    "html": lambda *values: html.escape(printed(*values)), "urlquery": lambda *values: quote_plus(printed(*values)),
    "and": lambda *values: values, "or": lambda *values: values,
}  # fmt: skip
# In the head of a table a function gives its text back as it is.
HEAD_FUNCTIONS = {**FUNCTIONS, **dict.fromkeys(("json", "title", "lower", "upper", "join", "split", "truncate", "pad"),
                                               lambda text, *_: text)}  # fmt: skip
