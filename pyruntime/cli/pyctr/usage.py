"""system df and system prune."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pyruntime.cli.pyctr.call import confirm
from pyruntime.cli.pyctr.images import image_rows, pruned_text
from pyruntime.cli.pyctr.listing import columns, parse_filters, render
from pyruntime.cli.pyctr.units import ago, human_size

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call

HEADS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
TABLE = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
WARNING = """WARNING! This will remove:
  - all stopped containers
  - all networks not used by at least one container
{volumes}  - {images}
  - {cache} build cache

Are you sure you want to continue?"""


def usage(call: Call) -> None:
    """What takes space on the engine's disk."""
    value = call.client.get("/system/df")
    if call["verbose"]:
        print(_verbose(value), end="")
        return
    images, containers, volumes = value.get("Images") or [], value.get("Containers") or [], value.get("Volumes") or []
    used = [image for image in images if image.get("Containers", 0) > 0]
    free = value["LayersSize"] - sum(image["Size"] - max(image.get("SharedSize", 0), 0) for image in used)
    caches = value.get("BuildCache") or []
    rows = [_row("Images", len(images), len(used), value["LayersSize"], free),
            _sum("Containers", containers, lambda one: one.get("SizeRw", 0), lambda one: one.get("State") == "running"),
            _sum("Local Volumes", volumes, lambda one: one["UsageData"]["Size"],
                 lambda one: one["UsageData"]["RefCount"] > 0),
            _sum("Build Cache", caches, lambda one: one["Size"], lambda one: bool(one.get("InUse")))]  # fmt: skip
    print(render(rows, HEADS, call["format"], TABLE), end="")


def _sum(name: str, values: list[dict[str, Any]], size: Any, active: Any) -> dict[str, str]:
    """The row of objects whose sizes add up."""
    free = sum(size(value) for value in values if not active(value))
    return _row(name, len(values), sum(map(active, values)), sum(map(size, values)), free)


def _row(name: str, total: int, active: int, size: int, free: int) -> dict[str, str]:
    share = f" ({100 * free // size}%)" if size > 0 else ""
    return {"Type": name, "TotalCount": str(total), "Active": str(active), "Size": human_size(size),
            "Reclaimable": f"{human_size(max(free, 0))}{share}"}  # fmt: skip


def _verbose(value: dict[str, Any]) -> str:
    """Every image with what it shares."""
    lines = ["REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS"]
    for image in value.get("Images") or []:
        shared = max(image.get("SharedSize", 0), 0)
        age = ago(image["Created"], time.time())
        sizes = [human_size(shared), human_size(image["Size"] - shared), str(max(image.get("Containers", 0), 0))]
        lines += ["\t".join([row["Repository"], row["Tag"], row["ID"], age, row["Size"], *sizes])
                  for row in image_rows(image, digests=False, whole=False)]  # fmt: skip
    return f"Images space usage:\n\n{columns(lines)}"


def prune(call: Call) -> None:
    """Everything away that nothing uses."""
    images = ("all images without at least one container associated to them" if call["all"] else "all dangling images")
    volumes = "  - all anonymous volumes not used by at least one container\n" if call["volumes"] else ""
    question = WARNING.format(images=images, volumes=volumes, cache="all" if call["all"] else "unused")
    if not call["force"] and not confirm(question):
        return
    filters = parse_filters(call["filter"])
    freed = 0
    for what in ("containers", "networks", *(["volumes"] if call["volumes"] else [])):
        freed += _prune(call, what, filters)
    which = {**filters, "dangling": {"false" if call["all"] else "true": True}}
    value = call.client.post("/images/prune", {"filters": which})
    print(pruned_text(value), end="")
    freed += value["SpaceReclaimed"] + _prune(call, "build", filters)
    print(f"Total reclaimed space: {human_size(freed)}")


def _prune(call: Call, what: str, filters: dict[str, dict[str, bool]]) -> int:
    """Prunes one kind of object and shows what went; bytes freed."""
    value = call.client.post(f"/{what}/prune", {"filters": filters}) or {}
    for key, names in value.items():
        if key.endswith("Deleted") and names:
            print("\n".join([f"Deleted {key.removesuffix('Deleted')}:", *names, ""]))
    return int(value.get("SpaceReclaimed", 0))
