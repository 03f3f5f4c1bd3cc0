"""Hostile archives and images, against the real store and helpers: nothing beside the store is read, written or started."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.errors import ImageError, InvalidImage
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_load import load_archive, load_layout
from pyruntime.image.archive_save import save_archive, save_layout
from pyruntime.image.bundle import bundle_from_archive
from pyruntime.image.store import Store
from tests.image_samples import archive, config, layer, make_image, sha
from tests.tree_facts import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BASE = layer({"bin/": b"", "bin/sh": b"#!"})
SECRET = b"root:x:0:0:tiger"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the store that stands for the host, with a layer in it that no archive may reach."""
    beside = tmp_path / "host"
    (beside / "etc").mkdir(parents=True)
    (beside / "etc/passwd").write_bytes(SECRET)
    (beside / "layer.tar").write_bytes(BASE)
    os.mkfifo(beside / "fifo")
    before = (describe(beside), sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text())
    yield beside
    assert before == (describe(beside), sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as made:
        yield made
        assert made.images() == []
        assert made.verify() == []


def hostile(entry: dict, files: list) -> bytes:
    raw = config([sha(BASE)])
    entry = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]} | entry
    return archive([("c.json", raw), *files, ("manifest.json", json.dumps([entry]).encode())])


UP = "../" * 30
CASES = {
    "entry above": ({}, [(f"{UP}etc/x", b"1"), ("l/layer.tar", BASE)]),
    "entry beside": ({}, [("l/../../host/x", b"1"), ("l/layer.tar", BASE)]),
    "absolute entry": ({"Layers": ["/etc/l.tar", "x"]}, [("/etc/l.tar", BASE)]),
    "symlink to a file of the host": ({}, [("l/layer.tar", "{host}/layer.tar")]),
    "relative symlink to it": ({}, [("l/layer.tar", "{up}{host}/layer.tar")]),
    "hard link to it": ({}, [("l/layer.tar", ("hard", "{host}/layer.tar"))]),
    "symlink to a fifo": ({}, [("l/layer.tar", "{host}/fifo")]),
    "symlink as a folder": ({}, [("l", "{host}"), ("other", BASE)]),
    "layer named outside": ({"Layers": ["{up}{host}/layer.tar"]}, []),
    "layer named absolutely": ({"Layers": ["{host}/layer.tar"]}, []),
    "config named outside": ({"Config": "{up}{host}/etc/passwd"}, [("l/layer.tar", BASE)]),
    "config is a symlink": ({"Config": "mine"}, [("mine", "{host}/etc/passwd"), ("l/layer.tar", BASE)]),
    "links in a circle": ({}, [("l/layer.tar", "b"), ("l/b", "layer.tar")]),
    "a chain of links out": ({}, [("l/layer.tar", "b"), ("l/b", "../c"), ("c", "{up}{host}/layer.tar")]),
}


@pytest.mark.parametrize("name", CASES)
def test_an_archive_that_reaches_out(store, host, name):
    """S50, escape 11: names and links of an archive lead to its own files or to an error."""

    def put(value):
        if isinstance(value, str):
            return value.replace("{host}", str(host)).replace("{up}", UP)
        if isinstance(value, (list, tuple)):
            return type(value)(put(one) for one in value)
        return {key: put(one) for key, one in value.items()} if isinstance(value, dict) else value

    entry, files = CASES[name]
    with pytest.raises(ImageError) as caught:
        load_archive(store, io.BytesIO(hostile(put(entry), put(files))).read)
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize("target", ["{host}/layer.tar", "../../../host/layer.tar", "{host}/fifo"])
@pytest.mark.parametrize("what", ["layer", "config", "manifest", "blobs"])
def test_a_layout_whose_files_are_links(store, host, tmp_path, target, what):
    """S50, escape 11: a layout in a folder is read below that folder alone."""
    with FolderBlobs(str(tmp_path / "sample")) as blobs:
        image = make_image(blobs, [BASE], "x:1", pack="")
        save_layout(str(tmp_path / "layout"), blobs, [image])
    manifest = image.manifest
    digest = {"layer": manifest.layers[0].digest, "config": manifest.config.digest, "manifest": manifest.digest, "blobs": ""}[what]
    path = tmp_path / "layout/blobs/sha256" / digest[7:] if digest else tmp_path / "layout/blobs"
    path.rename(tmp_path / "moved")
    path.symlink_to(target.format(host=host) if digest else tmp_path / "moved")
    fd = os.open(tmp_path / "layout", os.O_RDONLY)
    try:
        with pytest.raises(InvalidImage, match="the archive has no"):
            load_layout(store, fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("inner", "files"), [
    ({"Volumes": {f"/{UP}host/etc": {}}}, {}),
    ({"Volumes": {"/out/made": {}}}, {"out": "{host}"}),
    ({"Volumes": {"/out/made": {}}}, {"out": "../../../host"}),
    ({"WorkingDir": "/out/made"}, {"out": "{host}"}),
    ({"User": "0"}, {"etc": "{host}/etc"}),
    ({"Labels": {"run.oci.hooks.stdout": "{host}/made", "run.oci.seccomp.receiver": "{host}/fifo", "org.criu.config": "{host}/etc/passwd", "bundle": "{host}"}}, {}),
], ids=["volume", "volume by a link", "by a relative link", "working directory", "accounts", "labels"])  # fmt: skip
def test_what_an_image_says_stays_inside(host, tmp_path, inner, files):
    """S53: volumes, the working directory and the accounts are looked for in the image's root; labels mean nothing."""
    text = json.dumps([inner, files]).replace("{host}", str(host))
    inner, files = json.loads(text)
    with FolderBlobs(str(tmp_path / "sample")) as blobs:
        out = io.BytesIO()
        save_archive(out.write, blobs, [make_image(blobs, [BASE, layer(files or {"x": b""})], "x:1", inner={"Cmd": ["sh"]} | inner)])
    out.seek(0)
    bundle_from_archive(out.read, str(tmp_path / "bundle"))
    document = (tmp_path / "bundle/config.json").read_text()
    assert str(host) not in document
    assert "tiger" not in document
    mounts = {mount["source"] for mount in json.loads(document)["mounts"]}
    assert mounts == {"proc", "tmpfs", "devpts", "sysfs", "cgroup", "mqueue", "shm"}
