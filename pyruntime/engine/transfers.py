"""Images on the move: pull and push by a registry; load, save and import by an archive.

Each takes `tell`, which gets lines as the API sends them (contract engine-api 2.3). Equal pulls and pushes are one
transfer (image.transfers), which ends when its last client has gone: that is what `gone` is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyruntime.engine.body import BodyReader
from pyruntime.engine.images import happened, platform_of, wanted_reference
from pyruntime.engine.registries import client_for, denied, worded
from pyruntime.errors import EngineError, ImageNotFound, UsageError
from pyruntime.image import importing
from pyruntime.image.archive import fits
from pyruntime.image.archive_blobs import StoreBlobs
from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_save import save_archive
from pyruntime.image.archive_store import chosen_images
from pyruntime.image.reference import parse_familiar, parse_reference
from pyruntime.record import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from pyruntime.engine.engine import Engine
    from pyruntime.image.progress import Progress
    from pyruntime.image.reference import Reference
    from pyruntime.image.store import Image

    Line = dict[str, Any]
    Tell = Callable[[Line], None]

BAR_WIDTH = 50
PULLING = "Pulling from "  # the head of a pull: its id is no layer's


class Lines:
    """Turns Progress into lines. What comes before the registry's answer waits, so that a refusal can be a status."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._waiting: list[Line] = []

    def __call__(self, progress: Progress) -> None:
        """Tells of `progress`."""
        line = progress_line(progress)
        if progress.status.startswith(PULLING):
            self._waiting.append(line)
            return
        for waiting in self._waiting:
            self._tell(waiting)
        self._waiting.clear()
        self._tell(line)


def progress_line(progress: Progress) -> Line:
    """One line of progress; figures only where there are some."""
    line: Line = {"status": progress.status}
    if progress.total:
        line["progressDetail"] = {"current": progress.current, "total": progress.total}
        line["progress"] = bar(progress.current, progress.total)
    elif progress.id and not progress.status.startswith(PULLING):
        line["progressDetail"] = {}
    return {**line, "id": progress.id} if progress.id else line


def bar(current: int, total: int) -> str:
    """The figure as old clients show it: `[==>   ]  1.2MB/5MB`."""
    done = min(BAR_WIDTH, BAR_WIDTH * current // total)
    return f"[{'=' * done}>{' ' * (BAR_WIDTH - done)}]  {_size(current):>7}/{_size(total)}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}TB"


# ---- registries -----------------------------------------------------------------------------------------------------
def pull(engine: Engine, name: str, label: str, platform: str, header: str, tell: Tell, gone: threading.Event) -> None:
    """Pulls an image, or every tag of a repository when neither name nor `label` has one."""
    reference = pulled_reference(name, label)
    wanted = platform_of(platform)
    with worded(reference.familiar), client_for(engine, reference.domain, header) as client:
        references = [reference]
        if not reference.target:
            with client.operation(gone) as own:
                references = [reference.with_tag(found) for found in own.tags(reference.name)]
            if not references:
                raise ImageNotFound(f"repository {reference.familiar_name} has no tags", value=reference.name)
        for one in references:
            image = engine.transfers.pull(engine.store, client, one, platform=wanted, progress=Lines(tell), cancel=gone,
                                          downloads=engine.settings.max_concurrent_downloads)  # fmt: skip
            happened(engine, "pull", image, one.familiar_name, one.familiar)


def pulled_reference(name: str, label: str) -> Reference:
    """What to pull; `label` may be a digest. Without tag and digest every tag is meant. Raises InvalidReference."""
    found = parse_familiar(name)
    if label.startswith(("sha256:", "sha512:")):
        return parse_reference(f"{found.name}@{label}")
    return found.with_tag(label) if label else found


def push(engine: Engine, name: str, label: str, platform: str, header: str, tell: Tell, gone: threading.Event) -> None:
    """Pushes a tag, or every tag of the name that is here when neither says one."""
    reference = parse_familiar(name)
    reference = reference.with_tag(label) if label else reference
    if reference.digest:
        raise EngineError("cannot push a digest reference", status=400)
    wanted = platform_of(platform)
    references = _tags_here(engine, reference, tell)
    with denied(reference.name), client_for(engine, reference.domain, header) as client:
        for one in references:
            image = engine.store.find(str(one))
            pushed = engine.transfers.push(engine.store, client, one, platform=wanted, progress=Lines(tell), cancel=gone,
                                           uploads=engine.settings.max_concurrent_uploads)  # fmt: skip
            tell({"progressDetail": {}, "aux": {"Tag": pushed.tag, "Digest": pushed.digest, "Size": pushed.size}})
            happened(engine, "push", image, one.familiar_name, one.familiar)


def _tags_here(engine: Engine, reference: Reference, tell: Tell) -> list[Reference]:
    """The tag that is to go, or all tags of a name. Raises ImageNotFound when there is none, in a stream that has begun."""
    found = [name for image in engine.store.images() for name in image.tags if name.name == reference.name]
    wanted = [name for name in found if reference.tag in ("", name.tag)]
    if not wanted:
        tell({"status": f"The push refers to repository [{reference.name}]"})
        text = (f"tag does not exist: {reference.familiar}" if found else
                f"An image does not exist locally with the tag: {reference.familiar_name}")  # fmt: skip
        raise ImageNotFound(text, value=reference.familiar, hint="pull or tag it first")
    return sorted(wanted)


# ---- archives -------------------------------------------------------------------------------------------------------
def save(engine: Engine, names: list[str], platform: str, write: Callable[[bytes], None]) -> None:
    """Writes the archive of images: of a name without a tag all its tags. Raises ImageNotFound before the first byte."""
    if not names:
        raise EngineError("no image to save was named", status=400)
    wanted = platform_of(platform)
    with engine.store.lease() as lease:
        blobs = StoreBlobs(engine.store, lease)
        images = chosen_images(blobs, names)
        for image in images:
            if not (wanted is None or fits(image.config, wanted)):
                raise ImageNotFound(f"image {', '.join(names)} was found but its platform ({image.config.platform}) "
                                    f"does not match the specified platform ({wanted})", value=platform)  # fmt: skip
        save_archive(write, blobs, images)
    for image in images:
        labels = image.config.labels
        engine.events.emit("image", "save", image.config.digest, {**labels, "name": image.config.digest})


def load(engine: Engine, body: Iterable[bytes], platform: str, tell: Tell) -> None:
    """Loads every image of an archive."""
    loaded = load_archive(engine.store, BodyReader(body).read, platform=platform_of(platform),
                          say=lambda text: tell({"stream": f"{text}\n"}))  # fmt: skip
    for one in loaded:
        happened(engine, "load", one.image, one.image.id)
        for line in one.lines:
            tell({"stream": f"{line}\n"})


class Import(Record):
    """What an import is told beside its bytes. `source` is a URL, or `-` for the body."""

    source: str
    repository: str
    tag: str
    message: str
    changes: tuple[str, ...]
    platform: str


def import_rootfs(engine: Engine, body: Iterable[bytes], asked: Import, tell: Tell) -> None:
    """Makes an image of a root file system."""
    reference = wanted_reference(asked.repository, asked.tag) if asked.repository else None
    platform = platform_of(asked.platform)

    def make(read: Callable[[int], bytes]) -> Image:
        return importing.import_rootfs(engine.store, read, reference=reference, changes=asked.changes,
                                       message=asked.message, source=asked.source, platform=platform)  # fmt: skip

    try:
        if asked.source == "-":
            image = make(BodyReader(body).read)
        else:
            with importing.open_url(asked.source) as read:
                image = make(read)
    except UsageError as error:
        raise EngineError(error.message, status=400) from None
    happened(engine, "import", image, reference.familiar if reference else image.id)
    tell({"status": image.id})
