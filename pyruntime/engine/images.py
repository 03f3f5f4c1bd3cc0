"""Rules of images over the store: lists, look-ups, names, removal, disk usage. Values have Docker's names.

What transfers content (pull, push, load, save, import) is in transfers.py. Events are emitted here, after the fact.
"""

from __future__ import annotations

import fnmatch
import json
import time
from typing import TYPE_CHECKING, Any

from pyruntime.engine.events import label_holds
from pyruntime.errors import EngineError, ImageNotFound
from pyruntime.image.history import compile_history
from pyruntime.image.platform import parse_platform, rank
from pyruntime.image.reference import parse_familiar, parse_reference
from pyruntime.image.times import parse_rfc3339, parse_when

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.engine.engine import Engine
    from pyruntime.image.platform import Platform
    from pyruntime.image.reference import Reference
    from pyruntime.image.store import Image

FILTERS = ("before", "dangling", "label", "reference", "since", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")
# What a container's configuration always has with Docker.
CONFIG = ("User", "ExposedPorts", "Env", "Cmd", "Volumes", "WorkingDir", "Entrypoint", "OnBuild", "Labels")
NEVER = "0001-01-01T00:00:00Z"


# ---- lists ----------------------------------------------------------------------------------------------------------
def summaries(engine: Engine, filters: dict[str, list[str]], *, intermediate: bool, shared: bool) -> list[dict[str, Any]]:
    """GET /images/json. `intermediate`: also those without a name that others are built on; `shared`: fill SharedSize."""
    found = engine.store.images()
    chosen = _chooser(engine, filters)
    parents = {image.parent for image in found}
    sizes = {image.id: size for image, size, _ in engine.store.disk_usage().images} if shared else {}
    rows = []
    for image in found:
        if not intermediate and image.id in parents and not image.tags and not image.repo_digests:
            continue
        names = chosen(image)
        if names is not None:
            rows.append(_summary(image, names, sizes.get(image.id, -1)))
    return rows


def _summary(image: Image, names: tuple[list[str], list[str]], shared_bytes: int) -> dict[str, Any]:
    return {"Containers": -1, "Created": created_s(image), "Id": image.id, "Labels": image.config.labels or None,
            "ParentId": image.parent, "RepoDigests": names[1], "RepoTags": names[0], "SharedSize": shared_bytes,
            "Size": image.size}  # fmt: skip


def created_s(image: Image) -> int:
    """When the image was made, in whole seconds; 0 when its config does not say."""
    return seconds_of(image.created)


def seconds_of(text: str) -> int:
    """Seconds since 1970 of an RFC 3339 time; 0 for what is none."""
    try:
        return parse_rfc3339(text) // 10**9
    except ValueError:
        return 0


def _chooser(engine: Engine, filters: dict[str, list[str]]) -> Callable[[Image], tuple[list[str], list[str]] | None]:
    """A function that gives the names under which an image is listed, None when it is not. Raises EngineError 400."""
    check_filters(filters, FILTERS)
    after = max((created_s(engine.store.find(text)) for text in filters.get("since", ())), default=None)
    before = min((created_s(engine.store.find(text)) for text in filters.get("before", ())), default=None)
    until = min((parse_when(text, time.time()) // 10**9 for text in filters.get("until", ())), default=None)
    dangling = boolean(filters, "dangling")
    patterns = filters.get("reference", [])

    def choose(image: Image) -> tuple[list[str], list[str]] | None:
        moment = created_s(image)
        if (after is not None and moment <= after) or (before is not None and moment >= before):
            return None
        if until is not None and moment >= until:
            return None
        if not all(label_holds(image.config.labels, text) for text in filters.get("label", ())):
            return None
        if dangling is not None and dangling is bool(image.tags):
            return None
        tags, digests = list(image.tags), list(image.repo_digests)
        if patterns:
            tags = [name for name in tags if matches(name, patterns)]
            digests = [name for name in digests if matches(name, patterns)]
            if not tags and not digests:
                return None
        return [name.familiar for name in tags], [name.repo_digest for name in digests]

    return choose


def matches(name: Reference, patterns: list[str]) -> bool:
    """Whether a reference fits a glob over its familiar name, with or without tag; `*` stays within a component."""
    texts = (name.familiar, name.familiar_name)
    return any(_glob(text, pattern) for text in texts for pattern in patterns)


def _glob(text: str, pattern: str) -> bool:
    parts, wanted = text.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(fnmatch.fnmatchcase(part, want) for part, want in zip(parts, wanted))


def check_filters(filters: dict[str, list[str]], known: tuple[str, ...]) -> None:
    """Raises EngineError 400 for a filter that is not known."""
    for key in filters:
        if key not in known:
            raise EngineError(f"invalid filter '{key}'", status=400)


def boolean(filters: dict[str, list[str]], key: str) -> bool | None:
    """A filter that is true or false; None when it is not given. Raises EngineError 400."""
    values = filters.get(key)
    if not values:
        return None
    words = {"1": True, "true": True, "t": True, "0": False, "false": False, "f": False}
    found = {words.get(value.lower()) for value in values}
    if len(found) != 1 or None in found:
        raise EngineError(f"invalid filter '{key}=[{' '.join(values)}]'", status=400)
    return found.pop()


# ---- one image ------------------------------------------------------------------------------------------------------
def platform_of(text: str) -> Platform | None:
    """A platform field: `os/arch[/variant]` or new clients' JSON object; None when empty. Raises EngineError 400."""
    if not text.startswith("{"):
        return parse_platform(text) if text else None
    try:
        value = json.loads(text)
        words = [value[key] for key in ("os", "architecture", "variant") if value.get(key)]
        return parse_platform("/".join(words))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise EngineError(f"invalid platform: {text}", status=400) from None


def found_for(engine: Engine, name: str, platform: str) -> Image:
    """The image of a name or ID. Raises ImageNotFound, also for one that is not for `platform` ("": any)."""
    image, wanted = engine.store.find(name), platform_of(platform)
    if wanted is not None and rank(wanted, image.config.platform) is None:
        raise ImageNotFound(f"image with reference {name} was found but its platform ({image.config.platform}) does not "
                            f"match the specified platform ({wanted})", value=name)  # fmt: skip
    return image


def inspect(engine: Engine, name: str, platform: str = "") -> dict[str, Any]:
    """GET /images/{name}/json. Raises ImageNotFound."""
    image = found_for(engine, name, platform)
    document = image.config.document
    tagged = NEVER
    if image.last_tagged:
        tagged = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(image.last_tagged // 10**9))
                  + f".{image.last_tagged % 10**9:09d}Z")  # fmt: skip
    return {
        "Id": image.id, "RepoTags": [name.familiar for name in image.tags],
        "RepoDigests": [name.repo_digest for name in image.repo_digests], "Parent": image.parent,
        "Comment": document.get("comment") or "", "Created": image.created or NEVER,
        "DockerVersion": document.get("docker_version") or "", "Author": document.get("author") or "",
        "Config": {**dict.fromkeys(CONFIG), "User": "", "WorkingDir": "", **image.config.config},
        "Architecture": image.config.architecture, "Variant": image.config.variant, "Os": image.config.os,
        **({"OsVersion": document["os.version"]} if document.get("os.version") else {}),
        "Size": image.size, "GraphDriver": {"Name": "overlay2", "Data": _folders(engine, image)},
        "RootFS": {"Type": "layers", "Layers": list(image.config.diff_ids)}, "Metadata": {"LastTagTime": tagged},
    }  # fmt: skip


def _folders(engine: Engine, image: Image) -> dict[str, str]:
    """Where the layers lie, as an overlay mount of them takes it."""
    found = [layer.path for chain in reversed(image.chain_ids) if (layer := engine.store.layer(chain))]
    if not found:
        return {}
    lower = {"LowerDir": ":".join(found[1:])} if found[1:] else {}
    return {**lower, "UpperDir": found[0]}


def history(engine: Engine, name: str, platform: str = "") -> list[dict[str, Any]]:
    """GET /images/{name}/history, newest first. Raises ImageNotFound."""
    image = found_for(engine, name, platform)
    sizes = [layer.size if (layer := engine.store.layer(chain)) else 0 for chain in image.chain_ids]
    steps = compile_history(image.config, sizes, image_id=image.id, tags=tuple(name.familiar for name in image.tags))
    return [{"Comment": step.comment, "Created": seconds_of(step.created), "CreatedBy": step.created_by, "Id": step.id,
             "Size": step.size, "Tags": list(step.tags) or None} for step in steps]  # fmt: skip


def tag(engine: Engine, source: str, repository: str, label: str) -> None:
    """Gives an image a further name. Raises ImageNotFound, InvalidReference, EngineError 400."""
    reference = wanted_reference(repository, label)
    if reference.digest:
        raise EngineError("refusing to create a tag with a digest reference", status=400)
    image = engine.store.tag(source, reference)
    happened(engine, "tag", image, reference.familiar)


def happened(engine: Engine, action: str, image: Image, name: str, actor: str = "") -> None:
    """An event of an image: its labels and a name. `actor` "" is the image's ID."""
    engine.events.emit("image", action, actor or image.id, {**image.config.labels, "name": name})


def wanted_reference(repository: str, label: str) -> Reference:
    """The reference of a `repo` and a `tag` field; a tag may be part of either. Raises InvalidReference."""
    found = parse_familiar(repository)
    if not label:
        return parse_reference(repository)
    return found.with_tag(label)


# ---- removal --------------------------------------------------------------------------------------------------------
def remove(engine: Engine, name: str, *, force: bool, prune: bool) -> list[dict[str, str]]:
    """DELETE /images/{name}. Raises ImageNotFound, ImageConflict."""
    image = engine.store.find(name)
    report = engine.store.remove(name, force=force, prune=prune)
    _tell(engine, image, report)
    return [{kind: text} for kind, text in report]


def _tell(engine: Engine, image: Image, report: list[tuple[str, str]]) -> None:
    """An event for each line of a removal. Layers are no images: they have none."""
    for kind, text in report:
        if kind == "Untagged":
            happened(engine, "untag", image, text)
        elif text == image.id:
            happened(engine, "delete", image, image.id)


def prune(engine: Engine, filters: dict[str, list[str]]) -> dict[str, Any]:
    """POST /images/prune: images without a name, all unused ones with dangling=false."""
    check_filters(filters, PRUNE_FILTERS)
    boolean(filters, "dangling")
    before = {image.id: image for image in engine.store.images()}
    report, freed = engine.store.prune(filters)
    for kind, text in report:
        if kind == "Deleted" and text in before:
            happened(engine, "delete", before[text], text)
    engine.events.emit("image", "prune", "", {"reclaimed": str(freed)})
    return {"ImagesDeleted": [{kind: text} for kind, text in report] or None, "SpaceReclaimed": freed}


# ---- disk usage -----------------------------------------------------------------------------------------------------
def disk_usage(engine: Engine) -> dict[str, Any]:
    """The images' part of GET /system/df."""
    usage = engine.store.disk_usage()
    rows = []
    for image, shared, own in usage.images:
        names = [name.familiar for name in image.tags], [name.repo_digest for name in image.repo_digests]
        rows.append({**_summary(image, names, shared), "Containers": 0, "Size": shared + own})
    return {"LayersSize": usage.layers_bytes, "Images": rows}
