"""What was probably meant by a word that nothing is called."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that begins with `word`, or that a slip of a finger or two makes of it; "" when none does."""
    names = list(known)
    begun = [name for name in names if word and name.startswith(word)]
    if begun:
        return begun[0]
    distance, name = min([(_distance(word, name), name) for name in names], default=(len(word), ""))
    return name if distance <= max(1, len(word) // 3) and distance < len(word) else ""


def _distance(one: str, two: str) -> int:
    """Letters to put in, leave out, replace or exchange with their neighbour (optimal string alignment)."""
    rows = [list(range(len(two) + 1))]
    for at, letter in enumerate(one, 1):
        row = [at]
        for other, its in enumerate(two, 1):
            best = min(rows[-1][other] + 1, row[-1] + 1, rows[-1][other - 1] + (letter != its))
            if at > 1 and other > 1 and letter == two[other - 2] and one[at - 2] == its:
                best = min(best, rows[-2][other - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
