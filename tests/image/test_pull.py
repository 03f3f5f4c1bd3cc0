"""Pull from Debian's docker-registry into a real store: what arrives, what is left out, what is refused."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from pyruntime.errors import Cancelled, DigestMismatch, ImageError, ImageNotFound, InvalidImage, StoreError, UnpackError
from pyruntime.image.content import Ingest
from pyruntime.image.digest import digest_of
from pyruntime.image.platform import Platform
from pyruntime.image.progress import Progress
from pyruntime.image.pull import pull, pull_all_tags
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.transfers import Transfers
from tests import small_images
from tests.fault_proxy import Fault, connections_to
from tests.registry_stand import QUICK, upload
from tests.waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]


def big(size: int = 2 << 20, count: int = 3) -> small_images.Made:
    """An image of layers that do not compress."""
    return small_images.image([{f"f{i}": os.urandom(size)} for i in range(count)])


def names(lines: list[Progress], status: str) -> list[str]:
    return [line.id for line in lines if line.status == status]


def short(digest: str) -> str:
    return digest[7:19]


# ---- what arrives ----
def test_an_image_arrives_whole(plain, store, client) -> None:
    made = small_images.image([{"a": b"one", "d/": b"", "d/x": b"x"}, {"d/y": b"y", "d/.wh.x": b"", "l": "d/y"}], docker=True)
    upload(plain, "team/thing", made, "v1")
    lines: list[Progress] = []
    reference = parse_reference(f"{plain.host}/team/thing:v1")
    image = pull(store, client, reference, progress=lines.append)
    assert image.id == made.config_digest
    assert image.tags == (reference,)
    assert [known.repo_digest for known in image.repo_digests] == [f"{plain.host}/team/thing@{made.digest}"]
    assert image.config.diff_ids == made.diff_ids
    base, top = (Path(store.layer(chain).path) for chain in image.chain_ids)
    assert (base / "a").read_bytes() == b"one"
    assert os.readlink(top / "l") == "d/y"
    assert (top / "d/x").is_char_device()  # the whiteout of overlayfs
    assert store.read_blob(made.digest) == made.manifest
    assert store.find(f"{plain.host}/team/thing:v1") == image
    said = [line.status for line in lines]
    assert said[0] == "Pulling from team/thing"
    assert lines[0].id == "v1"
    assert said[-2:] == [f"Digest: {made.digest}", f"Status: Downloaded newer image for {plain.host}/team/thing:v1"]
    for digest in made.layers:
        own = list(dict.fromkeys(line.status for line in lines if line.id == short(digest)))
        assert own == ["Pulling fs layer", "Downloading", "Verifying Checksum", "Download complete", "Extracting", "Pull complete"]
        total = len(made.blobs[digest])
        assert (total, total) in [(line.current, line.total) for line in lines if line.status == "Downloading"]


def test_what_is_here_is_not_fetched_again(plain, proxy, store, client) -> None:
    made = big()
    upload(plain, "again", made, "v1", "v2")
    reference = parse_reference(f"{proxy.host}/again:v1")
    image = pull(store, client, reference)
    proxy.seen.clear()
    lines: list[Progress] = []
    assert pull(store, client, reference, progress=lines.append).id == image.id
    assert [request.method for request in proxy.seen if request.path != "/v2/"] == ["HEAD"]
    assert names(lines, "Already exists") == [short(digest) for digest in made.layers]
    assert lines[-1].status == f"Status: Image is up to date for {proxy.host}/again:v1"
    # another name of the same: one manifest
    proxy.seen.clear()
    other = pull(store, client, parse_reference(f"{proxy.host}/again:v2"))
    assert (other.id, len(other.tags)) == (image.id, 2)
    assert proxy.count("GET", "/blobs/") == 0
    # by digest
    by_digest = pull(store, client, parse_reference(f"{proxy.host}/again:ignored@{made.digest}"))
    assert len(by_digest.tags) == 2


def test_a_registry_that_knows_no_head(plain, proxy, store, client) -> None:
    made = small_images.image([{"a": os.urandom(100)}])
    upload(plain, "headless", made, "v1")
    reference = parse_reference(f"{proxy.host}/headless:v1")
    pull(store, client, reference)
    proxy.faults.append(Fault("HEAD", "/manifests/", status=405, times=-1))
    assert pull(store, client, reference).id == made.config_digest


def test_layers_that_images_share_come_once(plain, proxy, store, client) -> None:
    layers = [{"base": os.urandom(50_000)}, {"mid": b"m"}]
    upload(plain, "one", small_images.image(layers), "v1")
    two = small_images.image([*layers, {"top": b"t"}])
    upload(plain, "two", two, "v1")
    pull(store, client, parse_reference(f"{proxy.host}/one:v1"))
    proxy.seen.clear()
    image = pull(store, client, parse_reference(f"{proxy.host}/two:v1"))
    asked = {request.path.rpartition("/")[2] for request in proxy.seen if "/blobs/" in request.path}
    assert asked == {two.config_digest, two.layers[2]}
    assert store.layer(image.chain_ids[2]).parent == image.chain_ids[1]


def test_a_layer_twice_in_one_image(plain, proxy, store, client) -> None:
    made = small_images.image([{"a": b"a"}, {"b": b"b"}, {"a": b"a"}, {"a": b"a"}])
    upload(plain, "twice", made, "v1")
    image = pull(store, client, parse_reference(f"{proxy.host}/twice:v1"))
    assert len(set(image.chain_ids)) == 4
    assert proxy.count("GET", made.layers[0]) == 1


def test_the_same_files_otherwise_compressed(plain, proxy, store, client) -> None:
    files = [{"text": b"to be compressed " * 1000}]
    upload(plain, "fast", small_images.image(files, level=1), "v1")
    slow = small_images.image(files, level=9)
    upload(plain, "slow", slow, "v1")
    first = pull(store, client, parse_reference(f"{proxy.host}/fast:v1"))
    second = pull(store, client, parse_reference(f"{proxy.host}/slow:v1"))
    assert first.id == second.id
    assert len(second.manifest_digests) == 2
    assert store.has_blob(slow.layers[0])  # its manifest can be pushed as it is


def test_an_index(plain, store, client) -> None:
    made = {arch: small_images.image([{"arch": arch.encode()}], architecture=arch) for arch in ("amd64", "arm64", "riscv64")}
    for one in made.values():
        upload(plain, "multi", one)
    raw = small_images.index([(one, {"os": "linux", "architecture": arch}) for arch, one in made.items()])
    client.put_manifest(f"{plain.host}/multi", "v1", raw, small_images.INDEX)
    reference = parse_reference(f"{plain.host}/multi:v1")
    lines: list[Progress] = []
    image = pull(store, client, reference, platform=Platform("linux", "arm64"), progress=lines.append)
    assert image.id == made["arm64"].config_digest
    assert [known.digest for known in image.repo_digests] == [digest_of(raw)]
    assert f"Digest: {digest_of(raw)}" in [line.status for line in lines]
    assert pull(store, client, reference).config.architecture in {"amd64", "arm64"}  # the machine's own
    with pytest.raises(ImageNotFound, match="no matching manifest for linux/s390x") as caught:
        pull(store, client, reference, platform=Platform("linux", "s390x"))
    assert caught.value.hint == "platforms offered: linux/amd64, linux/arm64, linux/riscv64"


def test_an_index_in_an_index_and_too_many(plain, store, client) -> None:
    made = small_images.image([{"a": b"a"}])
    upload(plain, "nested", made)
    raw, kind = made.manifest, made.media_type
    for depth in range(7):
        raw, kind = json.dumps({"schemaVersion": 2, "mediaType": small_images.INDEX, "manifests": [
            {"mediaType": kind, "digest": digest_of(raw), "size": len(raw)}]}).encode(), small_images.INDEX
        client.put_manifest(f"{plain.host}/nested", f"d{depth}", raw, kind)
    assert pull(store, client, parse_reference(f"{plain.host}/nested:d2")).id == made.config_digest
    with pytest.raises(InvalidImage, match="more than 4 indexes inside each other"):
        pull(store, client, parse_reference(f"{plain.host}/nested:d6"))


def test_a_single_manifest_for_another_machine(plain, store, client) -> None:
    made = small_images.image([{"a": b"a"}], architecture="s390x")
    upload(plain, "foreign", made, "v1")
    reference = parse_reference(f"{plain.host}/foreign:v1")
    lines: list[Progress] = []
    assert pull(store, client, reference, progress=lines.append).id == made.config_digest
    assert any("platform (linux/s390x) does not match the detected host platform" in line.status for line in lines)
    with pytest.raises(ImageNotFound, match=r"platform \(linux/s390x\) does not match the specified platform \(linux/amd64\)"):
        pull(store, client, reference, platform=Platform("linux", "amd64"))


def test_every_tag(plain, store, client) -> None:
    for tag in ("v1", "v2"):
        upload(plain, "all", small_images.image([{"tag": tag.encode()}]), tag)
    found = pull_all_tags(store, client, parse_reference(f"{plain.host}/all"))
    assert len({image.id for image in found}) == 2
    assert {reference.tag for image in store.images() for reference in image.tags} == {"v1", "v2"}


# ---- what is refused ----
def broken(plain, path: str, made: small_images.Made, change) -> None:
    """Uploads an image whose manifest was changed."""
    document = json.loads(made.manifest)
    change(document)
    upload(plain, path, made._replace(manifest=json.dumps(document).encode()), "v1")


def test_a_layer_that_unpacks_to_something_else(plain, store, client) -> None:
    made = small_images.image([{"a": b"a"}, {"b": b"b"}])
    other, _ = small_images.layer({"b": b"evil"})
    blobs = {**made.blobs, digest_of(other): other}
    document = json.loads(made.manifest)
    document["layers"][1] |= {"digest": digest_of(other), "size": len(other)}
    upload(plain, "diff", made._replace(manifest=json.dumps(document).encode(), blobs=blobs), "v1")
    with pytest.raises(DigestMismatch, match=f"unpacks to sha256:.*, its image's config says {made.diff_ids[1]}") as caught:
        pull(store, client, parse_reference(f"{plain.host}/diff:v1"))
    assert caught.value.field == "/rootfs/diff_ids"
    assert store.images() == []


def test_what_is_no_image(plain, store, client) -> None:
    made = small_images.image([{"a": b"a"}])
    for path, change, said in (
        ("artifact", lambda d: d["config"].update(mediaType="application/vnd.x+json"), "is no image: its config is"),
        ("layer", lambda d: d["layers"][0].update(mediaType="application/vnd.x"), "layer 0 of .* no known layer"),
        ("fewer", lambda d: d["layers"].append(d["layers"][0]), "diff_ids"),
        ("large", lambda d: d["config"].update(size=9 << 20), "larger than 8388608 bytes"),
    ):
        broken(plain, path, made, change)
        with pytest.raises(InvalidImage, match=said):
            pull(store, client, parse_reference(f"{plain.host}/{path}:v1"))
    assert store.images() == []


def test_a_blob_that_is_no_layer(plain, store, client) -> None:
    junk = os.urandom(100_000)
    made = small_images.image([{"a": b"a"}])
    document = json.loads(made.manifest)
    document["layers"][0] |= {"digest": digest_of(junk), "size": len(junk)}
    upload(plain, "junk", made._replace(manifest=json.dumps(document).encode(), blobs={**made.blobs, digest_of(junk): junk}), "v1")
    with pytest.raises(UnpackError):
        pull(store, client, parse_reference(f"{plain.host}/junk:v1"))
    assert store.images() == []


def test_content_that_is_not_what_it_is_called(plain, proxy, store, client) -> None:
    made = big(200_000)
    upload(plain, "wrong", made, "v1")
    reference = parse_reference(f"{proxy.host}/wrong:v1")
    proxy.faults.append(Fault("GET", made.layers[1], corrupt=100_000, times=-1))
    with pytest.raises(DigestMismatch, match="content does not match its digest"):
        pull(store, client, reference)
    assert store.images() == []
    proxy.faults.clear()
    pull(store, client, reference)


def test_a_mirror_with_wrong_content(plain, proxy, store) -> None:
    made = big(200_000)
    upload(plain, "mirrored", made, "v1")
    client = RegistryClient(HostConfig(mirrors=((plain.host, (f"http://{proxy.host}",)),), certs_folders=()), policy=QUICK)
    proxy.faults.append(Fault("GET", "/blobs/", corrupt=100, times=-1))
    # the config comes in one piece and is checked there: from the origin, as the mirror's is wrong
    proxy.faults.insert(0, Fault("GET", made.config_digest, status=404))
    assert pull(store, client, parse_reference(f"{plain.host}/mirrored:v1")).id == made.config_digest


# ---- broken connections and what is kept ----
def test_a_pull_over_broken_connections(plain, proxy, store, client) -> None:
    made = big(1 << 20)
    upload(plain, "cuts", made, "v1")
    proxy.faults.append(Fault("GET", "|".join(made.layers), cut_at=300_000, times=6))
    assert pull(store, client, parse_reference(f"{proxy.host}/cuts:v1")).id == made.config_digest
    assert any("Range" in request.headers for request in proxy.seen)


def test_what_a_failed_pull_has_got_is_gone_on_with(plain, proxy, store, client) -> None:
    made = big(1 << 20, 1)
    upload(plain, "kept", made, "v1")
    reference = parse_reference(f"{proxy.host}/kept:v1")
    size = len(made.blobs[made.layers[0]])
    proxy.faults += [Fault("GET", made.layers[0], cut_at=700_000), Fault("GET", made.layers[0], status=404)]
    with pytest.raises(ImageError):
        pull(store, client, reference)
    proxy.seen.clear()
    lines: list[Progress] = []
    pull(store, client, reference, progress=lines.append)
    (request,) = [request for request in proxy.seen if made.layers[0] in request.path]
    assert request.headers["Range"] == "bytes=700000-"
    assert next(line.total for line in lines if line.status == "Downloading") == size


@pytest.mark.parametrize("where", [10, 650_000], ids=["header", "middle"])
def test_a_part_that_was_damaged_is_fetched_anew(plain, proxy, store, client, where) -> None:
    made = big(1 << 20, 1)
    upload(plain, "damaged", made, "v1")
    reference = parse_reference(f"{proxy.host}/damaged:v1")
    proxy.faults += [Fault("GET", made.layers[0], cut_at=700_000), Fault("GET", made.layers[0], status=404)]
    with pytest.raises(ImageError):
        pull(store, client, reference)
    (part,) = Path(store.root, "ingest").iterdir()
    data = bytearray(part.read_bytes())
    data[where] ^= 0xFF
    part.write_bytes(data)
    assert pull(store, client, reference).id == made.config_digest


# ---- side by side ----
def test_three_at_a_time_and_extracted_as_they_come(plain, proxy, store, client) -> None:
    made = small_images.image([{f"first{i}": os.urandom(200_000), f"second{i}": os.urandom(400_000)} for i in range(6)])
    upload(plain, "many", made, "v1")
    gate = threading.Event()
    proxy.faults.append(Fault("GET", "|".join(made.layers), gate=gate, hold_at=500_000, times=-1))
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(pull(store, client, parse_reference(f"{proxy.host}/many:v1")).id))
    thread.start()
    try:
        until(lambda: proxy.active == 3)
        # a layer's first file is there before its last bytes have come
        until(lambda: len(list(Path(store.root, "staging").glob("*/diff/first*"))) == 3)
    finally:
        gate.set()
        thread.join()
    assert proxy.most_active == 3
    assert done == [made.config_digest]


def test_a_cancelled_pull(plain, proxy, store, client) -> None:
    made = big(2 << 20, 4)
    upload(plain, "cancelled", made, "v1")
    reference = parse_reference(f"{proxy.host}/cancelled:v1")
    cancel, gate = threading.Event(), threading.Event()
    proxy.faults.append(Fault("GET", "|".join(made.layers), gate=gate, hold_at=300_000, times=-1))
    began: list[float] = []

    def look(line: Progress) -> None:
        if line.status == "Downloading" and not began:
            began.append(time.monotonic())
            cancel.set()

    with pytest.raises(Cancelled):
        pull(store, client, reference, cancel=cancel, progress=look)
    assert time.monotonic() - began[0] < 30  # the gate holds for longer
    gate.set()
    proxy.faults.clear()
    assert store.images() == []
    assert os.listdir(f"{store.root}/staging") == []
    proxy.seen.clear()
    assert pull(store, client, reference).id == made.config_digest
    assert any("Range" in request.headers for request in proxy.seen)


def test_a_pull_that_fails_closes_its_connections(plain, proxy, store, client, monkeypatch) -> None:
    """While somebody still has the error, which has all its frames."""
    made = big(1 << 20, 1)
    upload(plain, "failing", made, "v1")
    gate = threading.Event()
    proxy.faults.append(Fault("GET", made.layers[0], gate=gate, hold_at=900_000))

    write = Ingest.write

    def full(ingest: Ingest, data: bytes) -> None:
        if len(data) > 100_000:
            raise StoreError("no space")
        write(ingest, data)

    monkeypatch.setattr(Ingest, "write", full)
    with pytest.raises(StoreError, match="no space") as caught:
        pull(store, client, parse_reference(f"{proxy.host}/failing:v1"))
    assert connections_to(proxy.host) == 0, caught.tb
    gate.set()


def test_equal_pulls_share_one_transfer(plain, proxy, store, client) -> None:
    made = big(1 << 20)
    upload(plain, "shared", made, "v1")
    reference = parse_reference(f"{proxy.host}/shared:v1")
    gate = threading.Event()
    proxy.faults.append(Fault("GET", "|".join(made.layers), gate=gate, times=-1))
    transfers, results, lines = Transfers(), [], [[], [], []]
    leave = threading.Event()

    def one(number: int) -> None:
        try:
            results.append(transfers.pull(store, client, reference, progress=lines[number].append,
                                          cancel=leave if number == 2 else None))
        except Cancelled:
            results.append(None)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    try:
        for thread, heard in zip(threads, lines):
            thread.start()
            until(lambda heard=heard: heard)
        leave.set()  # one leaves, the others stay
        threads[2].join()
    finally:
        gate.set()
    for thread in threads:
        thread.join()
    assert sorted(str(result and result.id) for result in results) == sorted(["None", made.config_digest, made.config_digest])
    assert proxy.count("GET", "/manifests/") == 1
    assert proxy.count("GET", "/blobs/") == 4
    for heard in lines[:2]:
        assert heard[-1].status.startswith("Status: Downloaded newer image")
        assert set(names(heard, "Pull complete")) == {short(digest) for digest in made.layers}


def test_when_all_leave_the_transfer_ends(plain, proxy, store, client) -> None:
    made = big(4 << 20, 1)
    upload(plain, "left", made, "v1")
    reference = parse_reference(f"{proxy.host}/left:v1")
    proxy.faults.append(Fault("GET", made.layers[0], slow_s=0.1))
    transfers, cancel = Transfers(), threading.Event()
    threading.Timer(0.5, cancel.set).start()
    with pytest.raises(Cancelled):
        transfers.pull(store, client, reference, cancel=cancel)
    assert transfers.pull(store, client, reference).id == made.config_digest
    with pytest.raises(ImageError, match="not found"):
        transfers.pull(store, client, parse_reference(f"{proxy.host}/left:v2"))


def test_different_images_with_one_blob_side_by_side(plain, proxy, store, client) -> None:
    base = {"base": os.urandom(2 << 20)}
    made = [small_images.image([base, {"own": str(i).encode()}]) for i in range(2)]
    for i, one in enumerate(made):
        upload(plain, f"side{i}", one, "v1")
    proxy.faults.append(Fault("GET", made[0].layers[0], slow_s=0.005, times=-1))
    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda i=i: found.update(
        {i: pull(store, client, parse_reference(f"{proxy.host}/side{i}:v1")).id})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: one.config_digest for i, one in enumerate(made)}
    assert proxy.count("GET", made[0].layers[0]) == 1
