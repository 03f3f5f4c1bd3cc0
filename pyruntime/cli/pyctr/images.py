"""images, history, inspect, tag, rmi, image prune."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pyruntime.api.client.connection import ApiError
from pyruntime.cli.pyctr.call import Failed, confirm, worded
from pyruntime.cli.pyctr.listing import configured, parse_filters, render, show_objects
from pyruntime.cli.pyctr.units import ago, human_size, local_time, rfc3339_nano
from pyruntime.errors import UsageError

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call

HEADS = {"Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "ID": "IMAGE ID", "CreatedSince": "CREATED",
         "CreatedAt": "CREATED AT", "Size": "SIZE", "VirtualSize": "VIRTUAL SIZE", "Containers": "CONTAINERS",
         "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE"}  # fmt: skip
TABLE = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
DIGESTS = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
HISTORY_HEADS = {"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY",
                 "Size": "SIZE", "Comment": "COMMENT"}  # fmt: skip
HISTORY = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
NONE = "<none>"
STEP_WIDTH = 45  # of a step in `history`
NOP = "/bin/sh -c #(nop) "
KINDS = {"container": "/containers/{}/json", "image": "/images/{}/json", "network": "/networks/{}",
         "volume": "/volumes/{}", "plugin": "/plugins/{}/json"}  # fmt: skip


def short_id(text: str, *, whole: bool) -> str:
    """An ID as tables show it."""
    return text if whole else text.removeprefix("sha256:")[:12]


# ---- images ---------------------------------------------------------------------------------------------------------
def images(call: Call) -> None:
    """The list of images."""
    filters = parse_filters(call["filter"])
    if call.rest:
        filters.setdefault("reference", {})[call.rest[0]] = True
    found = call.client.get("/images/json", {"all": call["all"] or None, "filters": filters})
    layout = call["format"] or ("" if call["quiet"] else configured("imagesFormat"))
    digests = call["digests"] or "{{.Digest}}" in layout
    rows = [row for image in found for row in image_rows(image, digests=digests, whole=call["no_trunc"])]
    if call["quiet"] and layout in ("", "table"):
        print("".join(f"{row['ID']}\n" for row in rows), end="")
    else:
        print(render(rows, HEADS, layout, DIGESTS if call["digests"] else TABLE), end="")


def image_rows(image: dict[str, Any], *, digests: bool, whole: bool) -> list[dict[str, str]]:
    """The rows of one image: one for each name, and for each digest of a name when they are shown."""
    tags = _by_repository(image.get("RepoTags"), ":")
    known = _by_repository(image.get("RepoDigests"), "@")
    names: list[tuple[str, str, str]] = []
    for repository, found in tags.items():
        sums = known.pop(repository, None) if digests else known.pop(repository, None) and None
        names += [(repository, tag, digest) for tag in found for digest in sums or (NONE,)]
    for repository, sums in known.items():
        names += [(repository, NONE, digest) for digest in sums] if digests else [(repository, NONE, NONE)]
    moment = image["Created"]
    size = human_size(image["Size"], 3)
    common = {"ID": short_id(image["Id"], whole=whole), "CreatedSince": ago(moment, time.time()),
              "CreatedAt": local_time(moment) if moment > 0 else "N/A", "Size": size,
              "VirtualSize": human_size(image.get("VirtualSize", image["Size"])),
              "Containers": _known(image.get("Containers", -1), str), "UniqueSize": "N/A",
              "SharedSize": _known(image.get("SharedSize", -1), human_size)}  # fmt: skip
    return [{"Repository": repository, "Tag": tag, "Digest": digest, **common}
            for repository, tag, digest in sorted(names) or [(NONE, NONE, NONE)]]  # fmt: skip


def _known(number: int, text: Any) -> str:
    return "N/A" if number < 0 else str(text(number))


def _by_repository(names: list[str] | None, mark: str) -> dict[str, list[str]]:
    """{repository: [tags or digests]}."""
    found: dict[str, list[str]] = {}
    for name in names or []:
        repository, _, rest = name.rpartition(mark)
        if repository not in ("", NONE):
            found.setdefault(repository, []).append(rest)
    return found


# ---- history --------------------------------------------------------------------------------------------------------
def history(call: Call) -> None:
    """How an image came about, newest step first."""
    steps = call.client.get(f"/images/{call.rest[0]}/history")
    rows = [_step(step, human=call["human"], whole=call["no_trunc"]) for step in steps]
    if call["quiet"]:
        print("".join(f"{row['ID']}\n" for row in rows), end="")
    else:
        heads = HISTORY_HEADS if call["human"] else {**HISTORY_HEADS, "CreatedSince": HISTORY_HEADS["CreatedAt"]}
        print(render(rows, heads, call["format"], HISTORY), end="")


def _step(step: dict[str, Any], *, human: bool, whole: bool) -> dict[str, str]:
    moment = step["Created"]
    stamp = rfc3339_nano(moment * 10**9).replace(".000000000", "") if moment > 0 else "N/A"
    text = step["CreatedBy"].replace("\t", " ")
    if not whole:
        text = text.replace(NOP, "")
        text = text if len(text) <= STEP_WIDTH else f"{text[: STEP_WIDTH - 1]}…"
    return {"ID": short_id(step["Id"], whole=whole), "CreatedSince": ago(moment, time.time()) if human else stamp,
            "CreatedAt": stamp, "CreatedBy": text, "Comment": step["Comment"],
            "Size": human_size(step["Size"], 3) if human else str(step["Size"])}  # fmt: skip


# ---- inspect --------------------------------------------------------------------------------------------------------
def inspect_image(call: Call) -> None:
    """Images as JSON or by a template."""
    _inspect(call, lambda name: call.client.get(f"/images/{name}/json"))


def inspect(call: Call) -> None:
    """Objects of any kind, the first kind that has one of that name."""
    kind = call["type"]
    if kind and kind not in KINDS:
        raise UsageError(f'"{kind}" is not a valid value for --type')
    _inspect(call, lambda name: _find(call, name, [kind] if kind else list(KINDS)))


def _find(call: Call, name: str, kinds: list[str]) -> Any:
    for kind in kinds:
        try:
            return call.client.get(KINDS[kind].format(name))
        except ApiError as error:
            if error.status != 404:
                raise
            if len(kinds) == 1:
                raise
    raise UsageError(f"Error: No such object: {name}")


def _inspect(call: Call, find: Any) -> None:
    """Shows all that are found, then tells of the others."""
    found, errors = [], []
    for name in call.rest:
        try:
            found.append(find(name))
        except (ApiError, UsageError) as error:
            errors.append(worded(error))
    print(show_objects(found, call["format"]), end="")
    for text in errors:
        call.tell(text)
    if errors:
        raise Failed


# ---- names and removal ----------------------------------------------------------------------------------------------
def tag(call: Call) -> None:
    """A further name for an image."""
    from pyruntime.cli.pyctr.names import split_name

    source, target = call.rest
    repository, label = split_name(target)
    call.client.post(f"/images/{source}/tag", {"repo": repository, "tag": label})


def remove(call: Call) -> None:
    """Names away, and images that have none left."""
    errors, fatal = [], False
    for name in call.rest:
        try:
            query = {"force": call["force"] or None, "noprune": call["no_prune"] or None}
            with call.client.request("DELETE", f"/images/{name}", query) as reply:
                for line in reply.json() or []:
                    for kind, text in line.items():
                        print(f"{kind}: {text}", flush=True)
        except ApiError as error:
            fatal = fatal or error.status != 404
            errors.append(worded(error))
    for text in errors:
        call.tell(text)
    if errors and (fatal or not call["force"]):
        raise Failed


def prune(call: Call) -> None:
    """Images away that have no name, or that nothing uses."""
    what = "all images without at least one container associated to them" if call["all"] else "all dangling images"
    if not call["force"] and not confirm(f"WARNING! This will remove {what}.\nAre you sure you want to continue?"):
        return
    filters = parse_filters(call["filter"])
    filters.setdefault("dangling", {"false" if call["all"] else "true": True})
    value = call.client.post("/images/prune", {"filters": filters})
    print(pruned_text(value), end="")
    print(f"Total reclaimed space: {human_size(value['SpaceReclaimed'])}")


def pruned_text(value: dict[str, Any]) -> str:
    """What went, one line each, "" when nothing did."""
    lines = [f"{kind.lower()}: {text}" for line in value.get("ImagesDeleted") or [] for kind, text in line.items()]
    return "\n".join(["Deleted Images:", *lines, "", ""]) if lines else ""


