"""How an image came about, newest step first, as `history` shows it. Pure."""

from __future__ import annotations

from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.image.config import ImageConfig

MISSING = "<missing>"


class Step(Record):
    """One line. `id` is an image ID or `<missing>`; `created` RFC 3339 text, "" unknown; `size` what its layer takes."""

    id: str
    created: str
    created_by: str
    size: int = 0
    comment: str = ""
    author: str = ""
    tags: tuple[str, ...] = ()


def compile_history(config: ImageConfig, sizes: Sequence[int], *, image_id: str = "",
                    tags: tuple[str, ...] = ()) -> list[Step]:
    """The steps of an image; the newest carries its ID and tags, the others no ID, as their images are not here.

    `sizes` are those of its layers, base first; an entry without a layer has size 0. Layers beyond the history's
    entries come as nameless steps at the base, and entries beyond the layers have size 0: both are seen in the wild.
    """
    left = list(sizes)
    named = sum(not entry.empty_layer for entry in config.history)
    steps = [Step(MISSING, "", "", left.pop(0)) for _ in range(len(left) - named)]
    for entry in config.history:
        size = 0 if entry.empty_layer or not left else left.pop(0)
        steps.append(Step(MISSING, entry.created, entry.created_by, size, entry.comment, entry.author))
    if not steps:
        steps = [Step(MISSING, config.created, "")]
    steps[-1] = steps[-1].replace(id=image_id or config.digest, tags=tags)
    return steps[::-1]
