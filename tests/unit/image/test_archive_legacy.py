"""Archives from before manifest.json: what they hold becomes images, and what lies is refused."""

from __future__ import annotations

import bz2
import gzip
import json

import pytest

from pyruntime.errors import ImageError, InvalidImage
from pyruntime.image.archive import read_images
from pyruntime.image.archive_legacy import LAYERS_MAX
from tests.image_samples import CREATED, archive, contents, layer, sha

BASE, TOP = layer({"a": b"1"}), layer({"b": b"2"})
ONE, TWO = "1" * 64, "2" * 64


def old_layer(layer_id: str, data: bytes, parent: str = "", **more) -> list[tuple[str, bytes]]:
    document = {"id": layer_id, "created": CREATED, "container_config": {"Cmd": ["/bin/sh", "-c", f"step {layer_id[0]}"]},
                "config": {"Cmd": ["/bin/x"]}, "architecture": "amd64", "os": "linux", "Size": 7, "docker_version": "1.9.1",
                **({"parent": parent} if parent else {}), **more}  # fmt: skip
    return [(f"{layer_id}/", b""), (f"{layer_id}/VERSION", b"1.0"), (f"{layer_id}/json", json.dumps(document).encode()),
            (f"{layer_id}/layer.tar", data)]  # fmt: skip


def names(**found: object) -> tuple[str, bytes]:
    return ("repositories", json.dumps(found).encode())


def read(tmp_path, *members):
    return read_images(contents(archive(list(members)), tmp_path / "b"))


def test_a_chain_becomes_an_image(tmp_path):
    (image,) = read(tmp_path, *old_layer(TWO, TOP, ONE, author="me"), *old_layer(ONE, BASE, comment="c"), names(x={"1": TWO, "2": TWO}))
    assert [str(ref) for ref in image.references] == ["docker.io/library/x:1", "docker.io/library/x:2"]
    assert image.config.diff_ids == (sha(BASE), sha(TOP))
    assert [entry.digest for entry in image.manifest.layers] == [sha(BASE), sha(TOP)]
    assert image.config.document == {
        "architecture": "amd64", "author": "me", "config": {"Cmd": ["/bin/x"]}, "created": CREATED, "docker_version": "1.9.1", "os": "linux",
        "container_config": {"Cmd": ["/bin/sh", "-c", "step 2"]}, "rootfs": {"type": "layers", "diff_ids": [sha(BASE), sha(TOP)]},
        "history": [{"created": CREATED, "created_by": "/bin/sh -c step 1", "comment": "c"},
                    {"created": CREATED, "author": "me", "created_by": "/bin/sh -c step 2"}]}  # fmt: skip
    assert image.config.raw == image.config.raw.strip()
    assert list(image.config.document) == sorted(image.config.document)


def test_without_names_the_tops_are_the_images(tmp_path):
    found = read(tmp_path, *old_layer(ONE, BASE), *old_layer(TWO, TOP, ONE), *old_layer("3" * 64, TOP, ONE))
    assert [image.references for image in found] == [(), ()]
    assert {len(image.config.diff_ids) for image in found} == {2}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_layers_are_kept_plain(tmp_path, pack):
    (image,) = read(tmp_path, *old_layer(ONE, pack(BASE)), names(x={"1": ONE}))
    assert image.manifest.layers[0].digest == image.config.diff_ids[0] == sha(BASE)


def test_what_a_config_must_have_and_an_old_one_has_not(tmp_path):
    (image,) = read(tmp_path, *old_layer(ONE, BASE, os=None, architecture=None, container_config=None), names(x={"1": ONE}))
    assert (image.config.os, image.config.architecture) == ("linux", "amd64")
    assert image.config.document["history"] == [{"created": CREATED}]


@pytest.mark.parametrize(("members", "message"), [
    ([*old_layer(ONE, BASE, TWO), *old_layer(TWO, TOP, ONE), names(x={"1": ONE})], "has a loop"),
    ([*old_layer(ONE, BASE, ONE), names(x={"1": ONE})], "has a loop"),
    ([*old_layer(ONE, BASE, TWO), names(x={"1": ONE})], f"has no {TWO}/json"),
    ([*old_layer(ONE, BASE)[:3], names(x={"1": ONE})], "has no .*layer.tar"),
    ([*old_layer(ONE, BASE), names(x={"1": "../../etc/passwd"})], "has no ../../etc/passwd/json"),
    ([*old_layer(ONE, BASE), names(x={"1": ONE, "no tag": ONE})], "invalid reference format"),
    ([*old_layer(ONE, BASE), names(x=[ONE])], "repositories: /x must be an object"),
    ([*old_layer(ONE, BASE), names(x={"1": 7})], "repositories: /x must hold strings, '1' is a number"),
    ([*old_layer(ONE, BASE), ("repositories", b"[]")], "repositories is an array"),
    ([*old_layer(ONE, BASE, 7), names(x={"1": ONE})], "111111111111/json: /parent must be a string"),
    ([*old_layer(ONE, BASE, container_config={"Cmd": "x"}), names(x={"1": ONE})], "/container_config/Cmd must be an array"),
    ([(f"{ONE}/json", b"{"), names(x={"1": ONE})], "111111111111/json is not JSON"),
    ([names(x={})], "neither a manifest.json nor an index.json"),
    ([(f"{ONE}/json", b" " * (2 << 20)), names(x={"1": ONE})], "more than the 1048576 that are read"),
], ids=range(14))  # fmt: skip
def test_what_lies(tmp_path, members, message):
    with pytest.raises(ImageError, match=message):
        read(tmp_path, *members)


def test_more_layers_than_docker_has(tmp_path):
    ids = [f"{number:064x}" for number in range(LAYERS_MAX + 1)]
    members = [entry for at, parent in zip(ids, ["", *ids]) for entry in old_layer(at, BASE, parent)[2:]]
    assert len(read(tmp_path, *members, names(x={"1": ids[-2]}))[0].config.diff_ids) == LAYERS_MAX
    with pytest.raises(InvalidImage, match="or more than 128 layers"):
        read(tmp_path, *members, names(x={"1": ids[-1]}))


def test_documents_that_nobody_needs_are_not_kept_without_end(tmp_path):
    big = json.dumps({"x": "y" * 900_000}).encode()
    found = contents(archive([(f"{number:064x}/json", big) for number in range(40)]), tmp_path / "b")
    assert 10 < len(found.layer_ids()) < 20
