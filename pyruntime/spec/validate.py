"""`validate`: everything that is wrong with a config.json, at once, without touching the host.

Three sources: the rules of spec.parse, our JSON Schema (types and names, absent keys), and keys that no chapter of
the specification has, which are legal but mostly typing errors. A place that the rules complain about is not
repeated from the schema. jsonschema is imported here alone, and only when a document is checked.
"""

from __future__ import annotations

from pyruntime.errors import RuntimeFailure, SpecError, Violation
from pyruntime.record import Record
from pyruntime.spec.document import escape, kind, load, quote, violation
from pyruntime.spec.parse import inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyruntime.spec.config import Spec

# JSON Schema's word for a type -> Go's, which the other messages use.
_TYPES = {"object": "object", "array": "array", "string": "string", "boolean": "bool", "integer": "integer"}


class Report(Record):
    """What `validate` found. `spec` is there when no rule is broken, also beside errors of the schema alone."""

    spec: Spec | None
    errors: tuple[Violation, ...]
    warnings: tuple[Violation, ...]

    @property
    def ok(self) -> bool:
        """True when there are no errors."""
        return not self.errors


def validate_document(data: bytes, *, name: str = "config.json") -> Report:
    """All violations of schema and rules in the bytes of a config.json. Raises RuntimeFailure without jsonschema."""
    try:
        document = load(data, name=name)
    except SpecError as error:
        return Report(None, error.violations, ())
    findings = inspect(document)
    errors = findings.errors + findings.strict
    told = frozenset(entry.field for entry in errors)
    schema = load_schema("config")
    errors += tuple(entry for entry in schema_errors(schema, document) if entry.field not in told)
    return Report(findings.spec, errors, findings.warnings + tuple(sorted(_unknown_keys(schema, document))))


def load_schema(name: str) -> dict[str, Any]:
    """One of our JSON Schemas: config, state or features."""
    from importlib.resources import files

    return load(files("pyruntime.spec").joinpath("schema", f"{name}.json").read_bytes(), name=f"{name}.json")


def schema_errors(schema: dict[str, Any], document: object) -> tuple[Violation, ...]:
    """What the schema refuses, by place in the document."""
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise RuntimeFailure(f"validate needs the Python package jsonschema: {error}",
                             hint="install it, or the whole product with its dependencies") from error
    found = {_pointer(error): _explain(error) for error in Draft202012Validator(schema).iter_errors(document)}
    return tuple(found[place] for place in sorted(found))


def _pointer(error: Any) -> str:
    steps = [escape(str(step)) for step in error.absolute_path]
    if error.validator == "required":
        steps.append(escape(_missing(error)))
    return "".join("/" + step for step in steps)


def _missing(error: Any) -> str:
    """The key that a `required` error is about: jsonschema yields one error a key, in the order of the list."""
    absent: list[str] = [key for key in error.validator_value if key not in error.instance]
    return next((key for key in absent if error.message.startswith(repr(key))), absent[0])


def _explain(error: Any) -> Violation:
    pointer, value, rule = _pointer(error), error.instance, error.validator_value
    name = pointer[1:].replace("/", ".") or "config.json"
    if error.validator == "required":
        return violation(pointer, f"{name} is missing", hint="the specification requires it")
    if error.validator == "type":
        hint = "leave the key out" if value is None else f"write a value of type {_TYPES.get(rule, rule)}"
        return violation(pointer, f"cannot unmarshal {kind(value)} into field {name} of type {_TYPES.get(rule, rule)}",
                         value, hint)
    hints = {"enum": "one of " + ", ".join(map(str, rule)) if error.validator == "enum" else "",
             "pattern": f"must match {rule}", "minimum": f"at least {rule}", "maximum": f"at most {rule}",
             "minItems": f"at least {rule}"}
    return violation(pointer, f"{name} has an invalid value", value, hints.get(error.validator, error.message))


def _unknown_keys(schema: dict[str, Any], document: dict[str, Any]) -> Iterable[Violation]:
    """A warning for each key where the schema lists all keys and has not this one; objects of names are left alone."""
    definitions = schema["$defs"]
    todo: list[tuple[dict[str, Any], Any, str]] = [(schema, document, "")]
    while todo:
        rule, value, at = todo.pop()
        if "$ref" in rule:
            rule = definitions[rule["$ref"].rpartition("/")[2]]
        if type(value) is list and "items" in rule:
            todo.extend((rule["items"], item, f"{at}/{index}") for index, item in enumerate(value))
        elif type(value) is dict:
            known = rule.get("properties", {})
            rest = rule.get("additionalProperties", {})
            for key, item in value.items():
                if key in known:
                    todo.append((known[key], item, f"{at}/{escape(key)}"))
                elif rest:
                    todo.append((rest, item, f"{at}/{escape(key)}"))
                elif known:
                    yield violation(f"{at}/{escape(key)}", f"unknown key {quote(key)}", hint=_nearest(key, known))


def _nearest(key: str, known: Iterable[str]) -> str:
    """A hint: the known key that `key` was probably meant to be."""
    from difflib import get_close_matches

    plain = {name.lower(): name for name in known}
    same = plain.get(key.lower())
    if same:
        return f"case counts: write {quote(same)}"
    close = get_close_matches(key.lower()[:40], plain, n=1, cutoff=0.7)
    return f"did you mean {quote(plain[close[0]])}?" if close else "it is ignored"
