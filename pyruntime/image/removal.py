"""What goes when an image is removed or pruned: Docker's rules, inside one transaction.

By name: the reference goes; when it was the image's last, the image goes as well unless something needs it. By ID:
all names go if they are of one repository, and the image. Hard conflicts (a running container, a child image) hold
always, soft ones (a stopped container, several names) unless forced.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyruntime.errors import ImageConflict, InvalidReference
from pyruntime.image import layers, names
from pyruntime.image.digest import short
from pyruntime.image.times import parse_rfc3339, parse_when

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Mapping

    from pyruntime.image.config import ImageConfig
    from pyruntime.image.reference import Reference

Report = list[tuple[str, str]]


class Removal:
    """One removal. `report` holds (Untagged or Deleted, text); `blobs` and `gone` are what may go from the disk after it.

    `running`: the holders that run now.
    """

    def __init__(self, rows: sqlite3.Connection, running: Collection[str]) -> None:
        self.rows = rows
        self.running = running
        self.report: Report = []
        self.blobs: list[str] = []
        self.gone: list[tuple[str, str, int]] = []

    def references(self, image_id: str) -> list[Reference]:
        """All names of the image, in docker's order: as texts."""
        found = self.rows.execute("SELECT name, tag, digest FROM refs WHERE image = ?", (image_id,))
        return sorted((names.reference_of(*row) for row in found.fetchall()), key=str)

    def holders(self, image_id: str) -> list[str]:
        """The containers that use the image."""
        found = self.rows.execute("SELECT holder FROM holds WHERE image = ? ORDER BY holder", (image_id,))
        return [row[0] for row in found.fetchall()]

    def has_children(self, image_id: str) -> bool:
        """Another image was built on it here."""
        return bool(self.rows.execute("SELECT 1 FROM images WHERE parent = ?", (image_id,)).fetchone())

    def remove(self, text: str, *, force: bool, prune: bool) -> None:
        """See the module docstring. Raises ImageConflict, ImageNotFound, InvalidReference."""
        image_id, reference = names.lookup(self.rows, text)
        found = self.references(image_id)
        quiet = False
        if reference is not None:
            users = self.holders(image_id)
            if not force and users and _one_repository(found):
                raise ImageConflict(
                    f"conflict: unable to remove repository reference {_quoted(text)} (must force) - container "
                    f"{users[0][:12]} is using its referenced image {short(image_id)}", value=text,
                    hint="remove the container first, or force")
            self._untag_name(image_id, reference)
            if self.references(image_id):
                return
            quiet = True
        elif _one_repository(found):
            self._check(image_id, force=force, names_too=False)
            self._untag_all(image_id)
        self._delete(image_id, force=force, prune=prune, quiet=quiet)

    def _untag_name(self, image_id: str, reference: Reference) -> None:
        """The name goes; with the last tag of a repository go the digests it was known by."""
        self._untag(reference)
        left = [other for other in self.references(image_id) if other.name == reference.name]
        if not reference.digest and all(other.digest for other in left):
            for other in left:
                self._untag(other)

    def _untag_all(self, image_id: str) -> None:
        for reference in self.references(image_id):
            self._untag(reference)

    def _untag(self, reference: Reference) -> None:
        self.rows.execute("DELETE FROM refs WHERE name = ? AND tag = ? AND digest = ?",
                          (reference.name, reference.tag, reference.digest))
        self.report.append(("Untagged", reference.familiar))

    def _conflict(self, image_id: str, *, force: bool, names_too: bool) -> tuple[str, str]:
        """(forcible or not, reason); ("", "") when nothing is against it."""
        if self.has_children(image_id):
            return "cannot be forced", "image has dependent child images"
        users = self.holders(image_id)
        for user in users:
            if user in self.running:
                return "cannot be forced", f"image is being used by running container {user[:12]}"
        if force:
            return "", ""
        if names_too and self.references(image_id):
            return "must be forced", "image is referenced in multiple repositories"
        if users:
            return "must be forced", f"image is being used by stopped container {users[0][:12]}"
        return "", ""

    def _check(self, image_id: str, *, force: bool, names_too: bool) -> None:
        how, reason = self._conflict(image_id, force=force, names_too=names_too)
        if reason:
            hint = "" if how == "cannot be forced" else "remove what uses it first, or force"
            raise ImageConflict(f"conflict: unable to delete {short(image_id)} ({how}) - {reason}", value=image_id,
                                hint=hint)

    def _delete(self, image_id: str, *, force: bool, prune: bool, quiet: bool) -> None:
        """The image and what only it needed; with `prune` its parents as far as nothing names or uses them."""
        while True:
            if quiet and self._conflict(image_id, force=force, names_too=True)[1]:
                return
            self._check(image_id, force=force, names_too=True)
            self._untag_all(image_id)
            parent, top = self.rows.execute("SELECT parent, top FROM images WHERE id = ?", (image_id,)).fetchone()
            found = self.rows.execute("SELECT DISTINCT blob FROM image_blobs WHERE image = ?", (image_id,))
            self.blobs += [row[0] for row in found.fetchall()]
            self.rows.execute("DELETE FROM images WHERE id = ?", (image_id,))
            self.report.append(("Deleted", image_id))
            gone = layers.forget_unused(self.rows, top)
            self.gone += gone
            self.report += [("Deleted", chain) for chain, _, _ in gone]
            if not prune or not self.rows.execute("SELECT 1 FROM images WHERE id = ?", (parent,)).fetchone():
                return
            image_id, force, quiet = parent, False, True

    def prune(self, chosen: Filters, config_of: Callable[[str], ImageConfig]) -> None:
        """Removes every image that the filters choose and nothing uses; what goes may free what it was built on."""
        count = -1
        while count != len(self.report):
            count = len(self.report)
            for (image_id,) in self.rows.execute("SELECT id FROM images ORDER BY created DESC, id").fetchall():
                if self._may_go(image_id, chosen) and chosen.choose(config_of(image_id)):
                    self._untag_all(image_id)
                    self._delete(image_id, force=False, prune=True, quiet=True)

    def _may_go(self, image_id: str, chosen: Filters) -> bool:
        if not self.rows.execute("SELECT 1 FROM images WHERE id = ?", (image_id,)).fetchone():
            return False  # went with its child
        if chosen.dangling and any(reference.tag for reference in self.references(image_id)):
            return False
        return not (self.has_children(image_id) or self.holders(image_id) or self._claimed(image_id))

    def _claimed(self, image_id: str) -> bool:
        """A living lease has just made it, or works with it."""
        return bool(self.rows.execute("SELECT 1 FROM claims WHERE kind = 'image' AND name = ?", (image_id,)).fetchone())


def _quoted(text: str) -> str:
    return f'"{text}"'


def _one_repository(found: list[Reference]) -> bool:
    """At most one tag, and every digest belongs to the same repository."""
    if len(found) <= 1:
        return True
    tags = [reference for reference in found if reference.tag]
    return len(tags) <= 1 and len({reference.name for reference in found}) == 1


class Filters:
    """The filters of prune: dangling, until, label, label!. Raises InvalidReference for another one or a bad value."""

    def __init__(self, filters: Mapping[str, Collection[str]]) -> None:
        for key in filters:
            if key not in {"dangling", "until", "label", "label!"}:
                raise InvalidReference(f"invalid filter '{key}'", value=key, hint="known are dangling, until, label, label!")
        self.dangling = _boolean("dangling", filters.get("dangling", ()), default=True)
        until = list(filters.get("until", ()))
        if len(until) > 1:
            raise InvalidReference("more than one until filter specified", value=", ".join(until))
        self.until_ns = parse_when(until[0], time.time()) if until else None
        self.labels = [_label(text) for text in filters.get("label", ())]
        self.without = [_label(text) for text in filters.get("label!", ())]

    def choose(self, config: ImageConfig) -> bool:
        """The image may go as far as the filters are concerned. One without a date is older than any."""
        created = parse_rfc3339(config.created) if config.created else 0
        if self.until_ns is not None and created > self.until_ns:
            return False
        return (all(_has(config.labels, pair) for pair in self.labels)
                and not any(_has(config.labels, pair) for pair in self.without))


def _boolean(key: str, values: Collection[str], *, default: bool) -> bool:
    words = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    found = {words.get(value.lower()) for value in values}
    if not found:
        return default
    if None in found or len(found) > 1:
        raise InvalidReference(f"invalid filter '{key}=[{' '.join(values)}]'", value=key, hint="write true or false")
    return found == {True}


def _label(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    return key, value if equals else None


def _has(labels: Mapping[str, str], pair: tuple[str, str | None]) -> bool:
    key, value = pair
    return key in labels and (value is None or labels[key] == value)
