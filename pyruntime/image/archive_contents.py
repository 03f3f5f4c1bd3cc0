"""What an archive or an OCI layout holds, by name: its documents, its content, and links that stay inside.

A tar is read once, from its first byte to its last, and its files go to `blobs` as they pass; a layout on disk is read
where it is asked for. Names are text of the archive's maker: none leads out of it.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Protocol

from pyruntime.errors import DigestMismatch, ImageError, InvalidImage
from pyruntime.image.archive_blobs import CHUNK_BYTES, named_digest
from pyruntime.image.archive_confined import inflated
from pyruntime.image.archive_tar import TarReader
from pyruntime.image.digest import algorithm_of, encoded_of
from pyruntime.image.inroot import open_in_root, read_in_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.image.archive_blobs import Blobs
    from pyruntime.image.archive_inflate import Read
    from pyruntime.image.archive_tar import Entry

DOCUMENTS = ("index.json", "manifest.json", "oci-layout")
DOCUMENT_MAX_BYTES = 4 << 20
LINKS_MAX = 8
# Of the oldest form, beside each layer (archive_legacy.py). Archives of today have them too, and nothing needs them there.
OLD_DOCUMENT = re.compile(r"repositories|([0-9a-f]{64})/json")
NAMES_MAX = 32 << 20  # characters of all names and targets of links
OLD_MAX_BYTES = 16 << 20  # of all of them; what is more is passed over
_IGNORED = ("/VERSION", "/json")


class Contents(Protocol):
    """An opened archive."""

    blobs: Blobs

    def document(self, name: str) -> bytes | None:
        """One of DOCUMENTS or an OLD_DOCUMENT, None when it is not there."""

    def layer_ids(self) -> tuple[str, ...]:
        """IDs of the layers that have an OLD_DOCUMENT, in order."""

    def digest_at(self, name: str) -> str:
        """The digest of the file `name`, a path that a document gives. Raises InvalidImage when there is none."""

    def take(self, digest: str, size: int = -1) -> bool:
        """Makes sure that `blobs` has the content; False when the archive lacks it. Raises DigestMismatch."""


def clean_name(name: str, *, base: str = "") -> str:
    """A path inside the archive without dots, `base` before it. Raises InvalidImage when it would leave."""
    parts: list[str] = []
    for part in ([] if name.startswith("/") else base.split("/")) + name.split("/"):
        if part == "..":
            if not parts:
                raise InvalidImage(f"the archive names a file outside of itself: {name!r}", value=name,
                                   hint="it is damaged, or an attack")
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


class TarContents:
    """A tar, compressed or not, that `read` gives; read to its end when this is made."""

    def __init__(self, read: Read, blobs: Blobs) -> None:
        self.blobs = blobs
        self._documents: dict[str, bytes] = {}
        self._old_bytes = self._names = 0
        self._files: dict[str, str] = {}  # name -> digest
        self._links: dict[str, tuple[str, str]] = {}  # name -> (folder it counts from, target)
        with inflated(read) as plain:
            reader = TarReader(plain)
            for entry in reader:
                self._add(entry, clean_name(entry.name), reader.chunks())

    def document(self, name: str) -> bytes | None:
        """See Contents."""
        return self._documents.get(name)

    def layer_ids(self) -> tuple[str, ...]:
        """See Contents."""
        return tuple(match[1] for name in self._documents if (match := OLD_DOCUMENT.fullmatch(name)) and match[1])

    def digest_at(self, name: str) -> str:
        """See Contents. Links lead to a file of the archive, or nowhere."""
        at = clean_name(name)
        for _ in range(LINKS_MAX):
            if at not in self._links:
                break
            folder, target = self._links[at]
            at = clean_name(target, base=folder)
        if at not in self._files:
            raise InvalidImage(f"the archive has no {name!r}, which its manifest.json names", value=name,
                               hint="it is incomplete: save the image again")
        return self._files[at]

    def take(self, digest: str, size: int = -1) -> bool:
        """See Contents."""
        if self._files.get(_blob_name(digest)) != digest:
            return False
        _check_size(self.blobs.size(digest), digest, size)
        return True

    def _add(self, entry: Entry, name: str, chunks: Iterator[bytes]) -> None:
        self._names += len(name) + len(entry.target)
        if self._names > NAMES_MAX:
            raise InvalidImage(f"the archive has names of more than {NAMES_MAX} characters",
                               hint="it is no archive of images")
        # A name that comes again is the later entry's.
        for table in (self._documents, self._files, self._links):
            table.pop(name, None)
        if entry.kind in {"symlink", "hardlink"}:
            self._links[name] = ("" if entry.kind == "hardlink" else name.rpartition("/")[0], entry.target)
        elif entry.kind == "file" and name in DOCUMENTS:
            if entry.size > DOCUMENT_MAX_BYTES:
                raise InvalidImage(f"{name} has {entry.size} bytes, more than the {DOCUMENT_MAX_BYTES} that are read",
                                   value=name)
            self._documents[name] = b"".join(chunks)
        elif entry.kind == "file" and OLD_DOCUMENT.fullmatch(name):
            self._old_bytes += entry.size
            if self._old_bytes <= OLD_MAX_BYTES:
                self._documents[name] = b"".join(chunks)
        elif entry.kind == "file" and not name.endswith(_IGNORED):
            try:
                self._files[name] = self.blobs.add(chunks, entry.size, named_digest(name))
            except ImageError as error:
                raise error.within(f"the archive's {name}") from None


class LayoutContents:
    """An OCI layout in a folder, given as a directory descriptor that is borrowed."""

    def __init__(self, folder_fd: int, blobs: Blobs) -> None:
        self.blobs = blobs
        self._fd = folder_fd

    def document(self, name: str) -> bytes | None:
        """See Contents."""
        if name not in DOCUMENTS:
            return None
        try:
            return read_in_root(self._fd, name, DOCUMENT_MAX_BYTES)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise InvalidImage(f"{name} has more than the {DOCUMENT_MAX_BYTES} bytes that are read", value=name) from None

    def layer_ids(self) -> tuple[str, ...]:
        """See Contents."""
        return ()

    def digest_at(self, name: str) -> str:
        """See Contents: a file of the layout has the digest of its name."""
        digest = named_digest(clean_name(name))
        if not digest or not self.take(digest):
            raise InvalidImage(f"the layout has no {name!r}, which its manifest.json names", value=name)
        return digest

    def take(self, digest: str, size: int = -1) -> bool:
        """See Contents."""
        if not self.blobs.has(digest):
            try:
                fd = open_in_root(self._fd, _blob_name(digest), os.O_RDONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    return False
                raise
            try:
                self.blobs.add(_pieces(fd), os.fstat(fd).st_size, digest)
            finally:
                os.close(fd)
        _check_size(self.blobs.size(digest), digest, size)
        return True


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, CHUNK_BYTES):
        yield piece


def _check_size(found: int, digest: str, size: int) -> None:
    if size not in {-1, found}:
        raise DigestMismatch(f"content {digest} has {found} bytes, expected {size}", value=digest)


def _blob_name(digest: str) -> str:
    return f"blobs/{algorithm_of(digest)}/{encoded_of(digest)}"


