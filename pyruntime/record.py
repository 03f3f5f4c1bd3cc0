"""Immutable records: annotations become fields, without the import cost of dataclasses.

A record is a tuple whose fields have names. Creation is one C call, assignment is refused
because there is no instance dictionary, equality asks for the same record type, and `repr`
shows the names. A module that defines records says `from __future__ import annotations`,
so that its annotations are in the class body as text in every Python version.

    class Mount(Record):
        destination: str                  # required
        options: tuple[str, ...] = ()     # has a default

    Mount("/proc"), Mount(destination="/proc"), m.replace(options=("ro",))

A subclass appends its own fields after those of its base. Methods and properties are allowed.
"""

from __future__ import annotations

from _collections import _tuplegetter  # type: ignore[import-not-found]  # what collections.namedtuple uses for its fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_: object):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class RecordMeta(type):
    """Turns the annotations of a class body into tuple fields."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(mcls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> RecordMeta:
        fields: tuple[str, ...] = ()
        defaults: dict[str, Any] = {}
        for base in bases:
            if isinstance(base, RecordMeta):
                fields += base._fields
                defaults.update(base._defaults)
        for field in body.get("__annotations__", ()):
            if field in fields:
                if field in body:
                    defaults[field] = body.pop(field)
                continue
            if field in body:
                defaults[field] = body.pop(field)
            body[field] = _tuplegetter(len(fields), field)
            fields += (field,)
        body["__slots__"] = ()
        body["_fields"] = fields
        body["_defaults"] = defaults
        return super().__new__(mcls, name, bases, body)


class Record(tuple, metaclass=RecordMeta):  # type: ignore[type-arg]  # a subscript here would make an alias object
    """Base of every record; see the module docstring."""

    if TYPE_CHECKING:
        _fields: ClassVar[tuple[str, ...]]
        _defaults: ClassVar[dict[str, Any]]
    else:

        def __new__(cls, *args, **kwargs):
            fields = cls._fields
            if len(args) != len(fields) or kwargs:
                args = _fill(cls, args, kwargs)
            return tuple.__new__(cls, args)

    def __init_subclass__(cls) -> None:
        cls.__match_args__ = cls._fields  # type: ignore[assignment, misc]

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes` applied. Raises TypeError for a name that is no field."""
        values = dict(zip(self._fields, self))
        values.update(changes)
        return type(self)(**values)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self))
        return f"{type(self).__name__}({inside})"

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)


def _fill(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """All field values in order, from positions, names and defaults. Raises TypeError as a call would."""
    fields, defaults = cls._fields, cls._defaults
    if len(args) > len(fields):
        raise TypeError(f"{cls.__name__} takes {len(fields)} fields, {len(args)} given")
    values = list(args)
    for field in fields[len(args) :]:
        if field in kwargs:
            values.append(kwargs.pop(field))
        elif field in defaults:
            values.append(defaults[field])
        else:
            raise TypeError(f"{cls.__name__} needs {field!r}")
    if kwargs:
        raise TypeError(f"{cls.__name__} has no field {next(iter(kwargs))!r} or got it twice")
    return tuple(values)
