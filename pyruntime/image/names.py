"""Images by name and ID: rows to records, look-up, tags, and who uses an image."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from pyruntime.errors import ImageError, ImageNotFound, InvalidReference
from pyruntime.image.config import parse_config
from pyruntime.image.content import read_blob
from pyruntime.image.core import Image
from pyruntime.image.reference import Reference, parse_reference

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from pyruntime.image.config import ImageConfig
    from pyruntime.image.core import Core

_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
CONFIGS_KEPT = 512
_ALL = ("SELECT id, created, size, parent, tagged FROM images", "SELECT image, name, tag, digest FROM refs",
        "SELECT image, blob FROM image_blobs WHERE kind = 'manifest'")
_ONE = (f"{_ALL[0]} WHERE id = ?", f"{_ALL[1]} WHERE image = ?", f"{_ALL[2]} AND image = ?")


def reference_of(name: str, tag: str, digest: str) -> Reference:
    """The reference of a row."""
    domain, _, path = name.partition("/")
    return Reference(domain, path, tag, digest)


class Configs:
    """Parsed configs by ID: immutable, so that an image list parses none twice."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._found: dict[str, ImageConfig] = {}

    def __call__(self, image_id: str) -> ImageConfig:
        """The config. Raises StoreError, DigestMismatch."""
        found = self._found.get(image_id)
        if found is None:
            found = parse_config(read_blob(self._core, image_id, 8 << 20))
            if len(self._found) >= CONFIGS_KEPT:
                self._found.clear()
            self._found[image_id] = found
        return found


def images(core: Core, config_of: Callable[[str], ImageConfig], only: str = "") -> list[Image]:
    """All images, or the one with the ID `only`, newest first."""
    values = (only,) if only else ()
    with core.database.snapshot() as rows:
        found, names, blobs = (rows.execute(query, values).fetchall() for query in (_ONE if only else _ALL))
    tags: dict[str, list[Reference]] = {}
    digests: dict[str, list[Reference]] = {}
    for image, name, tag, digest in names:
        (digests if digest else tags).setdefault(image, []).append(reference_of(name, tag, digest))
    manifests: dict[str, list[str]] = {}
    for image, blob in blobs:
        manifests.setdefault(image, []).append(blob)
    result = []
    for number, created, size, parent, tagged in found:
        try:
            config = config_of(number)
        except ImageError:
            if core.database.read("SELECT 1 FROM images WHERE id = ?", (number,)):
                raise
            continue  # removed since the rows were read
        result.append(Image(number, config, tuple(manifests.get(number, ())), _sorted(tags.get(number)),
                            _sorted(digests.get(number)), size, created, config.chain_ids, parent, tagged))
    return sorted(result, key=lambda image: (image.created, image.id), reverse=True)


def _sorted(found: list[Reference] | None) -> tuple[Reference, ...]:
    return tuple(sorted(found or (), key=lambda reference: reference.familiar))


def lookup(rows: sqlite3.Connection, text: str) -> tuple[str, Reference | None]:
    """(image ID, the reference it was found by, None when by ID). Raises ImageNotFound, InvalidReference."""
    failure: InvalidReference | None = None
    shown = text
    try:
        reference = parse_reference(text)
    except InvalidReference as error:
        failure = error
    else:
        shown = reference.familiar
        if reference.digest:
            reference = reference.replace(tag="")
        found = rows.execute("SELECT image FROM refs WHERE name = ? AND tag = ? AND digest = ?",
                             (reference.name, reference.tag, reference.digest)).fetchone()
        if found:
            return found[0], reference
    prefix = _ID_PREFIX.fullmatch(text)
    if prefix:
        matches = rows.execute("SELECT id FROM images WHERE id GLOB ? LIMIT 2", (f"sha256:{prefix[1]}*",)).fetchall()
        if len(matches) == 1:
            return matches[0][0], None
        if matches:
            raise InvalidReference(f"multiple IDs found with provided prefix: {text}", value=text,
                                   hint="give more digits of the ID")
        shown = text if len(prefix[1]) == 64 or text.startswith("sha256:") else shown
    elif failure:
        raise failure
    raise ImageNotFound(f"No such image: {shown}", value=text, hint="`images` lists what is here, `pull` fetches")


def find(core: Core, text: str) -> str:
    """The image's ID. Raises ImageNotFound, InvalidReference."""
    with core.database.snapshot() as rows:
        return lookup(rows, text)[0]


def set_reference(rows: sqlite3.Connection, reference: Reference, image_id: str) -> None:
    """Points the reference at the image; one with a digest and a tag is known by its digest."""
    tag = "" if reference.digest else reference.tag
    rows.execute("INSERT OR REPLACE INTO refs VALUES(?, ?, ?, ?)", (reference.name, tag, reference.digest, image_id))
    rows.execute("UPDATE images SET tagged = ? WHERE id = ?", (time.time_ns(), image_id))


def tag(core: Core, source: str, reference: Reference) -> str:
    """Names the image `source` as well; its ID. Raises ImageNotFound, InvalidReference."""
    if reference.digest:
        raise InvalidReference("refusing to create a tag with a digest reference", value=reference.familiar,
                               hint="write name:tag")
    with core.database.write() as rows:
        image_id, _ = lookup(rows, source)
        set_reference(rows, reference if reference.tag else reference.replace(tag="latest"), image_id)
    return image_id


def hold(core: Core, holder: str, image_id: str) -> None:
    """The container uses the image: it cannot be removed unforced, its layers not at all. Raises ImageNotFound."""
    with core.database.write() as rows:
        found = rows.execute("SELECT top FROM images WHERE id = ?", (image_id,)).fetchone()
        if not found:
            raise ImageNotFound(f"No such image: {image_id}", value=image_id)
        rows.execute("INSERT OR REPLACE INTO holds VALUES(?, ?, ?)", (holder, image_id, found[0]))


def release(core: Core, holder: str) -> None:
    """The container is gone; nothing happens when it held none."""
    with core.database.write() as rows:
        rows.execute("DELETE FROM holds WHERE holder = ?", (holder,))
