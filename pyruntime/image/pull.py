"""Pull: an image from a registry into the store, layers side by side, everything verified before it can be seen.

    reference -> manifest or index -> manifest of the platform -> config
        for each layer the store lacks, three at a time:
            registry -> chunk -> store's ingest (file, digest)        one thread: receive, hash, write, hand on
                              -> unpacker's pipe -> helper process    inflates, hashes the tar, extracts
        compare size, digest, DiffID -> settle in layer order -> commit_image

A chunk is in the file and in the pipe before the next one is read, so that transfer, inflation and extraction overlap
and a slow disk slows the sender. Nothing is visible before commit_image: a pull that ends at any instant leaves parts
of blobs, which the next one goes on with, and no image.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from pyruntime.errors import (
    Cancelled,
    DigestMismatch,
    ImageError,
    ImageNotFound,
    InvalidImage,
    RegistryError,
    UnpackError,
)
from pyruntime.image.config import CONFIG_MAX_BYTES, check_layers, parse_config
from pyruntime.image.digest import short
from pyruntime.image.jobs import side_by_side
from pyruntime.image.media import CONFIG_TYPES, INDEX_DEPTH_MAX, LAYER_TYPES, Index, parse_manifest
from pyruntime.image.platform import host_platform, rank, select
from pyruntime.image.progress import Progress, Reporter
from pyruntime.image.store import NewLayer
from pyruntime.image.unpack import LayerUnpack, overlay_mode, settle
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pyruntime.image.config import ImageConfig
    from pyruntime.image.media import Descriptor, Manifest
    from pyruntime.image.platform import Platform
    from pyruntime.image.reference import Reference
    from pyruntime.image.registry import RegistryClient
    from pyruntime.image.store import Image, Ingest, Lease, Store
    from pyruntime.image.unpack import LayerResult

    Chunks = Generator[tuple[bytes, bool], None, None]  # (bytes, whether they are new)
    Unpacker = Callable[[str, str], LayerUnpack]  # (empty directory, the layer's digest)

DOWNLOADS = 3
CHUNK_BYTES = 1 << 20  # of a blob that is read from the store


def unpacker(path: str, layer: str) -> LayerUnpack:
    """Layers for overlay mounts of this user."""
    return LayerUnpack(path, mode=overlay_mode(), layer=layer)


def pull(store: Store, client: RegistryClient, reference: Reference, *, platform: Platform | None = None,
         progress: Callable[[Progress], None] | None = None, cancel: threading.Event | None = None,
         downloads: int = DOWNLOADS, unpack: Unpacker = unpacker) -> Image:  # fmt: skip
    """Pulls one image and names it `reference` (`latest` when it has neither tag nor digest).

    `platform` None is the machine's own, with a warning where the image is made for another. Raises Cancelled soon
    after `cancel` is set; RegistryError, ImageNotFound (no such platform), InvalidImage, DigestMismatch, UnpackError,
    StoreError.
    """
    if not (reference.tag or reference.digest):
        reference = reference.replace(tag="latest")
    with store.lease() as lease:
        work = Pull(store, client, reference, lease, Reporter(progress), cancel or threading.Event())
        return work.run(platform, downloads, unpack)


def pull_all_tags(store: Store, client: RegistryClient, reference: Reference, *, platform: Platform | None = None,
                  progress: Callable[[Progress], None] | None = None, cancel: threading.Event | None = None,
                  downloads: int = DOWNLOADS, unpack: Unpacker = unpacker) -> list[Image]:  # fmt: skip
    """Pulls every tag of a repository. Raises ImageNotFound for one without tags, and what `pull` raises."""
    cancel = cancel or threading.Event()
    with client.operation(cancel) as own:
        tags = list(own.tags(reference.name))
    if not tags:
        raise ImageNotFound(f"repository {reference.familiar_name} has no tags", value=reference.name)
    return [pull(store, client, reference.with_tag(tag), platform=platform, progress=progress, cancel=cancel,
                 downloads=downloads, unpack=unpack) for tag in tags]


class Wanted(Record):
    """A layer of the image; `there`: the store has it unpacked and its blob."""

    descriptor: Descriptor
    chain_id: str
    diff_id: str
    path: str  # of its files when the store has them, else ""
    there: bool


class Pull:
    """One pull under a lease."""

    def __init__(self, store: Store, client: RegistryClient, reference: Reference, lease: Lease, report: Reporter,
                 cancel: threading.Event) -> None:
        self.store, self.client, self.reference, self.lease = store, client, reference, lease
        self.report, self.cancel = report, cancel

    def run(self, platform: Platform | None, downloads: int, unpack: Unpacker) -> Image:
        """All of it; the image."""
        reference, report = self.reference, self.report
        before = self._known()
        report.say(str(reference) if reference.digest else reference.tag, f"Pulling from {reference.path}")
        with self.client.operation(self.cancel) as client:
            top, manifest = self._manifest(client, platform, before)
            config = self._config(client, manifest, platform)
        layers = self._wanted(manifest, config)
        done = Layers(self, layers, unpack).run(downloads)
        image = self.store.commit_image(self.lease, reference, manifest.digest, done, target_digest=top)
        report.say("", f"Digest: {top}")
        fresh = before is None or before.id != image.id
        report.say("", f"Status: {'Downloaded newer image' if fresh else 'Image is up to date'} for {reference.familiar}")
        return image

    def _known(self) -> Image | None:
        """The image that has the name now."""
        try:
            return self.store.find(self.reference.familiar)
        except ImageError:
            return None

    # ---- documents ----
    def _manifest(self, client: RegistryClient, platform: Platform | None, before: Image | None) -> tuple[str, Manifest]:
        """(digest of what the reference names, manifest of the platform)."""
        found, top = self._document(client, self.reference, before), ""
        for _ in range(INDEX_DEPTH_MAX + 1):
            top = top or found.digest
            if not isinstance(found, Index):
                return self.reference.digest or top, found
            entry = select(found, platform or host_platform())
            raw, content_type = self._stored(entry.digest), ""
            if not raw:
                fetched = client.manifest(self.reference.with_digest(entry.digest))
                raw, content_type = fetched.raw, fetched.content_type
                self.store.put_blob(raw, self.lease, entry.digest)
            if len(raw) != entry.size:
                raise DigestMismatch(f"manifest {entry.digest} has {len(raw)} bytes, the index says {entry.size}",
                                     value=entry.digest)
            found = parse_manifest(raw, content_type, entry.media_type)
        raise InvalidImage(f"{self.reference.familiar}: more than {INDEX_DEPTH_MAX} indexes inside each other",
                           value=self.reference.familiar)

    def _document(self, client: RegistryClient, reference: Reference, before: Image | None) -> Manifest | Index:
        """What the reference names. A name that we know is asked for with HEAD: registries count the GETs."""
        digest = reference.digest
        if not digest and before is not None:
            with suppress(RegistryError):  # the GET tells why
                digest = client.manifest(reference, head=True).digest
        raw = self._stored(digest) if digest else b""
        if raw:
            return parse_manifest(raw)
        fetched = client.manifest(reference)
        self.store.put_blob(fetched.raw, self.lease, fetched.digest)
        return parse_manifest(fetched.raw, fetched.content_type)

    def _stored(self, digest: str) -> bytes:
        return self.store.read_blob(digest) if self.store.has_blob(digest, self.lease) else b""

    def _config(self, client: RegistryClient, manifest: Manifest, platform: Platform | None) -> ImageConfig:
        """The image's configuration, stored. Raises InvalidImage for an artifact and for another platform."""
        descriptor, name = manifest.config, self.reference.familiar
        if descriptor.media_type not in CONFIG_TYPES:
            raise InvalidImage(f"{name} is no image: its config is {descriptor.media_type}", field="/config/mediaType",
                               value=descriptor.media_type, hint="artifacts are for the programs that made them")
        if descriptor.size > CONFIG_MAX_BYTES:
            raise InvalidImage(f"the config of {name} is larger than {CONFIG_MAX_BYTES} bytes", field="/config/size",
                               value=str(descriptor.size))
        raw = self._stored(descriptor.digest) or descriptor.data
        raw = raw or client.blob_bytes(self.reference.name, descriptor.digest, descriptor.size, what="config")
        config = parse_config(raw)
        check_layers(config, len(manifest.layers))
        self.store.put_blob(raw, self.lease, descriptor.digest)
        wanted = platform or host_platform()
        if rank(wanted, config.platform) is None:
            said = (f"image with reference {name} was found but its platform ({config.platform}) does not match the "
                    f"{'specified' if platform else 'detected host'} platform ({wanted})")
            if platform:
                raise ImageNotFound(said, value=str(platform))
            self.report.say("", f"WARNING: {said}")
        return config

    def _wanted(self, manifest: Manifest, config: ImageConfig) -> list[Wanted]:
        """The layers, base first, with what the store has of them."""
        found = []
        for number, (descriptor, chain, diff) in enumerate(zip(manifest.layers, config.chain_ids, config.diff_ids)):
            if descriptor.media_type not in LAYER_TYPES:
                raise InvalidImage(f"layer {number} of {self.reference.familiar} is {descriptor.media_type}: no known layer",
                                   field=f"/layers/{number}/mediaType", value=descriptor.media_type)
            layer = self.store.layer(chain, self.lease)
            blob = self.store.has_blob(descriptor.digest, self.lease)
            found.append(Wanted(descriptor, chain, diff, layer.path if layer else "", bool(layer) and blob))
        return found


class Layers:
    """The layers of one pull: fetched and unpacked side by side, then settled."""

    def __init__(self, pull: Pull, wanted: list[Wanted], unpack: Unpacker) -> None:
        self.store, self.lease, self.report = pull.store, pull.lease, pull.report
        self.client, self.name, self.cancel = pull.client, pull.reference.name, pull.cancel
        self.wanted, self.unpack = wanted, unpack
        self.stop = threading.Event()  # the caller's cancel, or one layer's failure

    def run(self, downloads: int) -> list[NewLayer]:
        """What to commit, base first. Raises the first layer's error."""
        self._announce(downloads)
        with self.client.operation(self.stop) as client:
            jobs = [partial(self._layer, client, one) for one in self.wanted if not one.there]
            made = iter(side_by_side(jobs, downloads, cancel=self.cancel, stop=self.stop))
        return self._settled([None if one.there else next(made) for one in self.wanted])

    def _announce(self, downloads: int) -> None:
        for one in self.wanted:
            name = short(one.descriptor.digest)
            self.report.say(name, "Already exists" if one.there else "Pulling fs layer")
        for one in [one for one in self.wanted if not one.there][downloads:]:
            self.report.say(short(one.descriptor.digest), "Waiting")

    def _settled(self, results: list[tuple[str, LayerResult] | None]) -> list[NewLayer]:
        """Unpacked layers on top of those that were there."""
        fresh = [result for result in results if result is not None]
        lowers = [one.path for one, result in zip(self.wanted, results) if result is None]
        for text in settle(fresh, lowers[::-1]) if fresh else ():
            self.report.say("", f"WARNING: {text}")
        return [NewLayer(one.chain_id, one.diff_id, result[0] if result else None, result[1].size if result else 0)
                for one, result in zip(self.wanted, results)]

    # ---- one layer, in a thread of its own ----
    def _layer(self, client: RegistryClient, one: Wanted) -> tuple[str, LayerResult] | None:
        """(directory, result) of an unpacked layer; None when only its blob was missing."""
        descriptor, name = one.descriptor, short(one.descriptor.digest)
        path = "" if one.path else self.store.stage_layer(self.lease)
        with self.store.ingest(descriptor.digest, descriptor.size, self.lease, cancel=self.stop) as ingest:
            result = None
            if not ingest.complete:
                result = self._fetch(client, descriptor, path, ingest)
            elif path:
                result = self._feed(_Sink(self.unpack, path, descriptor.digest), self._blob(descriptor), None)
        if path:
            if result is None or result.diff_id != one.diff_id:
                raise DigestMismatch(f"layer {descriptor.digest} unpacks to {result and result.diff_id}, its image's config "
                                     f"says {one.diff_id}", field="/rootfs/diff_ids", value=descriptor.digest)
            for text in result.warnings:
                self.report.say("", f"WARNING: layer {name}: {text}")
        self.report.say(name, "Pull complete")
        return (path, result) if path and result else None

    def _fetch(self, client: RegistryClient, descriptor: Descriptor, path: str, ingest: Ingest) -> LayerResult | None:
        """Goes on with what was kept. Bytes that turn out wrong are fetched once more, all of them, from the origin."""
        kept = ingest.resumed
        urls = descriptor.urls if descriptor.is_foreign else ()
        try:
            chunks = self._kept_and_rest(client, descriptor, ingest, urls)
            return self._feed(_Sink(self.unpack, path, descriptor.digest), chunks, ingest)
        except DigestMismatch:
            if not kept and not urls and not client.has_mirrors(self.name):
                raise
        ingest.restart()
        return self._feed(_Sink(self.unpack, path, descriptor.digest), self._whole(client, descriptor), ingest)

    def _kept_and_rest(self, client: RegistryClient, descriptor: Descriptor, ingest: Ingest,
                       urls: tuple[str, ...]) -> Chunks:  # fmt: skip
        """Those of an earlier try, then the rest."""
        at = ingest.offset
        for data in ingest.read_partial():
            yield data, False
        for data in client.blob(self.name, descriptor.digest, descriptor.size, at, urls=urls):
            yield data, True

    def _whole(self, client: RegistryClient, descriptor: Descriptor) -> Chunks:
        """All of it, from the origin."""
        for data in client.blob(self.name, descriptor.digest, descriptor.size, origin_only=True):
            yield data, True

    def _blob(self, descriptor: Descriptor) -> Chunks:
        with open(self.store.open_blob(descriptor.digest), "rb", buffering=0) as file:
            while data := file.read(CHUNK_BYTES):
                yield data, False

    def _feed(self, sink: _Sink, chunks: Chunks, ingest: Ingest | None) -> LayerResult | None:
        """Each chunk to the store, when it is new there, and to the unpacker; then both are asked for their verdict.

        A failure closes the source of the chunks, and with it the connection.
        """
        name, at = short(sink.layer), 0
        total = ingest.size if ingest else self.store.blob_size(sink.layer)
        with closing(chunks), sink:
            for data, new in chunks:
                if self.stop.is_set():
                    raise Cancelled("the pull was cancelled", value=sink.layer)
                if new and ingest:
                    ingest.write(data)
                sink.write(data)
                at += len(data)
                self.report.count(name, "Downloading" if ingest else "Extracting", at, total)
            if ingest:
                self.report.say(name, "Verifying Checksum")
                ingest.commit()
                self.report.say(name, "Download complete")
                self.report.count(name, "Extracting", at, total)
            return sink.finish()


class _Sink:
    """The unpacker's end of the pipe. Its refusal waits until the bytes are known to be the right ones.

    `path` "" is no unpacker: the store has the layer unpacked.
    """

    def __init__(self, unpack: Unpacker, path: str, layer: str) -> None:
        self.layer = layer
        self._stack = ExitStack()
        self._refused: UnpackError | None = None
        self._unpack = self._stack.enter_context(unpack(path, layer)) if path else None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def write(self, data: bytes) -> None:
        """The next bytes."""
        if self._unpack is not None and self._refused is None:
            try:
                self._unpack.write(data)
            except UnpackError as error:
                self._refused = error

    def finish(self) -> LayerResult | None:
        """The unpacker's result. Raises UnpackError, also an earlier one."""
        if self._refused is not None:
            raise self._refused
        return self._unpack.finish() if self._unpack is not None else None
