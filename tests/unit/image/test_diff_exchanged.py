"""A tree that changes while a layer is made of it: an error that names the path and what to do, never a bare OSError."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyruntime.errors import ImageError
from pyruntime.image.diff import tree_layer, upper_layer

if TYPE_CHECKING:
    from collections.abc import Callable


def file(path: Path) -> None:
    path.write_text("text")


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def nothing(_path: Path) -> None:
    pass


@pytest.mark.parametrize("made", [upper_layer, lambda top: tree_layer("", top)], ids=["upper", "tree"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(file, link), (file, file), (file, Path.mkdir), (file, nothing), (link, file), (link, nothing), (Path.mkdir, link),
     (Path.mkdir, file), (Path.mkdir, nothing), (Path.mkdir, Path.mkdir)],
)  # fmt: skip
def test_exchanged(tmp_path: Path, made: Callable[..., object], before: Callable[[Path], None],
                   after: Callable[[Path], None]) -> None:  # fmt: skip
    (tmp_path / "top").mkdir()
    (tmp_path / "top/first").write_text("read while the next one changes")
    target = tmp_path / "top/second"
    before(target)
    pieces = made(str(tmp_path / "top"))
    for _ in range(3):  # the root's entry or the first header, then data: everything was listed by now
        next(pieces)  # type: ignore[call-overload]
    target.rename(tmp_path / "kept")  # so that its inode number does not become free
    after(target)
    with pytest.raises(ImageError, match="^'?second'? was exchanged while it was read$") as caught:
        list(pieces)  # type: ignore[call-overload]
    assert caught.value.hint == "stop or pause what writes there"


def test_a_folder_with_the_number_of_a_file(tmp_path: Path) -> None:
    """Many file systems give a number that became free to the next that is made."""
    (tmp_path / "first").write_text("x")
    (tmp_path / "second").write_text("x")
    pieces = upper_layer(str(tmp_path))
    next(pieces)
    (tmp_path / "second").unlink()
    (tmp_path / "second").mkdir()
    with pytest.raises(ImageError, match="was exchanged while it was read"):
        list(pieces)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")

    def denied(*_: object, **__: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listxattr", lambda place, **more: denied() if isinstance(place, bytes) else [])
    with pytest.raises(ImageError, match="^reading '?file'?: permission denied$"):
        list(upper_layer(str(tmp_path)))
