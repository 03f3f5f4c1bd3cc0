"""What a command's function gets, and what it prints with."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyruntime.errors import RuntimeFailure

if TYPE_CHECKING:
    from pyruntime.api.client.connection import Client


class Failed(RuntimeFailure):
    """A command that has told its errors itself; `code` is the program's exit code."""

    def __init__(self, code: int = 1) -> None:
        super().__init__("")
        self.code = code


class Call:
    """One call of one command: its flags, its positionals, and the engine, which is connected when it is first asked."""

    def __init__(self, host: str, values: dict[str, Any], given: frozenset[str], rest: tuple[str, ...]) -> None:
        self.values = values
        self.given = given
        self.rest = rest
        self._host = host
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The engine. Raises Unreachable."""
        if self._client is None:
            from pyruntime.api.client.start import connect

            self._client = connect(self._host)
        return self._client

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def tell(self, text: str) -> None:
        """A line on stderr."""
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Whether the user says yes; no answer is a no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def worded(error: RuntimeFailure | OSError) -> str:
    """The error as docker prints it, with our hint on a line of its own."""
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{(error.strerror or str(error)).lower()}"
    from pyruntime.api.client.connection import ApiError

    prefix = "Error response from daemon: " if isinstance(error, ApiError) else ""
    return "\n".join([f"{prefix}{error}", *error.details()])
