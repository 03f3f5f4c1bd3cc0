"""Archives of Docker before 1.10: no manifest.json, a chain of layers that each have a configuration.

    repositories     {"name": {"tag": "ID of the top"}}; missing when an image was saved by its ID
    ID/json          configuration of one layer with the ID of its parent; the top's is the image's
    ID/layer.tar     its files

The image's config is the top's without what only a layer has, with DiffIDs and a history made of all: as Docker makes
it when it loads such an archive, so that the image gets the same ID (moby image/spec/v1.md, v1.1.md).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyruntime.errors import InvalidImage
from pyruntime.image.archive import Archived, archived, kind_of, parse_tag, plain_copy
from pyruntime.image.config import parse_config
from pyruntime.image.digest import digest_of
from pyruntime.image.fields import Fields, load_object
from pyruntime.image.media import OCI_LAYER

if TYPE_CHECKING:
    from pyruntime.image.archive_contents import Contents
    from pyruntime.image.reference import Reference

LAYERS_MAX = 128  # Docker's own bound
JSON_MAX_BYTES = 1 << 20
_OF_A_LAYER = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
_OF_HISTORY = ("created", "author", "created_by", "comment")


def legacy_images(contents: Contents) -> list[Archived]:
    """The images in the order of `repositories`; none when the archive is not of this form. Raises InvalidImage."""
    tops = _tops(contents)
    layers: dict[str, str] = {}  # ID -> DiffID, each layer once
    return [_image(contents, top, references, layers) for top, references in tops.items()]


def _tops(contents: Contents) -> dict[str, tuple[Reference, ...]]:
    """ID -> names of every image; the layers that are nobody's parent when no names are given."""
    raw = contents.document("repositories")
    if raw is None:
        known = contents.layer_ids()
        parents = {_layer(contents, one).text("parent") for one in known}
        return {one: () for one in known if one not in parents}
    fields = Fields(load_object(raw, what="repositories", limit_bytes=JSON_MAX_BYTES), "", "repositories")
    found: dict[str, tuple[Reference, ...]] = {}
    for name in fields.values:
        for tag, top in fields.string_table(name).items():
            found[top] = (*found.get(top, ()), parse_tag(f"{name}:{tag}", "repositories", f"/{name}"))
    return found


def _image(contents: Contents, top: str, references: tuple[Reference, ...], layers: dict[str, str]) -> Archived:
    chain = _chain(contents, top)
    for layer_id in chain:
        if layer_id not in layers:
            digest = contents.digest_at(f"{layer_id}/layer.tar")
            layers[layer_id] = plain_copy(contents.blobs, digest) if kind_of(contents.blobs, digest) else digest
    document = {key: value for key, value in chain[top].values.items() if key not in _OF_A_LAYER}
    for name, usual in (("os", "linux"), ("architecture", "amd64")):
        document[name] = document.get(name) or usual
    document["history"] = [_history(fields) for fields in chain.values()]
    document["rootfs"] = {"type": "layers", "diff_ids": [layers[layer_id] for layer_id in chain]}
    raw = _dump(document)
    contents.blobs.add(iter((raw,)), len(raw), digest_of(raw))
    described = [{"mediaType": OCI_LAYER, "digest": layers[one], "size": contents.blobs.size(layers[one])} for one in chain]
    return archived(contents, parse_config(raw), described, references)


def _chain(contents: Contents, top: str) -> dict[str, Fields]:
    """ID -> configuration of the layers, base first."""
    found: dict[str, Fields] = {}
    at = top
    while at:
        if at in found or len(found) == LAYERS_MAX:
            raise InvalidImage(f"image {top[:12]} of the archive has a loop, or more than {LAYERS_MAX} layers", value=top,
                               hint="it is damaged, or an attack")
        found[at] = _layer(contents, at)
        at = found[at].text("parent")
    return dict(reversed(found.items()))


def _layer(contents: Contents, layer_id: str) -> Fields:
    raw = contents.document(f"{layer_id}/json")
    if raw is None:
        raise InvalidImage(f"the archive has no {layer_id[:64]}/json", value=layer_id[:64],
                           hint="it is incomplete: save the image again, with Docker 1.10 or later")
    what = f"{layer_id[:12]}/json"
    return Fields(load_object(raw, what=what, limit_bytes=JSON_MAX_BYTES), "", what)


def _history(fields: Fields) -> dict[str, str]:
    values = {name: fields.text(name) for name in ("created", "author", "comment")}
    if fields.has("container_config"):
        command = Fields(fields.table("container_config"), "/container_config", fields.what).strings("Cmd")
        values["created_by"] = " ".join(command)
    return {name: values[name] for name in _OF_HISTORY if values.get(name)}


def _dump(document: dict[str, Any]) -> bytes:
    """JSON as Go writes it: sorted at the top, the rest as it came, with escapes for HTML (encoding/json)."""
    text = json.dumps(dict(sorted(document.items())), separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode()
