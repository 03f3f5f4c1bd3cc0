"""`import`: a tar of a root file system becomes an image of one layer."""

from __future__ import annotations

import contextlib
import json
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pyruntime.errors import ImageError, InvalidImage, UsageError
from pyruntime.image import media
from pyruntime.image.archive import make_manifest
from pyruntime.image.archive_confined import inflated
from pyruntime.image.archive_inflate import peek, sniff
from pyruntime.image.changes import apply_changes
from pyruntime.image.platform import host_platform
from pyruntime.image.store import NewLayer
from pyruntime.image.unpack import LayerUnpack, overlay_mode, settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyruntime.image.archive_inflate import Read
    from pyruntime.image.content import Lease
    from pyruntime.image.core import Image
    from pyruntime.image.platform import Platform
    from pyruntime.image.reference import Reference
    from pyruntime.image.store import Store

CHUNK_BYTES = 1 << 20
ERRNO = re.compile(r"\[Errno -?\d+\] ")
_TYPES = {"": media.OCI_LAYER, "gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD}


def import_rootfs(store: Store, read: Read, *, reference: Reference | None = None, changes: Sequence[str] = (),
                  message: str = "", source: str = "-", platform: Platform | None = None, created: str = "") -> Image:
    """An image of the tar that `read` gives: plain, gzip, bzip2, xz or zstd.

    `changes`: see apply_changes. `source` is where the tar comes from, for the history when there is no `message`.
    `platform` None: the host's. `created` "": now. The layer is kept as it came in, but for bzip2 and xz, which no
    layer may have. Raises UsageError, InvalidImage for nothing at all, UnpackError, StoreError; then nothing is kept.
    """
    config = apply_changes({}, changes)
    head, whole = peek(read)
    kind = sniff(head)
    if not head:
        raise InvalidImage("the archive to import is empty", value=source)
    with contextlib.ExitStack() as stack:
        if kind not in _TYPES:
            whole, kind = stack.enter_context(inflated(whole)), ""
        lease = stack.enter_context(store.lease())
        layer, digest, size = _take_in(store, whole, lease)
        document = config_document(config, [layer.diff_id], platform=platform or host_platform(), created=created or now(),
                                   message=message or f"Imported from {without_secrets(source)}")
        raw = dump(document)
        manifest = make_manifest(descriptor(media.OCI_CONFIG, store.put_blob(raw, lease), len(raw)),
                                 [descriptor(_TYPES[kind], digest, size)])
        return store.commit_image(lease, reference, store.put_blob(manifest, lease), [layer])


def _take_in(store: Store, read: Read, lease: Lease) -> tuple[NewLayer, str, int]:
    """(the layer, digest and size of its blob): stored and unpacked at once, as the bytes pass."""
    path = store.stage_layer(lease)
    with store.new_blob(lease) as blob, LayerUnpack(path, mode=overlay_mode()) as unpack:
        while piece := read(CHUNK_BYTES):
            blob.write(piece)
            unpack.write(piece)
        result = unpack.finish()
        size = blob.size
        digest = blob.commit()
    settle([(path, result)])
    known = store.layer(result.diff_id, lease)  # of a base layer ChainID and DiffID are one
    return NewLayer(result.diff_id, result.diff_id, None if known else path, result.size), digest, size


def without_secrets(source: str) -> str:
    """A URL without name, password and query, which may be a signature: for histories and errors. Other text as it is."""
    scheme, slashes, rest = source.partition("://")
    if not slashes:
        return source
    place, slash, path = rest.partition("?")[0].partition("#")[0].partition("/")
    return f"{scheme}{slashes}{place.rpartition('@')[2]}{slash}{path}"


@contextmanager
def open_url(url: str) -> Iterator[Read]:
    """A reader of what stands at an http or https URL; a name and password in it are for its host alone.

    Raises UsageError for another URL, ImageError when it fails.
    """
    shown = without_secrets(url)
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{shown!r} is no http or https URL", field="source", value=shown)
    import urllib3

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=30, read=120))
    try:
        pair = urllib3.util.parse_url(url).auth
        headers = urllib3.make_headers(basic_auth=unquote(pair)) if pair else None
        answer = pool.request("GET", url, headers=headers, preload_content=False, decode_content=False)
        try:
            if answer.status != 200:
                raise ImageError(f"{shown} answers {answer.status} {answer.reason}", value=shown)
            yield answer.read
        finally:
            answer.close()
    except (urllib3.exceptions.HTTPError, UnicodeError) as error:
        reason = getattr(error, "reason", "") if isinstance(error, urllib3.exceptions.MaxRetryError) else ""
        known = ERRNO.sub("", str(reason).rpartition(": ")[2]).lower()  # without the object that the library shows first
        known = known or (type(error).__name__ if isinstance(error, ValueError) else str(error))  # its text has the URL
        raise ImageError(f"reading {shown}: {known}", value=shown, hint="is the address right?") from None
    finally:
        pool.clear()


# ---- documents, for commit as well ----
def config_document(config: dict[str, Any], diff_ids: Sequence[str], *, platform: Platform, created: str,
                    message: str = "", author: str = "", history: Sequence[dict[str, Any]] = (),
                    created_by: str = "") -> dict[str, Any]:
    """An image's config: `history` of the base, and one entry for the layer that is new."""
    entry = {"created": created, "created_by": created_by, "author": author, "comment": message}
    document: dict[str, Any] = {"created": created, "author": author, "comment": message,
                                "architecture": platform.architecture, "variant": platform.variant, "os": platform.os,
                                "config": config, "rootfs": {"type": "layers", "diff_ids": list(diff_ids)}}
    document["history"] = [*history, {key: value for key, value in entry.items() if value}]
    return {key: value for key, value in document.items() if value or key == "config"}


def descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    """A descriptor as JSON."""
    return {"mediaType": media_type, "digest": digest, "size": size}


def dump(document: Any) -> bytes:
    """JSON, the same bytes for the same input."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def now() -> str:
    """RFC 3339, to the microsecond."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
