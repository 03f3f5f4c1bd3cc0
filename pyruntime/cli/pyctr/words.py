"""Words of a docker-style command line to values: GNU flags, letters in one word, flags after positionals.

Texts are those that docker's users know (`unknown flag: --x`); main.py adds the usage line and exits with 125.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyruntime.cli.flags import BOOL, INT, LIST, Flag
from pyruntime.cli.parse import BOOLEANS, HelpAsked, Parsed
from pyruntime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Reader:
    """Reads one command's words."""

    def __init__(self, flags: Sequence[Flag], words: Sequence[str]) -> None:
        self.long = {flag.name: flag for flag in flags}
        self.short = {flag.short: flag for flag in flags if flag.short}
        self.values: dict[str, Any] = {flag.key: flag.default for flag in flags}
        self.given: set[str] = set()
        self.words = list(words)
        self.rest: list[str] = []

    def run(self, stops: int) -> Parsed:
        """Flags and positionals; the positional of number `stops` ends the flags, where that is not 0."""
        while self.words:
            word = self.words.pop(0)
            if word == "--":
                self.rest += self.words
                break
            if word == "-" or not word.startswith("-"):
                self.rest.append(word)
                if len(self.rest) == stops:
                    self.rest += self.words
                    break
            elif word.startswith("--"):
                self._long(word)
            else:
                self._letters(word)
        return Parsed(self.values, frozenset(self.given), tuple(self.rest))

    def _long(self, word: str) -> None:
        name, equals, text = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        flag = self.long.get(name)
        if flag is None:
            if name == "help":
                raise HelpAsked
            raise UsageError(f"unknown flag: --{name}")
        if flag.kind == BOOL:
            self._set(flag, text if equals else "true")
        elif equals or self.words:
            self._set(flag, text if equals else self.words.pop(0))
        else:
            raise UsageError(f"flag needs an argument: --{name}")

    def _letters(self, word: str) -> None:
        letters = word[1:]
        while letters:
            flag = self.short.get(letters[0])
            if flag is None:
                if letters[0] == "h":
                    raise HelpAsked
                raise UsageError(f"unknown shorthand flag: '{letters[0]}' in -{letters}")
            rest = letters[1:]
            if flag.kind == BOOL:
                if rest.startswith("="):
                    self._set(flag, rest[1:])
                    return
                self._set(flag, "true")
                letters = rest
                continue
            if not rest and not self.words:
                raise UsageError(f"flag needs an argument: '{letters[0]}' in -{letters}")
            self._set(flag, rest.removeprefix("=") if rest else self.words.pop(0))
            return

    def _set(self, flag: Flag, text: str) -> None:
        self.given.add(flag.key)
        if flag.kind == BOOL:
            if text not in BOOLEANS:
                raise _invalid(flag, text, "ParseBool")
            self.values[flag.key] = BOOLEANS[text]
        elif flag.kind == INT:
            try:
                self.values[flag.key] = int(text)
            except ValueError:
                raise _invalid(flag, text, "ParseInt") from None
        elif flag.kind == LIST:
            if flag.metavar == "filter" and text and "=" not in text:
                raise UsageError(f'invalid argument "{text}" for "{_shown(flag)}" flag: bad format of filter '
                                 "(expected name=value)")  # fmt: skip
            self.values[flag.key] = (*self.values[flag.key], text)
        else:
            self.values[flag.key] = text


def _invalid(flag: Flag, text: str, function: str) -> UsageError:
    """The error for a value of the wrong type."""
    return UsageError(f'invalid argument "{text}" for "{_shown(flag)}" flag: strconv.{function}: parsing "{text}": '
                      "invalid syntax")  # fmt: skip


def _shown(flag: Flag) -> str:
    """Both names of a flag."""
    return f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"


def parse_words(flags: Sequence[Flag], words: Sequence[str], *, stops: int = 0) -> Parsed:
    """Values of all flags, which were given, and the positionals; what follows positional `stops` are no flags.

    Raises UsageError, HelpAsked for -h and --help.
    """
    return _Reader(flags, words).run(stops)
