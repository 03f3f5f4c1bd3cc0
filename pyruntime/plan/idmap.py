"""Compile id-mapped binds (config-linux.md, Mounts; mount_setattr(2), MOUNT_ATTR_IDMAP). Pure.

A mapping says (id on disk, id shown, how many), ids shown being those of the host. It comes from the mount's own
uidMappings and gidMappings, from `idmap=uids=…;gids=…` (crun.1, idmap mount options), or is that of the container's
user namespace. Imported only for a mount that asks for it.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.step import HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.config import Mount

    Lines = tuple[tuple[int, int, int], ...]

WORDS = ("idmap", "ridmap")
MAX_ID = (1 << 32) - 1
BOTH = "id-mapped mounts must have both uid and gid mappings specified"


def idmap_step(mount: Mount, source: str, slot: int, container: tuple[Lines, Lines], origin: str) -> HostStep:
    """The host step that maps the ids of the tree in `slot`; `container` has the user namespace's maps, () without one.

    Raises SpecError when no mapping can be found or the option cannot be read.
    """
    option = next((text for text in reversed(mount.options) if text.partition("=")[0] in WORDS), "idmap")
    word, _, text = option.partition("=")
    recursive = int(word == "ridmap")
    if mount.uid_mappings and mount.gid_mappings:
        uids, gids = (tuple((entry.container_id, entry.host_id, entry.size) for entry in maps)
                      for maps in (mount.uid_mappings, mount.gid_mappings))  # fmt: skip
    elif text:
        uids, gids = parse_option(text, container, f"{origin}/options")
    else:
        uids, gids = container
    if not uids or not gids:
        raise SpecError(BOTH, field=f"{origin}/options", value=option,
                        hint="give the mount both mappings, or the container a user namespace")  # fmt: skip
    return HostStep("idmap", (source, slot, recursive, uids, gids), origin)


def parse_option(text: str, container: tuple[Lines, Lines], field: str) -> tuple[Lines, Lines]:
    """(uids, gids) of `uids=0-1-10#20-@3-5;gids=…`. Raises SpecError."""
    found: dict[str, Lines] = {}
    for part in text.split(";"):
        key, _, ranges = part.partition("=")
        if key not in ("uids", "gids"):
            raise SpecError(f"unknown part {part!r} of an idmap option", field=field, value=text,
                            hint="write idmap=uids=0-1000-10;gids=0-1000-10")  # fmt: skip
        maps = container[0 if key == "uids" else 1]
        found[key] = tuple(_triple(triple, maps, field) for triple in ranges.split("#"))
    if len(found) < 2:
        raise SpecError(BOTH, field=field, value=text, hint="write idmap=uids=0-1000-10;gids=0-1000-10")
    return found["uids"], found["gids"]


def _triple(text: str, container: Lines, field: str) -> tuple[int, int, int]:
    """`0-1000-10`; with `@` in front the second id is one of the container's user namespace."""
    relative = text.startswith("@")
    parts = text.removeprefix("@").split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise SpecError(f"invalid mapping {text!r} in an idmap option", field=field, value=text,
                        hint="three numbers: the id on disk, the id shown, how many")  # fmt: skip
    disk, shown, size = map(int, parts)
    if size == 0 or max(disk, shown) + size - 1 > MAX_ID - 1:
        raise SpecError(f"mapping {text!r} of an idmap option is out of range", field=field, value=text,
                        hint="at least one id, none above 4294967294")  # fmt: skip
    if not relative:
        return disk, shown, size
    for inside, outside, count in container:
        if inside <= shown and shown + size <= inside + count:
            return disk, shown - inside + outside, size
    raise SpecError(f"mapping {text!r} of an idmap option is not mapped in the container", field=field, value=text,
                    hint="with @ the second id and its range lie in one entry of the container's maps")  # fmt: skip
