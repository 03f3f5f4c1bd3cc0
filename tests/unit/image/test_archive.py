"""save and load: both forms, layouts in tars and folders, several images, and archives that try to leave themselves."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
from pathlib import Path

import pytest

from pyruntime.errors import DigestMismatch, ImageError, ImageNotFound, InvalidImage
from pyruntime.image.archive import FULL_NAME, LAYOUT, REF_NAME, check_platform, read_images
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_contents import LayoutContents, clean_name
from pyruntime.image.archive_save import save_archive, save_layout
from pyruntime.image.platform import parse_platform
from pyruntime.image.unpack import Limits
from tests.image_samples import OCI, archive, config, contents, layer, make_image, members, put, sha

BASE, TOP, OTHER = layer({"bin/": b"", "bin/sh": b"#!"}), layer({"etc/": b"", "etc/x": b"1"}), layer({"other": b"2"})


@pytest.fixture
def blobs(tmp_path: Path):
    with FolderBlobs(str(tmp_path / "blobs")) as made:
        yield made


def saved(blobs, *images) -> bytes:
    out = io.BytesIO()
    save_archive(out.write, blobs, images)
    return out.getvalue()


def layout_of(path: Path, blobs: FolderBlobs, **more) -> list:
    fd = os.open(path, os.O_PATH)
    try:
        return read_images(LayoutContents(fd, blobs), **more)
    finally:
        os.close(fd)


def names(images) -> list[list[str]]:
    return [[ref.familiar for ref in image.references] for image in images]


@pytest.mark.parametrize("pack", ["gzip", "zstd", ""])
def test_what_is_saved_is_loaded_byte_for_byte(blobs, tmp_path, pack):
    image = make_image(blobs, [BASE, TOP], "x:1", "host:5000/y:2", pack=pack)
    found = read_images(contents(saved(blobs, image), tmp_path / "loaded"))
    assert found == [image]
    assert found[0].manifest.raw == image.manifest.raw


def test_an_archive_has_both_forms(blobs):
    first = make_image(blobs, [BASE, TOP], "x:1", "x:2")
    second = make_image(blobs, [BASE, OTHER])
    files = members(saved(blobs, first, second))
    assert files["oci-layout"] == LAYOUT
    index = json.loads(files["index.json"])
    assert [entry.get("annotations") for entry in index["manifests"]] == [
        {FULL_NAME: "docker.io/library/x:1", REF_NAME: "1"}, {FULL_NAME: "docker.io/library/x:2", REF_NAME: "2"}, None]  # fmt: skip
    entries = json.loads(files["manifest.json"])
    assert [entry["RepoTags"] for entry in entries] == [["x:1", "x:2"], None]
    for entry in entries:
        for name in [entry["Config"], *entry["Layers"]]:
            assert name == f"blobs/sha256/{sha(files[name])[7:]}"
    assert json.loads(files["repositories"]) == {"x": dict.fromkeys(("1", "2"), first.config.diff_ids[-1][7:])}
    shared = first.manifest.layers[0].digest[7:]
    assert sum(shared in name for name in files) == 1


def test_equal_images_give_equal_archives(blobs):
    image = make_image(blobs, [BASE, TOP], "x:1")
    assert saved(blobs, image) == saved(blobs, image)


def test_layers_in_zstd_are_there_plain_as_well(blobs, tmp_path):
    image = make_image(blobs, [BASE, TOP], "x:1", pack="zstd")
    files = members(saved(blobs, image))
    entry = json.loads(files["manifest.json"])[0]
    assert [files[name] for name in entry["Layers"]] == [BASE, TOP]
    assert f"blobs/sha256/{image.manifest.layers[0].digest[7:]}" in files


def old_form(entries: list[dict], files: list[tuple], documents: dict | None = None) -> bytes:
    return archive([*files, ("manifest.json", json.dumps(entries).encode()), *(documents or {}).items()])


def old_entry(layers: list[bytes], tags: list[str] | None, **more) -> tuple[dict, list[tuple]]:
    raw = config([sha(data) for data in layers])
    paths = [f"{sha(data)[7:]}/layer.tar" for data in layers]
    files = [member for data in layers for member in (
        (f"{sha(data)[7:]}/", b""), (f"{sha(data)[7:]}/VERSION", b"1.0"), (f"{sha(data)[7:]}/json", b"{}"), (f"{sha(data)[7:]}/layer.tar", data))]  # fmt: skip
    return {"Config": f"{sha(raw)[7:]}.json", "RepoTags": tags, "Layers": paths} | more, [(f"{sha(raw)[7:]}.json", raw), *files]


def test_the_old_form(tmp_path):
    entry, files = old_entry([BASE, TOP], ["x:1", "reg.example/y:2"])
    found = read_images(contents(old_form([entry], files), tmp_path / "b"))
    assert names(found) == [["x:1", "reg.example/y:2"]]
    assert [layer.digest for layer in found[0].manifest.layers] == [sha(BASE), sha(TOP)]
    assert found[0].manifest.layers[0].media_type == f"{OCI}.layer.v1.tar"
    again = read_images(contents(old_form([entry], files[::-1]), tmp_path / "c"))
    assert again == found  # its manifest is made from config and layers alone


@pytest.mark.parametrize("link", [lambda at, to: (at, f"../{to}"), lambda at, to: (at, ("hard", to)), lambda at, to: (f"./{at}", f".././{to}")])
def test_layers_that_are_links_in_the_archive(tmp_path, link):
    entry, files = old_entry([BASE, TOP], None)
    entry["Layers"][1] = "linked/layer.tar"
    files.append(link("linked/layer.tar", f"{sha(TOP)[7:]}/layer.tar"))
    found = read_images(contents(old_form([entry], files), tmp_path / "b"))
    assert found[0].manifest.layers[1].digest == sha(TOP)


def test_layers_compressed_in_the_old_form(tmp_path):
    packed = gzip.compress(BASE, mtime=0)
    raw = config([sha(BASE)])
    data = old_form([{"Config": "c", "RepoTags": [], "Layers": ["l.tgz"]}], [("c", raw), ("l.tgz", packed)])
    found = read_images(contents(data, tmp_path / "b"))[0]
    assert found.manifest.layers[0].media_type == f"{OCI}.layer.v1.tar+gzip"


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_layers_in_what_no_manifest_may_name_are_kept_plain(tmp_path, pack, monkeypatch):
    raw = config([sha(BASE)])

    def read(data: bytes, name: str):
        return read_images(contents(old_form([{"Config": "c", "RepoTags": [], "Layers": ["l"]}], [("c", raw), ("l", data)]), tmp_path / name))

    (layer,) = read(pack(BASE), "b")[0].manifest.layers
    assert (layer.media_type, layer.digest, layer.size) == (f"{OCI}.layer.v1.tar", sha(BASE), len(BASE))
    with pytest.raises(InvalidImage, match="layer sha256:.*compression is damaged: cut short"):
        read(pack(BASE)[:-5], "cut")
    monkeypatch.setattr("pyruntime.image.archive.DEFAULT_LIMITS", Limits(ratio=1, ratio_from=len(BASE) - 1))
    with pytest.raises(InvalidImage, match=f"more than {len(BASE) - 1} bytes when unpacked"):
        read(pack(BASE), "bomb")


def test_several_images_and_one_without_layers(tmp_path):
    one, files = old_entry([BASE], ["a:1"])
    two, more = old_entry([], ["b:1"])
    found = read_images(contents(old_form([one, two], files + more), tmp_path / "b"))
    assert names(found) == [["a:1"], ["b:1"]]
    assert found[1].manifest.layers == ()


def test_a_layer_with_urls_keeps_them(blobs, tmp_path):
    foreign = {"mediaType": f"{OCI}.layer.nondistributable.v1.tar", "digest": sha(BASE), "size": len(BASE), "urls": ["https://pub.example/l"]}
    entry, files = old_entry([BASE], ["x:1"], LayerSources={sha(BASE): foreign})
    image = read_images(contents(old_form([entry], files), tmp_path / "b"))[0]
    assert image.manifest.layers[0].urls == ("https://pub.example/l",)
    blobs.add(iter((image.manifest.raw,)), len(image.manifest.raw))
    put(blobs, image.config.raw)
    again = members(saved(blobs, image))  # without the layer, which is its publisher's
    assert json.loads(again["manifest.json"])[0]["LayerSources"] == {sha(BASE): foreign}
    assert sorted(name for name in again if name.startswith("blobs/")) == sorted(
        f"blobs/sha256/{digest[7:]}" for digest in (image.config.digest, image.manifest.digest))  # fmt: skip
    with pytest.raises(InvalidImage, match=r"has no layer") as caught:
        read_images(contents(saved(blobs, image), tmp_path / "c"))
    assert "https://pub.example/l" in caught.value.hint


def test_a_layer_that_is_gone_stops_save_before_a_byte(blobs):
    image = make_image(blobs, [BASE], "x:1")
    os.unlink(f"{blobs.path}/{image.manifest.layers[0].digest.replace(':', '-')}")
    out = io.BytesIO()
    with pytest.raises(InvalidImage, match="is not in the store"):
        save_archive(out.write, blobs, [image])
    assert out.getvalue() == b""


# ---- layouts ----
def test_a_layout_in_a_folder(blobs, tmp_path):
    first, second = make_image(blobs, [BASE, TOP], "x:1"), make_image(blobs, [OTHER], "y:1", pack="zstd")
    save_layout(str(tmp_path / "layout"), blobs, [first])
    save_layout(str(tmp_path / "layout"), blobs, [second])
    assert sorted(os.listdir(tmp_path / "layout")) == ["blobs", "index.json", "oci-layout"]
    with FolderBlobs(str(tmp_path / "other")) as other:
        assert layout_of(tmp_path / "layout", other) == [first, second]
    replaced = make_image(blobs, [TOP], "x:1")
    save_layout(str(tmp_path / "layout"), blobs, [replaced])
    assert layout_of(tmp_path / "layout", blobs) == [second, replaced]
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InvalidImage, match="is no OCI layout and not empty"):
        save_layout(str(tmp_path / "full"), blobs, [first])


def layout_tar(blobs: FolderBlobs, entries: list[dict], **more) -> bytes:
    files = []
    for name in os.listdir(blobs.path):
        algorithm, _, encoded = name.partition("-")
        files.append((f"blobs/{algorithm}/{encoded}", Path(blobs.path, name).read_bytes()))
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return archive([*files, ("index.json", index), ("oci-layout", LAYOUT)])


def entry_of(image, *, ref: str = "", platform: str = "") -> dict:
    entry = {"mediaType": image.manifest.media_type, "digest": image.manifest.digest, "size": len(image.manifest.raw)}
    if ref:
        entry["annotations"] = {REF_NAME: ref}
    if platform:
        entry["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/")))
    return entry


@pytest.mark.parametrize(("ref", "repository", "expected"), [
    ("1.2", "", []), ("1.2", "me/app", ["me/app:1.2"]), ("docker.io/library/x:3", "", ["x:3"]), ("x:3", "other", ["x:3"]),
    ("", "me/app:4", ["me/app:4"]), ("", "", []), ("a b: c", "", []),
])
def test_names_in_a_layout(blobs, tmp_path, ref, repository, expected):
    image = make_image(blobs, [BASE])
    found = read_images(contents(layout_tar(blobs, [entry_of(image, ref=ref)]), tmp_path / "b"), name=repository)
    assert names(found) == [expected]


def test_one_of_several_platforms(blobs, tmp_path):
    amd, arm = make_image(blobs, [BASE]), make_image(blobs, [TOP], architecture="arm64")
    attest = entry_of(amd, platform="unknown/unknown")
    entries = [entry_of(arm, platform="linux/arm64"), entry_of(amd, platform="linux/amd64"), attest]
    nested = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": entries}).encode()
    outer = {"mediaType": f"{OCI}.index.v1+json", "annotations": {REF_NAME: "x:1"}} | put(blobs, nested)
    named = [entry | {"annotations": {REF_NAME: "x:1"}} for entry in entries]
    for number, top in enumerate(([outer], named)):
        data = layout_tar(blobs, top)
        for text, image in (("linux/arm64", arm), ("linux/amd64", amd)):
            found = read_images(contents(data, tmp_path / f"{number}"), platform=parse_platform(text))
            assert found == [image.replace(references=found[0].references)]
            assert names(found) == [["x:1"]]
        with pytest.raises(ImageNotFound, match="no matching manifest for linux/s390x"):
            read_images(contents(data, tmp_path / f"{number}"), platform=parse_platform("linux/s390x"))
    for digest in (arm.manifest.digest, attest["digest"]):
        assert digest
    os.unlink(f"{blobs.path}/{amd.manifest.digest.replace(':', '-')}")  # an archive of a part of an index
    assert read_images(contents(layout_tar(blobs, [outer]), tmp_path / "part"))[0].config == arm.config


def test_an_image_of_another_platform_is_named(blobs):
    image = make_image(blobs, [BASE], architecture="s390x")
    check_platform(image, None)
    with pytest.raises(ImageNotFound, match="no image for linux/arm64 in the archive"):
        check_platform(image, parse_platform("linux/arm64"))


def test_artifacts_alone_are_no_images(blobs, tmp_path):
    manifest = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
                           "config": {"mediaType": "application/vnd.oci.empty.v1+json"} | put(blobs, b"{}"),
                           "layers": [{"mediaType": "text/plain"} | put(blobs, b"text")]}).encode()  # fmt: skip
    entry = {"mediaType": f"{OCI}.manifest.v1+json"} | put(blobs, manifest)
    with pytest.raises(InvalidImage, match="holds no image"):
        read_images(contents(layout_tar(blobs, [entry]), tmp_path / "b"))


def test_a_deep_nest_of_indexes_ends(blobs, tmp_path):
    image = make_image(blobs, [BASE])
    entry = entry_of(image)
    for _ in range(8):
        raw = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry]}).encode()
        entry = {"mediaType": f"{OCI}.index.v1+json"} | put(blobs, raw)
    with pytest.raises(InvalidImage, match="nested deeper than"):
        read_images(contents(layout_tar(blobs, [entry]), tmp_path / "b"))


# ---- damage and attacks ----
def test_content_of_another_digest_is_refused(blobs, tmp_path):
    image = make_image(blobs, [BASE], "x:1", pack="")
    data = saved(blobs, image).replace(b"#!", b"#?")
    with pytest.raises(DigestMismatch, match=r"the archive's blobs/sha256/[0-9a-f]+: content does not match"):
        contents(data, tmp_path / "b")


def test_a_layer_of_another_diff_id_in_the_old_form_is_another_manifest(tmp_path):
    entry, files = old_entry([BASE], ["x:1"])
    files = [(name, TOP if name.endswith("layer.tar") else data) for name, data in files]
    # the DiffID is the unpacker's to check; the manifest tells the truth about the blob
    assert read_images(contents(old_form([entry], files), tmp_path / "b"))[0].manifest.layers[0].digest == sha(TOP)


OUTSIDE = "../../../../../../../../etc/passwd"


@pytest.mark.parametrize("members_", [
    [("../x", b"1")], [("a/../../x", b"1")], [("blobs/sha256/../../../x", b"1")],
], ids=str)  # fmt: skip
def test_a_name_that_leaves_the_archive(tmp_path, members_):
    with pytest.raises(InvalidImage, match="names a file outside of itself"):
        contents(archive(members_), tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize(("change", "files", "message"), [
    ({"Layers": [OUTSIDE]}, [], "outside of itself"),
    ({"Layers": ["/etc/passwd"]}, [], "the archive has no '/etc/passwd'"),
    ({"Config": OUTSIDE}, [], "outside of itself"),
    ({"Config": "/etc/passwd"}, [], "the archive has no '/etc/passwd'"),
    ({"Layers": ["l"]}, [("l", OUTSIDE)], "outside of itself"),
    ({"Layers": ["l"]}, [("l", "/etc/passwd")], "the archive has no 'l'"),
    ({"Layers": ["l"]}, [("l", ("hard", OUTSIDE))], "outside of itself"),
    ({"Layers": ["l"]}, [("l", "l")], "the archive has no 'l'"),
    ({"Layers": ["d/l"]}, [("d", "/etc"), ("passwd", b"")], "the archive has no 'd/l'"),
    ({"Layers": ["l"]}, [], "the archive has no 'l'"),
    ({"RepoTags": ["x"]}, [], "invalid tag 'x'"),
    ({"RepoTags": ["X:1"]}, [], "must be lowercase"),
    ({"RepoTags": "x:1"}, [], "manifest.json: /0/RepoTags must be an array"),
    ({"Config": 3}, [], "manifest.json: /0/Config must be a string"),
    ({"Layers": []}, [], "has 1 diff_ids, its manifest 0 layers"),
], ids=str)  # fmt: skip
def test_documents_that_lie(tmp_path, change, files, message):
    entry, more = old_entry([BASE], ["x:1"])
    with pytest.raises(ImageError, match=message):
        read_images(contents(old_form([entry | change], more + files), tmp_path / "b"))


@pytest.mark.parametrize(("documents", "message"), [
    ({}, "neither a manifest.json nor an index.json"),
    ({"manifest.json": b"{}"}, "/images must be an array"),
    ({"manifest.json": b"[]"}, "holds no image"),
    ({"manifest.json": b"[1]"}, "must be an object"),
    ({"manifest.json": b"[{}] , \"images\": []"}, "comes twice"),
    ({"manifest.json": b"[" * 100_000}, "nested too deeply|is not JSON"),
    ({"manifest.json": b"[" + b"{}," * 1001 + b"{}]"}, "names 1002 images"),
    ({"index.json": b"{}"}, "no oci-layout file"),
    ({"index.json": b"{}", "oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, "is not known"),
    ({"index.json": b'{"schemaVersion":2,"manifests":[],"layers":[]}', "oci-layout": LAYOUT}, "both `manifests` and"),
    ({"index.json": b'{"schemaVersion":2,"manifests":[]}', "oci-layout": LAYOUT}, "holds no image"),
    ({"manifest.json": b" " * (5 << 20)}, "has 5242880 bytes"),
], ids=lambda v: v if isinstance(v, str) else "")  # fmt: skip
def test_no_archive_of_images(tmp_path, documents, message):
    with pytest.raises(InvalidImage, match=message):
        read_images(contents(archive([("file", b""), *documents.items()]), tmp_path / "b"))


def test_an_entry_that_comes_again_is_the_later_one(tmp_path):
    one, files = old_entry([BASE], ["a:1"])
    two, more = old_entry([TOP], ["b:1"])
    data = old_form([one], files + more, {"manifest.json": json.dumps([two]).encode()})
    assert names(read_images(contents(data, tmp_path / "b"))) == [["b:1"]]


def test_a_link_out_of_a_layout_in_a_folder(blobs, tmp_path):
    image = make_image(blobs, [BASE], "x:1")
    path = tmp_path / "layout"
    save_layout(str(path), blobs, [image])
    blob = path / "blobs/sha256" / image.manifest.layers[0].digest[7:]
    blob.rename(tmp_path / "outside")
    blob.symlink_to(tmp_path / "outside")
    with FolderBlobs(str(tmp_path / "other")) as other, pytest.raises(InvalidImage, match="has no layer"):
        layout_of(path, other)


@pytest.mark.parametrize(("name", "base", "result"), [
    ("a/b", "", "a/b"), ("./a//b/", "", "a/b"), ("/a", "x/y", "a"), ("../b", "x/y", "x/b"), ("a/../b", "", "b"), ("", "", ""),
])
def test_clean_name(name, base, result):
    assert clean_name(name, base=base) == result
