"""Go templates for --format: text, actions, pipelines, if, range, with, variables, and the functions of functions.py.

A template is compiled once to closures of (dot, scope) and run over plain JSON values. A callable in a value is a
method: `.Label "x"` calls it, `.ID` does so without arguments. Not here, as nobody needs them on a command line:
define, block, template. Errors have Go's texts, with line and column: `template: :1:2: executing "" at <.X>: …`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyruntime.cli.pyctr.functions import FUNCTIONS, quoted, text_of
from pyruntime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Value = Callable[[Any, "Scope"], Any]
    Piece = Callable[[Any, "Scope", list[str]], None]

ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
TOKEN = re.compile(r"""\s*(?:
    (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`) | (?P<char>'(?:[^'\\]|\\.)+')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))
    | (?P<chain>\.(?:[A-Za-z_]\w*)?(?:\.[A-Za-z_]\w*)*) | (?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)
    | (?P<word>[A-Za-z_]\w*) | (?P<mark>:=|=|\||\(|\)|,)
)""", re.VERBOSE)  # fmt: skip
# null of these fields prints as Go's empty slice or map; of any other as <no value>
NULLS = {"Cmd": "[]", "Entrypoint": "[]", "Env": "[]", "OnBuild": "[]", "Shell": "[]", "RepoTags": "[]",
         "RepoDigests": "[]", "Layers": "[]", "Volumes": "map[]", "Labels": "map[]", "ExposedPorts": "map[]",
         "Warnings": "[]", "Healthcheck": "<nil>"}  # fmt: skip
LITERALS = {"true": True, "false": False, "nil": None}
UNREADABLE = 64
JOINED = frozenset({"if", "with", "range"})


class TemplateError(UsageError):
    """The template is wrong (the program ends with 64 then), or does not fit the value (1)."""

    code = 1


class Break(Exception):
    """{{break}}."""


class Continue(Exception):
    """{{continue}}."""


class Scope:
    """Variables; `$` is the value the template was run with."""

    def __init__(self, names: dict[str, Any], outer: Scope | None = None) -> None:
        self.names = names
        self.outer = outer

    def find(self, name: str) -> Scope | None:
        """The scope that has the variable."""
        if name in self.names:
            return self
        return self.outer.find(name) if self.outer else None


class Template:
    """A compiled template. `missing` words the error of a field that is not there."""

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]] = FUNCTIONS, *,
                 missing: str = 'map has no entry for key "{}"') -> None:  # fmt: skip
        self._pieces = Parser(text, {**FUNCTIONS, **functions}, missing).run()

    def render(self, value: Any) -> str:
        """The template's text for `value`. Raises TemplateError."""
        out: list[str] = []
        _run(self._pieces, value, Scope({"$": value}), out)
        return "".join(out)


def _run(pieces: list[Piece], dot: Any, scope: Scope, out: list[str]) -> None:
    for piece in pieces:
        piece(dot, scope, out)


class Token:
    """One token of an action, with its place in the template."""

    __slots__ = ("at", "kind", "text")

    def __init__(self, kind: str, text: str, at: int) -> None:
        self.kind, self.text, self.at = kind, text, at


class Parser:
    """Text to pieces. An action's tokens are in `_tokens`, read from the left."""

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]], missing: str) -> None:
        self._text = text
        self._functions = functions
        self._missing = missing
        self._at = 0
        self._trim = False
        self._tokens: list[Token] = []
        self._end = 0
        self._names: list[set[str]] = [{"$"}]

    def run(self) -> list[Piece]:
        """All pieces."""
        pieces, word = self._list(())
        assert not word
        return pieces

    # ---- lists of pieces --------------------------------------------------------------------------------------------
    def _list(self, ends: tuple[str, ...]) -> tuple[list[Piece], str]:
        """Pieces up to an action that begins with one of `ends`, whose word comes second."""
        pieces: list[Piece] = []
        self._names.append(set())
        while True:
            found = ACTION.search(self._text, self._at)
            if found is None:
                if "{{" in self._text[self._at :]:
                    raise self._wrong(len(self._text), "unclosed action")
                if ends:
                    raise self._wrong(len(self._text), "unexpected EOF")
                self._plain(pieces, self._text[self._at :], cut=False)
                break
            self._plain(pieces, self._text[self._at : found.start()], cut=bool(found[1]))
            self._at, self._trim = found.end(), bool(found[3])
            if found[2].strip().startswith("/*"):
                continue
            self._tokens = self._scan(found[2], found.start(2))
            self._end = found.end(2)
            if self._tokens and self._tokens[0].kind == "word" and self._tokens[0].text in ends:
                self._names.pop()
                return pieces, self._tokens.pop(0).text
            pieces.append(self._action())
        self._names.pop()
        return pieces, ""

    def _plain(self, pieces: list[Piece], text: str, *, cut: bool) -> None:
        """Text between actions, without the white space that `-` takes."""
        text = text.lstrip(" \t\r\n") if self._trim else text
        text = text.rstrip(" \t\r\n") if cut else text
        if text:
            pieces.append(lambda _dot, _scope, out: out.append(text))

    def _scan(self, body: str, start: int) -> list[Token]:
        """The tokens of an action."""
        tokens, at = [], 0
        while body[at:].strip():
            found = TOKEN.match(body, at)
            if found is None:
                bad = body[at:].strip()[0]
                text = "unterminated quoted string" if bad in "\"`'" else f"unexpected {bad!r} in operand"
                raise self._wrong(start + at, text)
            kind = found.lastgroup or ""
            tokens.append(Token(kind, found[kind], start + found.start(kind)))
            at = found.end()
        return tokens

    # ---- actions ----------------------------------------------------------------------------------------------------
    def _action(self) -> Piece:
        """One action."""
        if not self._tokens:
            raise self._wrong(self._end, "missing value for command")
        first = self._tokens[0]
        if first.kind == "word" and first.text in JOINED:
            self._tokens.pop(0)
            return self._branch(first.text)
        if first.kind == "word" and first.text in ("break", "continue"):
            kind = Break if first.text == "break" else Continue
            return lambda _dot, _scope, _out: _raise(kind())
        if first.kind == "word" and first.text in ("end", "else", "define", "block", "template"):
            raise self._wrong(first.at, f"unexpected {{{{{first.text}}}}}")
        nulls = NULLS.get(first.text.rpartition(".")[2]) if len(self._tokens) == 1 else None
        value, shown = self._pipeline()

        def piece(dot: Any, scope: Scope, out: list[str]) -> None:
            got = value(dot, scope)
            if shown:
                out.append(nulls if got is None and nulls else text_of(got))

        return piece

    def _branch(self, kind: str) -> Piece:
        """if, with, range, to the matching end."""
        self._names.append(set())
        if not self._tokens:
            raise self._wrong(self._end, f"missing value for {kind}")
        names, value = self._range_head() if kind == "range" else ((), self._pipeline()[0])
        body, word = self._list(("end", "else"))
        other: list[Piece] = []
        if word == "else":
            if self._tokens and self._tokens[0].text in ("if", "with"):
                other = [self._branch(self._tokens.pop(0).text)]
            else:
                other, _ = self._list(("end",))
        self._names.pop()
        if kind == "range":
            return _range_piece(names, value, body, other)

        def piece(dot: Any, scope: Scope, out: list[str]) -> None:
            inner = Scope({}, scope)
            got = value(dot, inner)
            _run(body if got else other, got if got and kind == "with" else dot, inner, out)

        return piece

    def _range_head(self) -> tuple[tuple[str, ...], Value]:
        """`$i, $v := pipeline` or a pipeline."""
        names: list[str] = []
        marks = [token.text for token in self._tokens[:4]]
        if len(marks) > 1 and self._tokens[0].kind == "variable" and marks[1] in (",", ":="):
            names = [marks[0], marks[2]] if marks[1] == "," else [marks[0]]
            del self._tokens[: 2 * len(names)]
            self._names[-1] |= set(names)
        return tuple(names), self._pipeline()[0]

    # ---- pipelines --------------------------------------------------------------------------------------------------
    def _pipeline(self, *, closed: bool = False) -> tuple[Value, bool]:
        """(a pipeline's value, whether it is printed: a declaration is not). `closed`: up to a `)`."""
        tokens = self._tokens
        name = mark = ""
        if len(tokens) > 1 and tokens[0].kind == "variable" and tokens[1].text in (":=", "="):
            name, mark = tokens.pop(0).text, tokens.pop(0).text
        value = self._command(None)
        while tokens and tokens[0].text == "|":
            tokens.pop(0)
            value = self._command(value)
        if closed:
            if not tokens:
                raise self._wrong(self._end, "unclosed left paren")
            tokens.pop(0)
        elif tokens:
            raise self._wrong(tokens[0].at, f"unexpected {quoted(tokens[0].text)} in command")
        if not name:
            return value, True
        if mark == ":=":
            self._names[-1].add(name)
        return _assign(name, mark, value), False

    def _command(self, piped: Value | None) -> Value:
        """Operands up to `|`, `)` or the end; the first may be a function or a method, the others are arguments."""
        tokens = self._tokens
        if not tokens or tokens[0].text in ("|", ")"):
            raise self._wrong(tokens[0].at if tokens else self._end, "missing value for command")
        first = tokens.pop(0)
        function = first.kind == "word" and first.text not in LITERALS
        if function and first.text not in self._functions:
            raise self._wrong(first.at, f"function {quoted(first.text)} not defined")
        head = None if function else self._operand(first)
        arguments: list[Value] = []
        while tokens and tokens[0].text not in ("|", ")"):
            token = tokens.pop(0)
            bare = token.kind == "word" and token.text in self._functions
            arguments.append(self._call(token, self._functions[token.text], []) if bare else self._operand(token))
        if piped is not None:
            arguments.append(piped)
        if head is None:
            return self._call(first, self._functions[first.text], arguments)
        if not arguments:
            return head
        if first.kind not in ("chain", "variable"):
            raise self._wrong(first.at, f"can't give argument to non-function {first.text}")
        return self._method(first, arguments)

    def _call(self, token: Token, function: Callable[..., Any], arguments: list[Value]) -> Value:
        """A function's value."""
        if token.text in ("and", "or"):
            stop = token.text == "or"
            return lambda dot, scope: _first(arguments, dot, scope, stop=stop)

        def value(dot: Any, scope: Scope) -> Any:
            try:
                return function(*(argument(dot, scope) for argument in arguments))
            except (TypeError, ValueError, IndexError, KeyError) as error:
                raise self._failed(token, f"error calling {token.text}: {error}") from None

        return value

    def _method(self, token: Token, arguments: list[Value]) -> Value:
        """A field that takes arguments."""
        field = self._operand(token, call=False)

        def value(dot: Any, scope: Scope) -> Any:
            found = field(dot, scope)
            if not callable(found):
                name = token.text.rpartition(".")[2]
                raise self._failed(token, f"{name} has arguments but cannot be invoked as function")
            return found(*(argument(dot, scope) for argument in arguments))

        return value

    def _operand(self, token: Token, *, call: bool = True) -> Value:
        """One operand; a field that is a method is called, unless its arguments are still to come."""
        if token.text == "(":
            value = self._pipeline(closed=True)[0]
            if self._tokens and self._tokens[0].kind == "chain" and self._tokens[0].text != ".":
                chain = self._tokens.pop(0)
                return lambda dot, scope: self._walk(chain, value(dot, scope), call=call)
            return value
        if token.kind == "chain":
            return lambda dot, _scope: self._walk(token, dot, call=call)
        if token.kind == "variable":
            name, dot_, rest = token.text.partition(".")
            if not any(name in names for names in self._names):
                raise self._wrong(token.at, f"undefined variable {quoted(name)}")
            chain = Token("chain", dot_ + rest, token.at)
            return lambda _dot, scope: self._walk(chain, _variable(scope, name), call=call)
        constant = self._constant(token)
        return lambda _dot, _scope: constant

    def _constant(self, token: Token) -> Any:
        """A literal."""
        text = token.text
        if token.kind == "string":
            return text[1:-1] if text[0] == "`" else _unquote(text)
        if token.kind == "char":
            return ord(_unquote(f'"{text[1:-1]}"'))
        if token.kind == "number":
            return int(text, 0) if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)", text) else float(text)
        if token.text in LITERALS:
            return LITERALS[text]
        raise self._wrong(token.at, f"unexpected {quoted(text)} in operand")

    def _walk(self, token: Token, value: Any, *, call: bool) -> Any:
        """The value behind `.A.B`."""
        at = -1
        for name in token.text.split("."):
            at += len(name) + 1
            if not name:
                continue
            where = at - len(name) - 1
            if callable(value):
                value = value()
            if isinstance(value, dict) and (key := _key(value, name)) is not None:
                value = value[key]
            elif value is None:
                raise self._failed(token, f"nil data; no entry for key {quoted(name)}", where)
            elif isinstance(value, dict):
                raise self._failed(token, self._missing.format(name), where)
            else:
                raise self._failed(token, f"can't evaluate field {name} in type {_type(value)}", where)
        return value() if call and callable(value) else value

    # ---- errors -----------------------------------------------------------------------------------------------------
    def _place(self, at: int) -> str:
        line = self._text.count("\n", 0, at)
        return f":{line + 1}:{at - (self._text.rfind(chr(10), 0, at) + 1)}"

    def _wrong(self, at: int, text: str) -> TemplateError:
        """The template cannot be read."""
        error = TemplateError(f"template parsing error: template: {self._place(at).rpartition(':')[0]}: {text}")
        error.code = UNREADABLE
        return error

    def _failed(self, token: Token, text: str, after: int = 0) -> TemplateError:
        """It cannot be run over this value; `after`: so far into the token."""
        return TemplateError(f'template parsing error: template: {self._place(token.at + after)}: executing "" at '
                             f"<{token.text}>: {text}")  # fmt: skip


def _key(value: dict[Any, Any], name: str) -> str | None:
    """The key a field is meant by. Go's fields have capitals that JSON's have not: .APIVersion, .ID, .HTTPProxy."""
    if name in value:
        return name
    return next((key for key in value if key.lower() == name.lower()), None) if name[0].isupper() else None


def _range_piece(names: tuple[str, ...], value: Value, body: list[Piece], other: list[Piece]) -> Piece:
    """Runs `body` for each item; `other` when there is none."""

    def piece(dot: Any, scope: Scope, out: list[str]) -> None:
        got = value(dot, scope)
        items: list[tuple[Any, Any]]
        if isinstance(got, dict):
            items = sorted(got.items())
        elif isinstance(got, int) and not isinstance(got, bool):
            items = [(number, number) for number in range(got)]
        elif got is None or isinstance(got, (list, tuple)):
            items = list(enumerate(got or ()))
        else:
            raise TemplateError(f"template parsing error: range can't iterate over {text_of(got)}")
        if not items:
            _run(other, dot, Scope({}, scope), out)
        for key, item in items:
            variables = dict(zip(names, (key, item) if len(names) > 1 else (item,)))
            try:
                _run(body, item, Scope(variables, scope), out)
            except Continue:
                continue
            except Break:
                break

    return piece


def _raise(error: Exception) -> None:
    raise error


def _first(arguments: list[Value], dot: Any, scope: Scope, *, stop: bool) -> Any:
    """`or` gives the first value that is true, `and` the first that is not; else the last."""
    got = None
    for argument in arguments:
        got = argument(dot, scope)
        if bool(got) is stop:
            break
    return got


def _assign(name: str, mark: str, value: Value) -> Value:
    """`$x := v` in this scope, `$x = v` in the one that has it."""

    def run(dot: Any, scope: Scope) -> None:
        got = value(dot, scope)
        target = scope.find(name) if mark == "=" else scope
        (target or scope).names[name] = got

    return run


def _variable(scope: Scope, name: str) -> Any:
    found = scope.find(name)
    return found.names[name] if found else None


def _type(value: Any) -> str:
    """Go's name of a JSON value's type."""
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), "interface {}")


def _unquote(text: str) -> str:
    """A Go string literal's value."""
    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", _escape, text[1:-1], flags=re.DOTALL)


def _escape(found: re.Match[str]) -> str:
    if found[1] or found[2]:
        return chr(int(found[1] or found[2], 16))
    return {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}.get(found[3], found[3])
