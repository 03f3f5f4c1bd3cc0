"""Messages of criu's rpc.proto (3.17 and later) as dicts: a small encoder and decoder of protobuf's wire format. Pure.

A schema is name -> (field number, kind): "int" (also enums and uint32), "bool", "str", or another schema; a kind in a
list repeats. Of the file there is here what is sent or read; unknown fields of an answer are passed over.
"""

from __future__ import annotations

from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Schema = dict[str, tuple[int, Any]]

DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10  # enum criu_req_type
TYPE_NAMES = {DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", NOTIFY: "NOTIFY", FEATURE_CHECK: "FEATURE_CHECK",
              VERSION: "VERSION"}  # fmt: skip
CGROUP_MODES = {"ignore": 0, "soft": 3, "full": 4, "strict": 5}  # enum criu_cg_mode
NETWORK_LOCKS = {"iptables": 1, "nftables": 2, "skip": 3}  # enum criu_network_lock_method; skip since criu 3.18

PAGE_SERVER: Schema = {"address": (1, "str"), "port": (2, "int")}
EXT_MOUNT: Schema = {"key": (1, "str"), "val": (2, "str")}
INHERIT_FD: Schema = {"key": (1, "str"), "fd": (2, "int")}
CGROUP_ROOT: Schema = {"ctrl": (1, "str"), "path": (2, "str")}
OPTIONS: Schema = {
    "images_dir_fd": (1, "int"), "pid": (2, "int"), "leave_running": (3, "bool"), "ext_unix_sk": (4, "bool"),
    "tcp_established": (5, "bool"), "evasive_devices": (6, "bool"), "shell_job": (7, "bool"), "file_locks": (8, "bool"),
    "log_level": (9, "int"), "log_file": (10, "str"), "ps": (11, PAGE_SERVER), "notify_scripts": (12, "bool"),
    "root": (13, "str"), "parent_img": (14, "str"), "track_mem": (15, "bool"), "auto_dedup": (16, "bool"),
    "work_dir_fd": (17, "int"), "link_remap": (18, "bool"), "ext_mnt": (23, [EXT_MOUNT]), "manage_cgroups": (24, "bool"),
    "cg_root": (25, [CGROUP_ROOT]), "rst_sibling": (26, "bool"), "inherit_fd": (27, [INHERIT_FD]),
    "ext_masters": (30, "bool"), "manage_cgroups_mode": (34, "int"), "external": (37, ["str"]), "empty_ns": (38, "int"),
    "freeze_cgroup": (44, "str"), "tcp_skip_in_flight": (46, "bool"), "lazy_pages": (48, "bool"),
    "status_fd": (49, "int"), "orphan_pts_master": (50, "bool"), "config_file": (51, "str"), "tcp_close": (52, "bool"),
    "lsm_profile": (53, "str"), "lsm_mount_context": (63, "str"), "network_lock": (64, "int"),
}  # fmt: skip
FEATURES: Schema = {"mem_track": (1, "bool"), "lazy_pages": (2, "bool")}
REQUEST: Schema = {"type": (1, "int"), "opts": (2, OPTIONS), "notify_success": (3, "bool"), "features": (5, FEATURES)}
RESTORED: Schema = {"pid": (1, "int")}
NOTE: Schema = {"script": (1, "str"), "pid": (2, "int")}
VERSION_NUMBERS: Schema = {"major": (1, "int"), "minor": (2, "int"), "sublevel": (4, "int")}
ANSWER: Schema = {"type": (1, "int"), "success": (2, "bool"), "restore": (4, RESTORED), "notify": (5, NOTE),
                  "cr_errno": (7, "int"), "features": (8, FEATURES), "cr_errmsg": (9, "str"),
                  "version": (10, VERSION_NUMBERS)}  # fmt: skip


def encode(schema: Schema, values: dict[str, Any]) -> bytes:
    """The bytes of a message, fields in the order of `values`; None leaves one out. KeyError for a name not in `schema`."""
    parts: list[bytes] = []
    for name, value in values.items():
        number, kind = schema[name]
        several = isinstance(kind, list)
        items = value if several else () if value is None else (value,)
        parts += [_field(number, kind[0] if several else kind, item) for item in items]
    return b"".join(parts)


def _field(number: int, kind: Any, value: Any) -> bytes:
    if kind in ("int", "bool"):
        return _varint(number << 3) + _varint(int(value))
    data = value.encode("utf-8", "surrogateescape") if kind == "str" else encode(kind, value)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number takes its ten bytes
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def decode(schema: Schema, data: bytes) -> dict[str, Any]:
    """The known fields of a message. Raises HostError for bytes that are none."""
    kinds = {number: (name, kind) for name, (number, kind) in schema.items()}
    found: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        raw, at = _read_value(data, at, tag & 7)
        if tag >> 3 not in kinds:
            continue
        name, kind = kinds[tag >> 3]
        several = isinstance(kind, list)
        value = _value(kind[0] if several else kind, raw)
        if several:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def _value(kind: Any, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        signed = raw - (1 << 64) if raw >> 63 else raw
        return bool(raw) if kind == "bool" else signed
    return raw.decode("utf-8", "replace") if kind == "str" else decode(kind, raw)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise HostError("criu sent a message that cannot be read", hint="is the criu in PATH 3.17 or newer?")


def _read_value(data: bytes, at: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == 0:
        return _read_varint(data, at)
    size, at = _read_varint(data, at) if wire_type == 2 else ({1: 8, 5: 4}.get(wire_type, len(data) + 1), at)
    if at + size > len(data):
        raise HostError("criu sent a message that cannot be read", hint="is the criu in PATH 3.17 or newer?")
    return data[at : at + size], at + size
