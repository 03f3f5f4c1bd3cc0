"""A user namespace for a plain user's container whose configuration has none (contract 6, user ns, auto mode).

uid 0 of the container is the caller, and the ids from 1 on are what /etc/subuid and /etc/subgid give him, if newuidmap
and newgidmap are there to write such a map. The document is changed before anything reads it, so that all later calls
find the namespace in the state.
"""

from __future__ import annotations

from posix import getegid, geteuid

from pyruntime.lifecycle.rootless import find_program, granted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_LINES = 340  # of a map, Linux 4.15; user_namespaces(7)


def with_user_namespace(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the namespace; the same object when it has one, or is not of a shape to put one into."""
    linux = document.get("linux")
    linux = {} if linux is None else linux
    spaces = linux.get("namespaces", []) if isinstance(linux, dict) else None
    if not isinstance(spaces, list) or any(not isinstance(each, dict) or each.get("type") == "user" for each in spaces):
        return document
    if linux.get("uidMappings") or linux.get("gidMappings"):
        return document
    own = {"uid": geteuid(), "gid": getegid()}
    ranges = {kind: granted(kind) if find_program(f"new{kind}map") else [] for kind in own}
    maps = {kind: mappings(number, ranges[kind] if all(ranges.values()) else []) for kind, number in own.items()}
    wanted = {"namespaces": [*spaces, {"type": "user"}], "uidMappings": maps["uid"], "gidMappings": maps["gid"]}
    return {**document, "linux": {**linux, **wanted}}


def mappings(own: int, ranges: list[tuple[int, int]]) -> list[dict[str, int]]:
    """0 is `own`, and after it comes each range of (first, count) in turn; at most 340 lines (user_namespaces(7)).

    A range that has an id of an earlier one, as when a user is granted it twice, is left out: the kernel wants each once.
    """
    lines = [{"containerID": 0, "hostID": own, "size": 1}]
    inside = 1
    for first, count in ranges:
        if len(lines) == MAX_LINES:
            break
        if count and not any(first < line["hostID"] + line["size"] and line["hostID"] < first + count for line in lines):
            lines.append({"containerID": inside, "hostID": first, "size": count})
            inside += count
    return lines
