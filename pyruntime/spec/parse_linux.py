"""`linux` of config.json (runtime-spec config-linux.md), all but seccomp, resources and the rare chapters."""

from __future__ import annotations

from pyruntime.spec.document import quote
from pyruntime.spec.linux import Device, IDMapping, Linux, Namespace, Resources
from pyruntime.spec.parse_resources import read_resources, resource_rules
from pyruntime.spec.parse_seccomp import read_seccomp
from pyruntime.spec.reader import DEVICE, INT64, NAMESPACE, PROPAGATION, UINT32, USER_MAP, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMESPACE_TYPES = frozenset({"pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"})
PROPAGATIONS = frozenset({"shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"})
DEVICE_TYPES = frozenset("cubp")
MAX_MAPPINGS = 340  # user_namespaces(7), since Linux 4.15
ID_COUNT = 1 << 32
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1  # include/linux/kdev_t.h

_NO_RESOURCES = Resources()
_RARE = ("timeOffsets", "personality", "intelRdt", "memoryPolicy", "netDevices")


def read_linux(reader: Reader, obj: dict[str, Any], at: str) -> Linux:
    """The linux object; what is wrong goes to `reader`."""
    resources, seccomp = reader.table(obj, "resources", at), reader.table(obj, "seccomp", at)
    linux = Linux(
        _read_namespaces(reader, obj, at), read_id_mappings(reader, obj, "uidMappings", at),
        read_id_mappings(reader, obj, "gidMappings", at), (), _read_devices(reader, obj, at),
        reader.text(obj, "cgroupsPath", at),
        read_resources(reader, resources, at + "/resources") if resources else _NO_RESOURCES,
        _read_propagation(reader, obj, at), read_seccomp(reader, seccomp, at + "/seccomp") if seccomp else None,
        reader.pairs(obj, "sysctl", at), _read_paths(reader, obj, "maskedPaths", at),
        _read_paths(reader, obj, "readonlyPaths", at), reader.text(obj, "mountLabel", at), None, None, None, ())
    if resources:
        resource_rules(reader, linux.resources, at + "/resources")
    if any(key in obj for key in _RARE):
        from pyruntime.spec.parse_rare import read_rare

        return read_rare(reader, obj, at, linux)
    return linux


def _read_namespaces(reader: Reader, obj: dict[str, Any], at: str) -> tuple[Namespace, ...]:
    spaces: list[Namespace] = []
    seen: set[str] = set()
    for index, row in reader.rows(obj, "namespaces", at):
        here = f"{at}/namespaces/{index}"
        kind, path = reader.text(row, "type", here), reader.text(row, "path", here)
        shown = f"{{{quote(kind)} {quote(path)}}}"
        if kind not in NAMESPACE_TYPES:
            reader.one_of(kind, NAMESPACE_TYPES, NAMESPACE, f"{here}/type", f"namespace {shown} does not exist")
        elif kind in seen:
            reader.error(NAMESPACE, here, f"malformed spec file: duplicated ns {shown}", kind,
                         "one entry for each type")
        seen.add(kind)
        if path and (path[0] != "/" or "," in path):
            reader.error(NAMESPACE, f"{here}/path", f"namespace path {quote(path)} is not absolute" if path[0] != "/"
                         else f"namespace path {quote(path)} contains a comma", path, "such as /proc/1234/ns/net")
        spaces.append(Namespace(kind, path))
    return tuple(spaces)


def read_id_mappings(reader: Reader, obj: dict[str, Any], key: str, at: str) -> tuple[IDMapping, ...]:
    """The id map under `key`, of linux or of a mount; sizes, ends and overlaps are checked."""
    if obj.get(key) is None:
        return ()
    maps: list[IDMapping] = []
    for index, row in reader.rows(obj, key, at):
        here = f"{at}/{key}/{index}"
        entry = IDMapping(reader.count(row, "containerID", here, UINT32), reader.count(row, "hostID", here, UINT32),
                          reader.count(row, "size", here, UINT32))
        if index < MAX_MAPPINGS:
            _check_mapping(reader, entry, maps, row, here)
        maps.append(entry)
    if len(maps) > MAX_MAPPINGS:
        reader.error(USER_MAP, f"{at}/{key}", f"too many id mappings: {len(maps)}", hint=f"at most {MAX_MAPPINGS}")
    return tuple(maps)


def _check_mapping(reader: Reader, entry: IDMapping, others: list[IDMapping], row: dict[str, Any], at: str) -> None:
    inside, outside, size = entry
    if size == 0 and row.get("size") in (None, 0):
        reader.error(USER_MAP, f"{at}/size", "id mapping has size 0", row.get("size"),
                     "how many ids it maps, at least 1")
    if inside + size > ID_COUNT or outside + size > ID_COUNT:
        reader.error(USER_MAP, f"{at}/size", f"id mapping of size {size} runs past the last id", size,
                     "ids end at 4294967295")
    for other in others:
        if _overlap(inside, other.container_id, size, other.size) or _overlap(outside, other.host_id, size, other.size):
            reader.error(USER_MAP, at, "id mapping overlaps another one",
                         f"{inside} {outside} {size} and {other.container_id} {other.host_id} {other.size}",
                         "each id, inside and outside, is mapped once: user_namespaces(7)")
            return


def _overlap(first: int, second: int, first_size: int, second_size: int) -> bool:
    return first < second + second_size and second < first + first_size


def _read_devices(reader: Reader, obj: dict[str, Any], at: str) -> tuple[Device, ...]:
    devices = []
    for index, row in reader.rows(obj, "devices", at):
        here = f"{at}/devices/{index}"
        path, kind = reader.text(row, "path", here), reader.text(row, "type", here)
        if not path.startswith("/"):
            reader.error(DEVICE, f"{here}/path", f"device path {quote(path)} is not absolute", path,
                         'such as "/dev/fuse"')
        if kind not in DEVICE_TYPES:
            reader.error(DEVICE, f"{here}/type", f"invalid device type {quote(kind)}", kind,
                         "c or u (character), b (block) or p (FIFO)")
        major, minor = _read_number(reader, row, "major", here, kind), _read_number(reader, row, "minor", here, kind)
        mode = reader.number(row, "fileMode", here, UINT32)
        devices.append(Device(path, kind, major, minor, mode if mode is None else mode & 0o7777,
                              _optional_id(reader, row, "uid", here), _optional_id(reader, row, "gid", here)))
    return tuple(devices)


def _read_number(reader: Reader, row: dict[str, Any], key: str, at: str, kind: str) -> int:
    """A device number, absent is 0 (Go leaves zeros out when it writes); of a FIFO it means nothing."""
    number = reader.count(row, key, at, INT64)
    if kind != "p" and not 0 <= number <= (MAX_MAJOR if key == "major" else MAX_MINOR):
        reader.error(DEVICE, f"{at}/{key}", f"invalid device {key} {number}", number,
                     f"from 0 to {MAX_MAJOR if key == 'major' else MAX_MINOR}")
    return number


def _optional_id(reader: Reader, row: dict[str, Any], key: str, at: str) -> int | None:
    return None if row.get(key) is None else reader.id(row, key, at, DEVICE)


def _read_propagation(reader: Reader, obj: dict[str, Any], at: str) -> str:
    value = reader.text(obj, "rootfsPropagation", at)
    if value and value not in PROPAGATIONS:
        reader.one_of(value, PROPAGATIONS, PROPAGATION, f"{at}/rootfsPropagation",
                      f"rootfsPropagation={_bare(value)} is not supported")
    return value


def _bare(text: str) -> str:
    return quote(text)[1:-1]


def _read_paths(reader: Reader, obj: dict[str, Any], key: str, at: str) -> tuple[str, ...]:
    """Absolute paths inside the container (runtime-spec, Masked Paths and Readonly Paths)."""
    paths = reader.texts(obj, key, at)
    for index, path in enumerate(paths):
        if not path.startswith("/"):
            reader.error(DEVICE, f"{at}/{key}/{index}", f"{key} entry {quote(path)} is not absolute", path,
                         "the path is inside the container: begin with /")
    return paths
