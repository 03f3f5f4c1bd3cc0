"""A layer on top of an image becomes an image: its documents, its content, and what runs of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.errors import ImageError, UnpackError, UsageError
from pyruntime.image.archive_load import load_archive
from pyruntime.image.commit import Words, commit_layer, commit_upper, export_tree
from pyruntime.image.history import compile_history
from pyruntime.image.importing import import_rootfs
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from pyruntime.image.unpack import overlay_options
from tests.image_samples import archive, layer
from tests.images import busybox_tar
from tests.tree_facts import describe, differences

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
UPPER = layer({"etc/": b"", "etc/.wh.group": b"", "etc/motd": b"hello", "srv/": b"", "srv/.wh..wh..opq": b""})
DAY = "2026-02-03T04:05:06Z"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as made:
        with open(busybox_tar(), "rb") as file:
            import_rootfs(made, file.read, reference=parse_reference("base:1"), changes=["ENV A=1", 'CMD ["sh"]'], message="the base")
        yield made
        assert made.verify() == []


def commit(store: Store, data: bytes = UPPER, name: str = "new:1", **more):
    return commit_layer(store, iter((data[:700], data[700:])), base=store.find("base:1"), reference=parse_reference(name), **more)


def test_commit(store):
    base = store.find("base:1")
    image = commit(store, changes=["ENV B=$A", "USER web"], words=Words("me", "a change", "sh -c x", DAY))
    assert store.find("new:1").id == image.id
    assert image.parent == base.id
    assert image.config.diff_ids[:1] == base.config.diff_ids
    assert image.chain_ids[:1] == base.chain_ids
    assert image.config.config == {"Env": ["A=1", "B=1"], "Cmd": ["sh"], "User": "web"}
    assert (image.created, image.config.document["author"]) == (DAY, "me")
    told = compile_history(image.config, [store.layer(chain).size for chain in image.chain_ids])
    assert [(step.created_by, step.comment, step.author) for step in told] == [("sh -c x", "a change", "me"), ("", "the base", "")]
    assert told[0].size == 5
    top = Path(store.layer(image.chain_ids[1]).path)
    assert (top / "etc/motd").read_text() == "hello"
    assert (top / "etc/group").is_char_device()
    assert os.getxattr(top / "srv", "trusted.overlay.opaque") == b"y"
    manifest = json.loads(store.read_blob(image.manifest_digests[0]))
    assert manifest["layers"][0] == json.loads(store.read_blob(base.manifest_digests[0]))["layers"][0]


def test_equal_commits_are_equal(store):
    words = Words(created=DAY)
    assert commit(store, words=words).manifest_digests == commit(store, name="again:1", words=words).manifest_digests


def test_a_containers_configuration_takes_the_bases_place(store):
    assert commit(store, config={"Cmd": ["x"]}).config.config == {"Cmd": ["x"]}


def test_without_a_base(store):
    image = commit_layer(store, [UPPER], base=None, changes=["CMD x"])
    assert len(image.chain_ids) == 1
    assert image.parent == ""


def test_what_is_committed_is_saved_and_loaded(store, tmp_path):
    from pyruntime.image.archive_store import save_from_store

    image, out = commit(store), io.BytesIO()
    save_from_store(store, ["new:1"], out.write)
    with Store.open(str(tmp_path / "other")) as other:
        assert load_archive(other, io.BytesIO(out.getvalue()).read)[0].image.manifest_digests == image.manifest_digests


@pytest.mark.parametrize(("data", "more", "error"), [
    (UPPER, {"changes": ["RUN x"]}, UsageError),
    (archive([("../x", b"")]), {}, UnpackError),
    (UPPER[:700], {}, ImageError),
])
def test_a_failure_keeps_nothing(store, data, more, error):
    with pytest.raises(error):
        commit(store, data, **more)
    assert [image.tags[0].familiar for image in store.images()] == ["base:1"]


CHANGES = """
rm etc/group; rm -r srv; mkdir srv; echo 1 >srv/new; mkdir -p var/a/b; ln bin/busybox var/a/hard; ln -s /nowhere var/link
chmod 4711 usr/bin/raise; chown 33:77 etc/passwd; echo more >>etc/passwd; mkfifo var/fifo; touch -d 2001-02-03T04:05:06 etc
setfattr -n user.note -v text etc/passwd 2>/dev/null || true
"""


@pytest.fixture
def container(store, tmp_path) -> Iterator[Path]:
    """An overlay mount on the base's layers, with changes in it; its upper directory is tmp/upper."""
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir(mode=0o755)
    layers = [store.layer(chain).path for chain in store.find("base:1").chain_ids][::-1]
    options = overlay_options(layers, str(tmp_path / "upper"), str(tmp_path / "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(tmp_path / "merged")], check=True)
    try:
        subprocess.run(["sh", "-ec", CHANGES], cwd=tmp_path / "merged", check=True)
        yield tmp_path / "merged"
    finally:
        subprocess.run(["umount", str(tmp_path / "merged")], check=True)


def seen(store: Store, image, at: Path) -> dict:
    """The merged view of an image's layers."""
    layers = [store.layer(chain).path for chain in image.chain_ids][::-1]
    if len(layers) == 1:  # an overlay has two at least
        return plain(describe(layers[0]))
    at.mkdir()
    options = overlay_options(layers)
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(at)], check=True)
    try:
        return plain(describe(at))
    finally:
        subprocess.run(["umount", str(at)], check=True)


def plain(tree: dict) -> dict:
    for facts in tree.values():
        facts["xattrs"] = {name: value for name, value in facts["xattrs"].items() if "overlay." not in name}
    return tree


def test_an_upper_directory_becomes_a_layer(store, container, tmp_path):
    image = commit_upper(store, str(tmp_path / "upper"), base=store.find("base:1"), reference=parse_reference("new:1"))
    view, here = seen(store, image, tmp_path / "view"), plain(describe(container))
    del view["."]["mtime"], here["."]["mtime"]  # a root's time alone makes no entry
    assert differences(view, here) == []


def test_export_and_back(store, container, tmp_path):
    data = b"".join(export_tree(str(container)))
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "tar"), "-xp", "--delay-directory-restore", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", "-"],
                   input=data, check=True)  # fmt: skip
    here = plain(describe(container))
    assert differences(plain(describe(tmp_path / "tar")), here) == []
    image = import_rootfs(store, io.BytesIO(data).read, reference=parse_reference("exported:1"))
    assert differences(seen(store, image, tmp_path / "view"), here) == []
