"""A layer on top of an image becomes an image: its documents, its content, and what runs of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyruntime.errors import ImageError, UnpackError, UsageError
from pyruntime.image.archive_load import load_archive
from pyruntime.image.commit import Words, commit_layer
from pyruntime.image.history import compile_history
from pyruntime.image.importing import import_rootfs
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests.image_samples import archive, layer
from tests.images import busybox_tar

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
    import io

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
