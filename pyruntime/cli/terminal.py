"""Text laid out for a reader: as wide as the terminal where there is one, unbroken in a pipe."""

from __future__ import annotations

import posix

PIPE = 0  # of columns(): no terminal, no limit
LEAST = 24  # columns; a text with less room beside its name goes below it
BELOW = 8  # how far it is moved in there


def columns() -> int:
    """Columns of the terminal that standard output is, 0 when it is none or does not know."""
    try:
        return posix.get_terminal_size(1).columns
    except OSError:
        return PIPE


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns where its words allow; one line when that is 0."""
    lines, line = [], ""
    for word in text.split():
        if line and width and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".lstrip()
    return [*lines, line]


def rows(pairs: list[tuple[str, str]], *, margin: int, gap: int, width: int) -> str:
    """Names to the left, their texts in a column of their own; longer ones go on below themselves."""
    column = margin + max([len(name) for name, _ in pairs], default=0) + gap
    beside = not width or width - column >= LEAST
    indent = column if beside else BELOW
    lines = []
    for name, text in pairs:
        first, *more = wrap(text, max(width - indent, LEAST) if width else 0)
        start = f"{' ' * margin}{name}"
        lines += [f"{start.ljust(column)}{first}".rstrip()] if beside else [start, f"{' ' * indent}{first}"]
        lines += [f"{' ' * indent}{line}" for line in more]
    return "".join([f"{line}\n" for line in lines])
