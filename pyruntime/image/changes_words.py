"""Words and variables of a Dockerfile's instruction: quotes, escapes, `$x` and `${x…}`. Pure.

Single quotes keep all, double quotes let a backslash escape `$`, `"` and itself, outside a backslash escapes any
character. `${x:-w}`, `${x-w}`, `${x:+w}`, `${x+w}`, `${x:?e}` and `${x?e}` are known; an unset name is empty.
"""

from __future__ import annotations

import re

from pyruntime.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]")  # the last two: of a shell, never set here


def split_words(text: str) -> list[str]:
    """The words, with their quotes and escapes still in them."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'" and at + 1 < len(text):
            word, at = word + text[at : at + 2], at + 2
            continue
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        if char.isspace() and not quote:
            words, word = words + [word] * bool(word), ""
        else:
            word += char
        at += 1
    return words + [word] * bool(word)


def expand(text: str, env: Mapping[str, str]) -> str:
    """The text without quotes and escapes, variables put in. Raises UsageError for a quote or brace left open."""
    return _Reader(text, env).until("")


class _Reader:
    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self.text, self.env = text, env
        self.at = 0

    def until(self, stop: str) -> str:
        """What stands before `stop`, which is read as well; with "" all of the text."""
        text = self.text
        out: list[str] = []
        while self.at < len(text):
            char = text[self.at]
            self.at += 1
            if char == stop:
                return "".join(out)
            if char == "\\":
                out.append(text[self.at : self.at + 1])
                self.at += 1
            elif char == "'":
                out.append(self._single())
            elif char == '"':
                out.append(self._double())
            elif char == "$":
                out.append(self._variable())
            else:
                out.append(char)
        if stop:
            raise self._bad(f"{stop!r} is missing")
        return "".join(out)

    def _single(self) -> str:
        end = self.text.find("'", self.at)
        if end < 0:
            raise self._bad("unexpected end of statement while looking for matching single-quote")
        found, self.at = self.text[self.at : end], end + 1
        return found

    def _double(self) -> str:
        out: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == '"':
                return "".join(out)
            if char == "\\" and self.text[self.at : self.at + 1] in ("$", '"', "\\"):
                char = self.text[self.at]
                self.at += 1
                out.append(char)
            else:
                out.append(self._variable() if char == "$" else char)
        raise self._bad("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        """What stands after `$`."""
        if self.text[self.at : self.at + 1] != "{":
            found = _NAME.match(self.text, self.at)
            if found is None:
                return "$"
            self.at = found.end()
            return self.env.get(found[0], "")
        self.at += 1
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise self._bad("bad substitution")
        self.at = found.end()
        return self._braced(found[0])

    def _braced(self, name: str) -> str:
        value = self.env.get(name)
        colon = self.text[self.at : self.at + 1] == ":"
        self.at += colon
        operator = self.text[self.at : self.at + 1]
        self.at += 1
        if operator == "}" and not colon:
            return value or ""
        if operator not in {"-", "+", "?"}:
            raise self._bad("unsupported modifier in substitution")
        word = self.until("}")
        is_set = bool(value) if colon else value is not None
        if operator == "+":
            return word if is_set else ""
        if not is_set and operator == "?":
            raise UsageError(f"{name}: {word or 'is not set'}", field="change", value=self.text)
        return (value or "") if is_set else word

    def _bad(self, message: str) -> UsageError:
        return UsageError(message, field="change", value=self.text, hint="write a backslash before a quote that is meant")
