"""load, save, import and bundle on a real store with real layers; skopeo, umoci and docker read what we write and write
what we read."""

from __future__ import annotations

import bz2
import gzip
import http.server
import io
import json
import lzma
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pyruntime.errors import DigestMismatch, ImageError, InvalidImage, UnpackError, UsageError
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_load import load_archive, load_layout
from pyruntime.image.archive_save import save_archive, save_layout
from pyruntime.image.archive_store import save_from_store, save_layout_from_store
from pyruntime.image.importing import import_rootfs, open_url
from pyruntime.image.platform import parse_platform
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests.image_samples import archive, config, layer, make_image, members, sha
from tests.images import busybox_tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BASE = layer({"bin/": b"", "bin/sh": b"#!", "etc/": b"", "etc/old": b"1"})
TOP = layer({"etc/": b"", "etc/.wh.old": b"", "etc/new": b"2"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store")) as made:
        yield made
        assert made.verify() == []


def load(store: Store, data: bytes, **more):
    return load_archive(store, io.BytesIO(data).read, **more)


def saved(store: Store, *texts: str) -> bytes:
    out = io.BytesIO()
    save_from_store(store, list(texts), out.write)
    return out.getvalue()


def sample(tmp_path: Path, *names: str, layers=(BASE, TOP), pack: str = "gzip", **more) -> tuple[bytes, object]:
    """(archive, image)."""
    with FolderBlobs(str(tmp_path / "sample")) as blobs:
        image = make_image(blobs, list(layers), *names, pack=pack, **more)
        out = io.BytesIO()
        save_archive(out.write, blobs, [image])
    return out.getvalue(), image


def import_busybox(store: Store, name: str = "busybox:1", **more):
    with open(busybox_tar(), "rb") as file:
        return import_rootfs(store, file.read, reference=parse_reference(name), changes=['CMD ["sh"]'], **more)


def tool(*args: object) -> str:
    if shutil.which(str(args[0])) is None:
        pytest.skip(f"needs {args[0]}")
    done = subprocess.run(list(map(str, args)), capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (args, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.parametrize(("pack", "outer"), [
    ("gzip", bytes), ("zstd", bytes), ("", bytes), ("", gzip.compress), ("gzip", bz2.compress), ("zstd", lzma.compress),
], ids=["gzip", "zstd", "plain", "plain in gzip", "gzip in bzip2", "zstd in xz"])  # fmt: skip
def test_load_unpacks_and_names(store, tmp_path, pack, outer):
    data, made = sample(tmp_path, "x:1", "y:2", pack=pack)
    loaded = load(store, outer(data))
    assert [line for one in loaded for line in one.lines] == ["Loaded image: x:1", "Loaded image: y:2"]
    image = store.find("x:1")
    assert image.id == store.find("y:2").id == made.config.digest
    assert image.manifest_digests == (made.manifest.digest,)
    base, top = (store.layer(chain).path for chain in image.chain_ids)
    assert Path(base, "etc/old").read_bytes() == b"1"
    assert Path(top, "etc/new").read_bytes() == b"2"
    assert Path(top, "etc/old").is_char_device()
    assert saved(store, "x:1", "y:2") == data  # byte for byte, and back


def test_what_is_there_is_not_unpacked_again(store, tmp_path):
    data, _ = sample(tmp_path, "x:1")
    before = [store.layer(chain).path for chain in load(store, data)[0].image.chain_ids]
    more, _ = sample(tmp_path, "z:1", layers=(BASE, TOP, layer({"third": b""})))
    after = [store.layer(chain).path for chain in load(store, more)[0].image.chain_ids]
    assert after[:2] == before
    assert load(store, data)[0].lines == ("Loaded image: x:1",)


def test_a_name_that_moves(store, tmp_path):
    first = load(store, sample(tmp_path, "x:1")[0])[0].image
    again = load(store, sample(tmp_path, "x:1", layers=[BASE])[0])[0]
    assert again.lines == (
        f"The image x:1 already exists, renaming the old one with ID {first.id} to empty string", "Loaded image: x:1")  # fmt: skip
    assert store.find(first.id).tags == ()


def test_without_a_name(store, tmp_path):
    loaded = load(store, sample(tmp_path)[0])[0]
    assert loaded.lines == (f"Loaded image ID: {loaded.image.id}",)
    assert json.loads(members(saved(store, loaded.image.id[7:19]))["manifest.json"])[0]["RepoTags"] is None


def test_save_takes_a_whole_repository(store, tmp_path):
    load(store, sample(tmp_path, "x:1", "x:2", "other:1")[0])
    load(store, sample(tmp_path, "x:3", layers=[BASE])[0])
    tags = {tuple(entry["RepoTags"]) for entry in json.loads(members(saved(store, "x"))["manifest.json"])}
    assert tags == {("x:1", "x:2"), ("x:3",)}
    assert json.loads(members(saved(store, "x:2"))["manifest.json"])[0]["RepoTags"] == ["x:2"]
    with pytest.raises(ImageError):
        saved(store, "x:9")


def test_a_wrong_diff_id_is_refused_and_nothing_stays(store):
    raw = config([sha(BASE)])
    entry = {"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]}
    data = archive([("c.json", raw), ("l/layer.tar", TOP), ("manifest.json", json.dumps([entry]).encode())])
    with pytest.raises(DigestMismatch, match="unpacks to sha256:.* its image's config says"):
        load(store, data)
    assert store.images() == []


def test_a_layer_that_escapes_is_refused_and_nothing_stays(store, tmp_path):
    data, _ = sample(tmp_path, "x:1", layers=[BASE, archive([("../../../escaped", b"1")])])
    with pytest.raises(UnpackError, match="name leaves the root"):
        load(store, data)
    assert store.images() == []
    assert not list(tmp_path.rglob("escaped"))


def test_a_broken_archive_leaves_nothing(store, tmp_path):
    data, _ = sample(tmp_path, "x:1")
    for cut in (0, 100, 700, len(data) // 2):
        with pytest.raises(InvalidImage):
            load(store, data[:cut])
    assert store.images() == []


def test_another_platform(store, tmp_path):
    data, _ = sample(tmp_path, "x:1", architecture="s390x")
    with pytest.raises(ImageError, match="no image for linux/arm64"):
        load(store, data, platform=parse_platform("linux/arm64"))
    assert load(store, data)[0].image.config.architecture == "s390x"


def test_layout_in_a_folder(store, tmp_path):
    data, made = sample(tmp_path, "x:1", pack="zstd")
    load(store, data)
    save_layout_from_store(store, ["x:1"], str(tmp_path / "layout"))
    with Store.open(str(tmp_path / "other")) as other:
        fd = os.open(tmp_path / "layout", os.O_RDONLY)
        assert load_layout(other, fd)[0].image.manifest_digests == (made.manifest.digest,)
        os.close(fd)
        assert other.verify() == []


# ---- import ----
@pytest.mark.parametrize("outer", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["plain", "gzip", "bzip2", "xz"])
def test_import(store, outer):
    packed = io.BytesIO(outer(BASE))
    image = import_rootfs(store, packed.read, reference=parse_reference("x:1"), message="from me", platform=parse_platform("linux/arm/v7"),
                          changes=["CMD echo hi", "ENV A=1\nEXPOSE 80"])  # fmt: skip
    document = image.config.document
    assert document["config"] == {"Cmd": ["/bin/sh", "-c", "echo hi"], "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}}}
    assert (document["os"], document["architecture"], document["variant"]) == ("linux", "arm", "v7")
    assert [entry["comment"] for entry in document["history"]] == ["from me"]
    assert image.config.diff_ids == (sha(BASE),)
    assert Path(store.layer(image.chain_ids[0]).path, "etc/old").read_bytes() == b"1"
    blob = json.loads(store.read_blob(image.manifest_digests[0]))["layers"][0]
    kept = outer if outer in {bytes, gzip.compress} else bytes
    assert blob["size"] == len(kept(BASE))
    assert blob["mediaType"].endswith("gzip" if kept is gzip.compress else "tar")


def test_import_twice_shares_the_layer(store):
    first, second = import_busybox(store, "a:1"), import_busybox(store, "b:1", message="other")
    assert first.id != second.id
    assert first.chain_ids == second.chain_ids


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, BASE[:700]], ids=["empty", "text", "cut"])
def test_import_of_what_is_no_tar(store, data):
    with pytest.raises(ImageError):
        import_rootfs(store, io.BytesIO(data).read)
    assert store.images() == []


# ---- other tools ----
def test_skopeo_reads_ours(store, tmp_path):
    """Both forms of an archive, and a layout: every digest arrives as it was."""
    image = import_busybox(store)
    data = saved(store, "busybox:1")
    (tmp_path / "ours.tar").write_bytes(data)
    save_layout_from_store(store, ["busybox:1"], str(tmp_path / "layout"))
    tool("skopeo", "copy", "--insecure-policy", f"docker-archive:{tmp_path}/ours.tar", f"dir:{tmp_path}/a")
    found = json.loads((tmp_path / "a/manifest.json").read_text())
    assert found["config"]["digest"] == image.id
    tool("skopeo", "copy", "--insecure-policy", f"oci-archive:{tmp_path}/ours.tar:1", f"dir:{tmp_path}/b")
    tool("skopeo", "copy", "--insecure-policy", f"oci:{tmp_path}/layout:1", f"dir:{tmp_path}/c")
    for name in ("b", "c"):
        assert sha((tmp_path / name / "manifest.json").read_bytes()) == image.manifest_digests[0]


@pytest.mark.parametrize("pack", ["gzip", "zstd", ""])
def test_skopeo_reads_every_compression(store, tmp_path, pack):
    data, made = sample(tmp_path, "x:1", pack=pack)
    (tmp_path / "ours.tar").write_bytes(data)
    for source in (f"docker-archive:{tmp_path}/ours.tar", f"oci-archive:{tmp_path}/ours.tar:1"):
        tool("skopeo", "copy", "--insecure-policy", "--dest-decompress", source, f"dir:{tmp_path}/{source[:3]}")
        assert json.loads((tmp_path / source[:3] / "manifest.json").read_text())["config"]["digest"] == made.config.digest


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_we_read_skopeos(store, tmp_path, form):
    image = import_busybox(store)
    save_layout_from_store(store, ["busybox:1"], str(tmp_path / "layout"))
    target = f"{form}:{tmp_path}/theirs:busybox:1" if form == "docker-archive" else f"{form}:{tmp_path}/theirs:1"
    tool("skopeo", "copy", "--insecure-policy", f"oci:{tmp_path}/layout:1", target)
    with Store.open(str(tmp_path / "other")) as other:
        if form == "oci":
            fd = os.open(tmp_path / "theirs", os.O_RDONLY)
            loaded = load_layout(other, fd, name="busybox")
            os.close(fd)
        else:
            with open(tmp_path / "theirs", "rb") as file:
                loaded = load_archive(other, file.read, name="busybox")
        assert loaded[0].image.id == image.id
        assert loaded[0].lines == ("Loaded image: busybox:1",)
        assert loaded[0].image.chain_ids == image.chain_ids
        assert other.verify() == []


def test_umoci_unpacks_our_layout_and_we_read_its(store, tmp_path):
    with FolderBlobs(str(tmp_path / "sample")) as blobs:
        image = make_image(blobs, [BASE, TOP], "x:1")
        save_layout(str(tmp_path / "layout"), blobs, [image])
    tool("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    assert sorted(os.listdir(tmp_path / "bundle/rootfs/etc")) == ["new"]
    (tmp_path / "bundle/rootfs/etc/added").write_text("3")
    tool("umoci", "repack", "--image", f"{tmp_path}/layout:2", tmp_path / "bundle")
    fd = os.open(tmp_path / "layout", os.O_RDONLY)
    loaded = load_layout(store, fd, name="x")
    os.close(fd)
    assert [one.lines[-1] for one in loaded] == ["Loaded image: x:1", "Loaded image: x:2"]
    assert len(loaded[1].image.chain_ids) == 3
    assert Path(store.layer(loaded[1].image.chain_ids[2]).path, "etc/added").read_text() == "3"


def test_import_from_a_url(store, tmp_path):
    shutil.copy(busybox_tar(), tmp_path / "rootfs.tar")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        with open_url(f"{base}/rootfs.tar") as read:
            image = import_rootfs(store, read, source=f"{base}/rootfs.tar")
        with pytest.raises(ImageError, match="answers 404"), open_url(f"{base}/none"):
            pass
        server.shutdown()
    with pytest.raises(ImageError, match=r"reading http://127.0.0.1:\d+/: "), open_url(f"{base}/"):
        pass
    with pytest.raises(UsageError, match="is no http or https URL"), open_url("file:///etc/passwd"):
        pass
    assert image.config.document["history"][0]["comment"] == f"Imported from {base}/rootfs.tar"
    assert image.chain_ids == import_busybox(store).chain_ids
