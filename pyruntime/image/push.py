"""Push: an image of the store to a registry, byte for byte as a registry or a layout gave it.

    name -> index or manifest with all it names -> each blob, five at a time: there already? mounted? uploaded
         -> manifests, children of an index first, the last one under the tag

An index goes out when all of its manifests are here; what was pulled for one platform goes out as that manifest. An
image of docker's archives or of an import has no manifest but the one made here: its plain layers are gzipped
(packing.py), and it has both manifests from then on.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from pyruntime.errors import ImageError, ImageNotFound, InvalidReference, StoreError
from pyruntime.image.config import parse_config
from pyruntime.image.digest import short
from pyruntime.image.jobs import side_by_side
from pyruntime.image.media import INDEX_DEPTH_MAX, Index, Manifest, parse_manifest
from pyruntime.image.packing import is_plain, packed
from pyruntime.image.platform import rank
from pyruntime.image.progress import Progress, Reporter
from pyruntime.image.store import NewLayer
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyruntime.image.media import Descriptor
    from pyruntime.image.platform import Platform
    from pyruntime.image.reference import Reference
    from pyruntime.image.registry import RegistryClient
    from pyruntime.image.store import Image, Lease, Store

UPLOADS = 5
SOURCES_MAX = 3  # repositories a blob is asked for before it is uploaded


class Pushed(Record):
    """What a registry has under the tag now: digest and size of the manifest or index."""

    tag: str
    digest: str
    size: int


def push(store: Store, client: RegistryClient, reference: Reference, *, platform: Platform | None = None,
         progress: Callable[[Progress], None] | None = None, cancel: threading.Event | None = None,
         uploads: int = UPLOADS, foreign: bool = False) -> Pushed:  # fmt: skip
    """Pushes what the store has under `reference` (`latest` without a tag).

    `platform` chooses one manifest of an index. `foreign`: non-distributable layers go as well. Raises ImageNotFound
    when there is no such image here, InvalidReference for a digest, RegistryError, DigestMismatch, StoreError,
    Cancelled.
    """
    if reference.digest:
        raise InvalidReference("cannot push a digest reference", value=reference.familiar, hint="push a tag")
    reference = reference if reference.tag else reference.replace(tag="latest")
    with store.lease() as lease:
        return Push(store, client, reference, lease, Reporter(progress), cancel or threading.Event()).run(
            platform, uploads, foreign=foreign)


class Push:
    """One push under a lease."""

    def __init__(self, store: Store, client: RegistryClient, reference: Reference, lease: Lease, report: Reporter,
                 cancel: threading.Event) -> None:
        self.store, self.client, self.reference, self.lease = store, client, reference, lease
        self.report, self.cancel, self.stop = report, cancel, threading.Event()

    def run(self, platform: Platform | None, uploads: int, *, foreign: bool) -> Pushed:
        """All of it."""
        reference, name = self.reference, self.reference.name
        self.report.say("", f"The push refers to repository [{name}]")
        try:
            image = self.store.find(str(reference))
        except ImageNotFound:
            raise ImageNotFound(f"An image does not exist locally with the tag: {reference.familiar_name}",
                                value=reference.familiar, hint="pull, build or tag it first") from None
        for chain in image.chain_ids:
            self.store.layer(chain, self.lease)  # they stay, whoever removes the image meanwhile
        documents = self._packed(self._documents(image, platform), image)
        blobs = self._blobs(documents, image, foreign=foreign)
        sources = self._sources()
        for label, _ in blobs.values():
            if label:
                self.report.say(label, "Preparing")
        for label, _ in list(blobs.values())[uploads:]:
            if label:
                self.report.say(label, "Waiting")
        with self.client.operation(self.stop) as client:
            jobs = [partial(self._blob, client, label, descriptor, sources.get(descriptor.digest, ()))
                    for label, descriptor in blobs.values()]
            side_by_side(jobs, uploads, cancel=self.cancel, stop=self.stop)
        with self.client.operation(self.cancel) as client:
            for document in documents[:-1]:
                if not client.has_manifest(name, document.digest):
                    client.put_manifest(name, document.digest, document.raw, document.media_type)
            root = documents[-1]
            client.put_manifest(name, reference.tag, root.raw, root.media_type)
        self._remember(image, root)
        self.report.say("", f"{reference.tag}: digest: {root.digest} size: {len(root.raw)}")
        return Pushed(reference.tag, root.digest, len(root.raw))

    # ---- what is to go ----
    def _documents(self, image: Image, platform: Platform | None) -> list[Manifest | Index]:
        """Manifests and indexes, children first, the root last."""
        known = [reference.digest for reference in image.repo_digests if self.store.has_blob(reference.digest, self.lease)]
        if platform is not None:
            if rank(platform, image.config.platform) is None:
                raise ImageNotFound(f"image {self.reference.familiar} is for {image.config.platform}, not {platform}",
                                    value=str(platform))
            known = []
        missing: ImageError | None = None
        for digest in dict.fromkeys([*known, *image.manifest_digests]):
            try:
                return list(self._tree(digest, 0))
            except StoreError as error:
                missing = error
        raise missing or StoreError(f"image {self.reference.familiar} has no manifest", value=image.id)

    def _packed(self, documents: list[Manifest | Index], image: Image) -> list[Manifest | Index]:
        """The same, with plain layers gzipped where no registry knows the manifest."""
        root = documents[-1]
        known = {reference.digest for reference in image.repo_digests}
        if isinstance(root, Index) or root.digest in known or not is_plain(root):
            return documents

        def tell(layer: Descriptor, at: int) -> None:
            self.report.count(short(layer.digest), "Compressing", at, layer.size)

        return [packed(self.store, self.lease, root, tell=tell, cancel=self.cancel, stop=self.stop)]

    def _tree(self, digest: str, depth: int) -> Iterator[Manifest | Index]:
        """What a digest names and all below it, children first. Raises StoreError when some of it is not here."""
        found = parse_manifest(self.store.read_blob(digest))
        if isinstance(found, Index):
            if depth > INDEX_DEPTH_MAX:
                raise StoreError(f"index {digest} is too deep", value=digest)
            for entry in found.manifests:
                yield from self._tree(entry.digest, depth + 1)
        else:
            for descriptor in (found.config, *found.layers):
                if not self.store.has_blob(descriptor.digest, self.lease) and not descriptor.is_foreign:
                    raise StoreError(f"content {descriptor.digest} is not in the store", value=descriptor.digest)
        yield found

    def _blobs(self, documents: list[Manifest | Index], image: Image, *, foreign: bool) -> dict[str, tuple[str, Descriptor]]:
        """(what users see, descriptor) of every blob by digest, layers before configs; "" for what users do not see."""
        found: dict[str, tuple[str, Descriptor]] = {}
        configs: dict[str, tuple[str, Descriptor]] = {}
        for document in documents:
            if isinstance(document, Index):
                continue
            labels = self._labels(document, image)
            for descriptor, label in zip(document.layers, labels):
                if descriptor.is_foreign and not foreign:
                    self.report.say(label, "Skipped foreign layer")
                elif descriptor.digest not in found:
                    found[descriptor.digest] = (label, descriptor)
            configs[document.config.digest] = ("", document.config)
        return {**found, **{digest: pair for digest, pair in configs.items() if digest not in found}}

    def _labels(self, manifest: Manifest, image: Image) -> list[str]:
        """12 digits for each layer: of its DiffID, as docker shows a push, else of its blob."""
        diff_ids = image.config.diff_ids
        if manifest.config.digest != image.id:
            try:
                diff_ids = parse_config(self.store.read_blob(manifest.config.digest)).diff_ids
            except ImageError:  # of an attestation
                diff_ids = ()
        if len(diff_ids) != len(manifest.layers):
            return [short(layer.digest) for layer in manifest.layers]
        return [short(diff_id) for diff_id in diff_ids]

    def _sources(self) -> dict[str, tuple[str, ...]]:
        """Repositories of the registry that are known to hold a blob: a local image was pulled from or pushed to them."""
        found: dict[str, tuple[str, ...]] = {}
        for image in self.store.images():
            names = {known.name for known in image.repo_digests
                     if known.domain == self.reference.domain and known.name != self.reference.name}
            for digest in image.manifest_digests if names else ():
                manifest = parse_manifest(self.store.read_blob(digest))
                if not isinstance(manifest, Index):
                    for descriptor in (manifest.config, *manifest.layers):
                        known = dict.fromkeys((*found.get(descriptor.digest, ()), *sorted(names)))
                        found[descriptor.digest] = tuple(known)[:SOURCES_MAX]
        return found

    # ---- one blob, in a thread of its own ----
    def _blob(self, client: RegistryClient, label: str, descriptor: Descriptor, sources: tuple[str, ...]) -> None:
        def say(status: str) -> None:
            if label:
                self.report.say(label, status)

        if client.has_blob(self.reference.name, descriptor.digest):
            say("Layer already exists")
            return

        def sent(at: int) -> None:
            if label:
                self.report.count(label, "Pushing", at, descriptor.size)

        fd = self.store.open_blob(descriptor.digest)
        try:
            source = client.upload_blob(self.reference.name, descriptor.digest, fd, descriptor.size, sources=sources,
                                        sent=sent)
        finally:
            os.close(fd)
        say(f"Mounted from {source.partition('/')[2]}" if source else "Pushed")

    def _remember(self, image: Image, root: Manifest | Index) -> None:
        """The image is known by this digest in the repository from now on; one that has been removed stays away."""
        try:
            self.store.find(image.id)
        except ImageNotFound:
            return
        digest = root.digest
        own = digest if isinstance(root, Manifest) and root.config.digest == image.id else image.manifest_digests[0]
        layers = [NewLayer(chain, diff, None, 0) for chain, diff in zip(image.chain_ids, image.config.diff_ids)]
        self.store.commit_image(self.lease, self.reference.with_digest(digest), own, layers,
                                target_digest=digest)
