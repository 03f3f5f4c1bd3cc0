"""Strict JSON in, Go-shaped JSON out (security.md R1), without importing the `json` package when all is well.

CPython's `json` is a thin layer over the C module `_json`; importing the layer doubles the start of an interpreter.
This module is the only one that leans on `_json`. Where it is missing, the public `json` gives the same objects.

load: bytes -> the document, or SpecError. dump: a value -> text as Go's encoding/json lays it out.
"""

from __future__ import annotations

from pyruntime.errors import SpecError, Violation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

    ACCELERATED = True
except ImportError:  # an interpreter without the C accelerator: the same names from the public package
    from json.encoder import encode_basestring, encode_basestring_ascii
    from json.scanner import make_scanner

    make_encoder = None  # type: ignore[assignment, misc]
    ACCELERATED = False

MAX_BYTES = 16 << 20  # a config.json is some 30 KB; the largest seen stay below 1 MB
MAX_DEPTH = 64  # runtime-spec documents nest at most 7 deep
MAX_VALUES = 50_000  # values of all kinds; bounds the time that checking takes
MAX_QUOTED = 200  # characters of a value that a message repeats

_SPACE = " \t\n\r"
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")

# What the scanner says -> what Go says about the character found there.
_WHERE = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after value, a comma or a closing bracket is missing",
    "Invalid control character at": "in string literal",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
}


_INFINITY = float("inf")


class _ConstantError(ValueError):
    """NaN, Infinity or -Infinity: in Python's JSON, not in JSON."""


def _refuse_constant(name: str) -> None:
    raise _ConstantError(name)


def _finite(text: str) -> float:
    """A number with a fraction or an exponent; one too large for a double would read as Infinity."""
    value = float(text)
    if value in (_INFINITY, -_INFINITY):
        raise _ConstantError(text)
    return value


class _Context:
    """What the scanner, in C or in Python, asks of json.JSONDecoder (CPython 3.11 to 3.14)."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = staticmethod(_finite)
    parse_int = int
    parse_constant = staticmethod(_refuse_constant)


def _scan_once() -> Callable[[str, int], tuple[Any, int]]:
    """A scanner: (text, index) -> (value, end)."""
    context = _Context()
    if not ACCELERATED:
        from json.decoder import JSONArray, JSONObject, scanstring  # type: ignore[attr-defined]

        context.memo = {}  # type: ignore[attr-defined]
        context.parse_object = JSONObject  # type: ignore[attr-defined]
        context.parse_array = JSONArray  # type: ignore[attr-defined]
        context.parse_string = scanstring  # type: ignore[attr-defined]
    scanner: Callable[[str, int], tuple[Any, int]] = make_scanner(context)  # type: ignore[arg-type]
    return scanner


def _scan(text: str, start: int) -> tuple[Any, int]:
    """(value, end). Raises StopIteration, _ConstantError or JSONDecodeError."""
    try:
        return _scan_once()(text, start)
    except SystemError:
        # To say where a document is wrong, the C scanner looks up json.decoder among the modules already imported,
        # and returns NULL without an exception when it is not there (CPython 3.11).
        import json.decoder  # noqa: F401

        return _scan_once()(text, start)


def load(data: bytes, *, name: str = "config.json", ours: bool = False) -> dict[str, Any]:
    """The JSON object in `data`. Last duplicate key wins, numbers keep their size, key case counts.

    Raises SpecError for: anything that is no single JSON object in UTF-8, NaN and Infinity, data after the object,
    NUL in a string or key, half a surrogate pair, more than MAX_BYTES, MAX_VALUES or MAX_DEPTH. `ours`: a file that
    `dump` wrote, where half a surrogate stands for a byte of a file name that is no UTF-8 (PEP 383).
    """
    text = _decode(data, name)
    _refuse_size(data, name)
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise _bad_character(text, stop.value, "Expecting value", name) from None
    except _ConstantError as constant:
        raise _bad_constant(text, str(constant), name) from None
    except ValueError as error:  # JSONDecodeError, or int() of more digits than it takes
        raise _bad_json(text, error, name) from None
    rest = text[end:].lstrip(_SPACE)
    if rest:
        at = len(text) - len(rest)
        raise _error(f"invalid character {quote(rest[0])} after top-level value", text, at, name)
    if type(value) is not dict:
        if value is None:
            raise SpecError("config cannot be null", hint=f"{name} holds one JSON object")
        raise SpecError(f"cannot unmarshal {kind(value)} into {name} of type object",
                        hint=f"{name} holds one JSON object: {{ ... }}")
    if "\\u0000" in text or "\\ud" in text or "\\uD" in text:
        _refuse_strings(value, ours=ours)
    return value


def _decode(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise SpecError(f"{name} is too large: {len(data)} bytes", hint=f"at most {MAX_BYTES} bytes are read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
                        hint=f"{name}, line {line}: save the file as UTF-8") from None


def _refuse_size(data: bytes, name: str) -> None:
    """Raise for more than MAX_VALUES values or MAX_DEPTH levels, before the recursive scanner sees them."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH and data.count(b",") < MAX_VALUES:
        return
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quote opens or closes a string
    plain = b"".join(plain.split(b'"')[::2])
    if plain.count(b",") >= MAX_VALUES:
        raise SpecError(f"{name} is too large: more than {MAX_VALUES} values",
                        hint="a usual config.json has some hundreds")
    brackets = plain.translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each round takes the innermost level away, all over the document
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    # What is left is deeper, or brackets without partner; at a closing one the scanner gives up.
    deeper = b"[]" in brackets or len(brackets) - len(brackets.lstrip(b"[")) > MAX_DEPTH
    if deeper:
        raise SpecError(f"{name} nests too deep: more than {MAX_DEPTH} levels",
                        hint="a config.json needs fewer than ten levels")


def _refuse_strings(value: Any, *, ours: bool) -> None:
    """Raise for the first string or key below `value` that holds NUL, or half a surrogate unless `ours`."""
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        pointer, item = todo.pop()
        if type(item) is str:
            _refuse_string(item, pointer, ours=ours)
        elif type(item) is list:
            todo.extend((f"{pointer}/{i}", item[i]) for i in range(len(item) - 1, -1, -1))
        elif type(item) is dict:
            for key in item:
                _refuse_string(key, pointer, ours=ours)
            todo.extend((f"{pointer}/{escape(key)}", item[key]) for key in reversed(item))


def _refuse_string(text: str, pointer: str, *, ours: bool) -> None:
    if "\0" in text:
        raise SpecError("string contains a NUL character", field=pointer, value=quote(text),
                        hint="the kernel ends every name and argument at a NUL; remove \\u0000")
    if not ours and any("\ud800" <= c <= "\udfff" for c in text):
        raise SpecError("string contains half a surrogate pair", field=pointer, value=_ascii(text[:60]),
                        hint="\\ud800 to \\udfff come in pairs")


def _position(text: str, at: int, name: str) -> str:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return f"{name}, line {line}, column {column}"


def _error(message: str, text: str, at: int, name: str) -> SpecError:
    return SpecError(message, hint=_position(text, at, name))


def _ends_here(text: str, at: int, said: str) -> bool:
    """True when the file ends inside the value that starts at `at`."""
    rest = text[at:]
    if not rest.strip(_SPACE) or said == "Unterminated string starting at":
        return True
    if said == "Expecting value":
        return rest == "-" or any(word.startswith(rest) for word in ("true", "false", "null"))
    return said.startswith("Invalid \\") and '"' not in rest[:8] and len(rest) < 6


def _bad_character(text: str, at: int, said: str, name: str) -> SpecError:
    """Go's sentence for the character at `at`, or `unexpected EOF` when the text ends there."""
    if not text.strip(_SPACE):
        return SpecError("unexpected EOF", hint=f"{name} is empty")
    if said.startswith("Illegal trailing comma"):  # CPython 3.13 points at the comma, older ones at what follows
        at += text[at] == ","
    if said.startswith(("Expecting", "Illegal")):
        at = len(text) - len(text[at:].lstrip(_SPACE))
    if _ends_here(text, at, said):
        return SpecError("unexpected EOF", hint=_position(text, len(text), name) + ": the file ends inside a value")
    if said.startswith("Invalid \\"):
        return _error("invalid escape in string literal", text, at, name)
    return _error(f"invalid character {quote(text[at])} {_WHERE.get(said, 'in JSON')}", text, at, name)


def _bad_json(text: str, error: ValueError, name: str) -> SpecError:
    at = getattr(error, "pos", None)
    if at is None:
        return SpecError("number has too many digits", hint=f"{name}: no field takes more than 20 digits")
    return _bad_character(text, at, error.msg, name)  # type: ignore[attr-defined]


def _bad_constant(text: str, word: str, name: str) -> SpecError:
    plain = text.replace("\\\\", "  ").replace('\\"', "  ")  # same length, every quote opens or closes a string
    at = offset = 0
    for number, part in enumerate(plain.split('"')):
        found = part.find(word) if number % 2 == 0 else -1
        if found >= 0:
            at = offset + found
            break
        offset += len(part) + 1
    if word[-1].isdigit():
        return _error(f"number {word[:40]} is out of range", text, at, name)
    return _error(f"invalid character {quote(word[0])} looking for beginning of value", text, at, name)


def kind(value: Any) -> str:
    """JSON's word for the type of `value`, as Go's messages have it."""
    return {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}.get(
        type(value), "null")


def quote(text: str) -> str:
    """`text` in double quotes on one line, shortened to MAX_QUOTED characters."""
    if len(text) > MAX_QUOTED:
        text = text[:MAX_QUOTED] + "..."
    quoted: str = encode_basestring(text) if text.isprintable() else _ascii(text)
    return quoted


def _ascii(text: str) -> str:
    return encode_basestring_ascii(text).replace("\x7f", "\\u007f")


def escape(key: str) -> str:
    """`key` as one step of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1") if "~" in key or "/" in key else key


def shown(value: Any) -> str:
    """`value` as JSON on one line, for the `value:` line of an error; long ones are cut."""
    if type(value) is str:
        return quote(value)
    if type(value) in (list, dict) and len(value) > 20:
        return f"{kind(value)} of {len(value)}"
    text = dump(value)
    if not text.isprintable():
        text = _compact(value, _ascii, False) if make_encoder is not None else _ascii(text)
    return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "..."


def dump(value: Any, *, indent: str = "", sort_keys: bool = False) -> str:
    """`value` as JSON text, no newline at the end. `indent`: the unit of one level ("" is one line, no spaces).

    Laid out as Go's encoding/json: `{"a":1}`, or one member a line and `"a": 1`; empty ones `{}` and `[]`. Tuples are
    arrays. Text is UTF-8 except half surrogates (bytes of file names), which are escaped, so that load(ours=True)
    gives them back. Raises ValueError for NaN and infinities, TypeError for what JSON has no form for.
    """
    if indent:
        return _indented(value, "\n", indent, sort_keys)
    if make_encoder is None:
        from json import dumps

        text = dumps(value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)
        return text if _encodable(text) else dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)
    text = _compact(value, encode_basestring, sort_keys)
    return text if _encodable(text) else _compact(value, encode_basestring_ascii, sort_keys)


def _compact(value: Any, encoder: Callable[[str], str], sort_keys: bool) -> str:  # noqa: FBT001 - passed through
    encode = make_encoder({}, _no_form, encoder, None, ":", ",", sort_keys, False, False)
    return "".join(encode(value, 0))


def _no_form(value: object) -> None:
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _indented(value: Any, newline: str, indent: str, sort_keys: bool) -> str:  # noqa: FBT001 - passed through
    deeper = newline + indent
    if isinstance(value, dict) and value:
        keys = sorted(value) if sort_keys else value
        inside = ("," + deeper).join(
            f"{dump(str(key))}: {_indented(value[key], deeper, indent, sort_keys)}" for key in keys)
        return f"{{{deeper}{inside}{newline}}}"
    if isinstance(value, (list, tuple)) and value:
        inside = ("," + deeper).join(_indented(item, deeper, indent, sort_keys) for item in value)
        return f"[{deeper}{inside}{newline}]"
    return dump(value)


def violation(pointer: str, message: str, value: Any = None, hint: str = "") -> Violation:
    """A Violation whose value is shown as JSON; None shows nothing."""
    return Violation(pointer, message, "" if value is None else shown(value), hint)
