"""The image's config: what it runs, for which platform, which layers, how it came about (image-spec config.md)."""

from __future__ import annotations

import re
from typing import Any

from pyruntime.errors import InvalidImage
from pyruntime.image.digest import chain_ids, check_digest, digest_of
from pyruntime.image.fields import Fields, load_object
from pyruntime.image.platform import Platform, normalise
from pyruntime.record import Record

LAYERS_MAX = 500  # of an overlay mount (fs/overlayfs, OVL_MAX_STACK)
CONFIG_MAX_BYTES = 8 << 20
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)")


class History(Record):
    """One step of how the image came about; `empty_layer` steps made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(Record):
    """A config document. `raw` byte for byte, `digest` is the image ID, `document` all of it as JSON values.

    `config` is its inner `config` object, {} when absent or null; `created` is RFC 3339 text, "" when absent. `os`,
    `architecture` and `variant` are as written; `platform` is normalised. diff_ids: base first.
    """

    raw: bytes
    digest: str
    document: dict[str, Any]
    os: str
    architecture: str
    variant: str
    created: str
    diff_ids: tuple[str, ...]
    history: tuple[History, ...]
    config: dict[str, Any]

    @property
    def platform(self) -> Platform:
        """What the image runs on, under the usual names."""
        return normalise(self.os, self.architecture, self.variant, self.document.get("os.version") or "")

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """The ChainIDs of its layers, base first."""
        return chain_ids(self.diff_ids)

    @property
    def labels(self) -> dict[str, str]:
        """config.Labels; {} when there are none."""
        return self.config.get("Labels") or {}


def parse_config(raw: bytes) -> ImageConfig:
    """The config in `raw`. Raises InvalidImage for more than 8 MiB (before parsing) and for a rule that is broken.

    A number of history entries that differs from the layers' is tolerated, as all readers do.
    """
    document = load_object(raw, what="image config", limit_bytes=CONFIG_MAX_BYTES)
    fields = Fields(document, "", "image config")
    system, architecture = fields.text("os", required=True), fields.text("architecture", required=True)
    variant = fields.text("variant")
    for key in ("author", "os.version", "parent", "docker_version"):
        fields.text(key)
    created = _time(fields)
    inner = fields.table("config")
    _check_inner(Fields(inner, "/config", "image config"))
    history = tuple(_history(value, f"/history/{i}") for i, value in enumerate(fields.items("history")))
    return ImageConfig(raw, digest_of(raw), document, system, architecture, variant, created, _diff_ids(fields), history,
                       inner)


def _time(fields: Fields) -> str:
    text = fields.text("created")
    if fields.has("created") and not _RFC3339.fullmatch(text):
        fields.refuse("created", "is no time", "write RFC 3339: 2026-01-31T12:00:00Z")
    return text


def _diff_ids(fields: Fields) -> tuple[str, ...]:
    rootfs = Fields(fields.table("rootfs", required=True), "/rootfs", fields.what)
    if rootfs.text("type", required=True) != "layers":
        rootfs.refuse("type", "must be \"layers\"")
    return tuple(check_digest(text, field=f"/rootfs/diff_ids/{i}", computable=True)
                 for i, text in enumerate(rootfs.strings("diff_ids")))


def _history(value: Any, at: str) -> History:
    fields = Fields(value, at, "image config")
    return History(_time(fields), fields.text("created_by"), fields.text("author"), fields.text("comment"),
                   fields.flag("empty_layer"))


def _check_inner(fields: Fields) -> None:
    """The types of what a container is made of; values are looked at where they are used."""
    for key in ("User", "WorkingDir", "StopSignal", "Hostname", "Domainname", "Image", "MacAddress"):
        fields.text(key)
    for key in ("Entrypoint", "Cmd", "OnBuild", "Shell"):
        fields.strings(key)
    for number, entry in enumerate(fields.strings("Env")):
        if "=" not in entry:
            raise InvalidImage(f"image config: /config/Env/{number} has no `=`", field=f"/config/Env/{number}", value=entry,
                               hint="an entry of the environment is NAME=value")
    fields.string_table("Labels")
    for key in ("ExposedPorts", "Volumes", "Healthcheck"):
        fields.table(key)
    fields.flag("ArgsEscaped")
    for key in ("Memory", "MemorySwap", "CpuShares"):
        fields.number(key, low=-(1 << 63))


def check_layers(config: ImageConfig, count: int) -> None:
    """Raises InvalidImage unless the config has a DiffID for each of the manifest's `count` layers, LAYERS_MAX at most."""
    if count > LAYERS_MAX:
        raise InvalidImage(f"the image has {count} layers, more than {LAYERS_MAX}", field="/layers", value=str(count),
                           hint="an overlay mount takes no more")
    if len(config.diff_ids) != count:
        raise InvalidImage(f"image config has {len(config.diff_ids)} diff_ids, its manifest {count} layers",
                           field="/rootfs/diff_ids", value=str(len(config.diff_ids)),
                           hint="the image is damaged: ask who made it")
