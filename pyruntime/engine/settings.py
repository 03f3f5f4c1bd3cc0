"""The daemon's settings: flags and daemon.json with dockerd's key names. Pure but for reading the file."""

from __future__ import annotations

import json
import os
from typing import Any

from pyruntime.errors import UsageError
from pyruntime.record import Record

MAX_FILE_BYTES = 1 << 20


class Settings(Record):
    """What a daemon is told once. Paths are absolute; tuples repeat."""

    hosts: tuple[str, ...] = ()
    data_root: str = ""
    config_folder: str = ""  # where certs.d is looked for first
    group: str = "docker"  # of the socket, when the group exists
    insecure_registries: tuple[str, ...] = ()  # host[:port] or CIDR
    registry_mirrors: tuple[str, ...] = ()  # of docker.io, in order
    max_concurrent_downloads: int = 3  # layers of one pull at once
    max_concurrent_uploads: int = 5
    labels: tuple[str, ...] = ()
    log_level: str = "info"
    debug: bool = False
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    tls_verify: bool = False  # clients of a TCP socket show a certificate; there is no TCP without it
    tls_authority: str = ""  # PEM files
    tls_certificate: str = ""
    tls_key: str = ""
    idle_exit_s: float = 0.0  # 0: stays


# key of daemon.json -> (field, type)
KEYS: dict[str, tuple[str, type]] = {
    "hosts": ("hosts", list),
    "data-root": ("data_root", str),
    "group": ("group", str),
    "insecure-registries": ("insecure_registries", list),
    "registry-mirrors": ("registry_mirrors", list),
    "max-concurrent-downloads": ("max_concurrent_downloads", int),
    "max-concurrent-uploads": ("max_concurrent_uploads", int),
    "labels": ("labels", list),
    "log-level": ("log_level", str),
    "debug": ("debug", bool),
    "tlsverify": ("tls_verify", bool),
    "tlscacert": ("tls_authority", str),
    "tlscert": ("tls_certificate", str),
    "tlskey": ("tls_key", str),
}
PROXIES = {"http-proxy": "http_proxy", "https-proxy": "https_proxy", "no-proxy": "no_proxy"}
NAMES = {list: "a list of strings", str: "a string", int: "a number", bool: "true or false"}
# Keys that have a flag of another name, for the error that both are given.
FLAGS = {"hosts": "host", "insecure-registries": "insecure-registry", "registry-mirrors": "registry-mirror",
         "labels": "label"}  # fmt: skip


def read_file(path: str, *, required: bool) -> dict[str, Any]:
    """The object in daemon.json, {} when it is absent and not `required`. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if required:
            raise _unusable(path, "no such file") from None
        return {}
    except OSError as error:
        raise _unusable(path, os.strerror(error.errno or 0).lower()) from None
    if len(raw) > MAX_FILE_BYTES:
        raise _unusable(path, f"it is over {MAX_FILE_BYTES} bytes")
    try:
        value = json.loads(raw or b"{}")
    except ValueError as error:
        raise _unusable(path, str(error)) from None
    if not isinstance(value, dict):
        raise _unusable(path, "it has to be a JSON object")
    return value


def _unusable(path: str, why: str) -> UsageError:
    return UsageError(f"unable to configure the daemon with file {path}: {why}")


def merge(path: str, file: dict[str, Any], flags: dict[str, Any]) -> Settings:
    """Settings from a file's object and the flags given, by field. Raises UsageError for an unknown key or a clash."""
    values = dict(flags)
    for key, value in file.items():
        if key == "proxies" and isinstance(value, dict):
            values |= _proxies(path, value)
            continue
        if key not in KEYS:
            raise _unusable(path, f"the following directives don't match any configuration option: {key}")
        field, kind = KEYS[key]
        if field in flags:
            raise _unusable(path, "the following directives are specified both as a flag and in the configuration file: "
                            f"{FLAGS.get(key, key)}: (from flag: {flags[field]}, from file: {value})")  # fmt: skip
        values[field] = _typed(path, key, value, kind)
    settings = Settings(**values)
    for key in ("max-concurrent-downloads", "max-concurrent-uploads"):
        if getattr(settings, KEYS[key][0]) < 1:
            raise _unusable(path, f"invalid {key}: {getattr(settings, KEYS[key][0])}: it has to be 1 or more")
    return settings


def _typed(path: str, key: str, value: Any, kind: type) -> Any:
    """A value of its key's type."""
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is list:
        good = good and all(isinstance(item, str) for item in value)
    if not good:
        raise _unusable(path, f"{key} has to be {NAMES[kind]}")
    return tuple(value) if kind is list else value


def _proxies(path: str, value: dict[str, Any]) -> dict[str, str]:
    """The object under `proxies`."""
    for key, text in value.items():
        if key not in PROXIES or not isinstance(text, str):
            raise _unusable(path, f"proxies/{key}: known are {', '.join(PROXIES)}, each a string")
    return {PROXIES[key]: text for key, text in value.items()}
