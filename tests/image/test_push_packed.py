"""Pushes of images with plain layers: what was imported or loaded goes out compressed, what a registry gave as it is."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import tarfile
import threading
import time
from pathlib import Path

import pytest

from pyruntime.errors import Cancelled, DigestMismatch
from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.commit import commit_layer
from pyruntime.image.importing import import_rootfs
from pyruntime.image.media import OCI_LAYER, OCI_LAYER_GZIP
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Image, Store
from tests import small_images
from tests.fault_proxy import Fault
from tests.image.killing import MARKS, SEED, begun
from tests.image_samples import layer as made_layer
from tests.registry_stand import push_made

pytestmark = MARKS
MOST_KIB = 64 << 10  # what a push of a large layer may add to a process that has pushed a small one
PUSH = """
import resource, sys
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
with Store(sys.argv[1]) as store:
    print("begun", flush=True)
    for name in sys.argv[2:]:
        push(store, RegistryClient(HostConfig(certs_folders=())), parse_reference(name))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""


def rootfs(size: int = 200_000, name: str = "f") -> bytes:
    """A tar that compresses to about half."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = size
        tar.addfile(entry, io.BytesIO(os.urandom(size // 2).ljust(size, b"\0")))
    return buffer.getvalue()


def imported(store: Store, name: str, tar: bytes, *, created: str = "2026-01-02T03:04:05Z") -> Image:
    return import_rootfs(store, io.BytesIO(tar).read, reference=parse_reference(name), created=created)


def manifest_of(found, path: str, tag: str) -> tuple[bytes, dict]:
    status, raw = found.get(f"/v2/{path}/manifests/{tag}", Accept=small_images.MANIFEST)
    assert status == 200
    return raw, json.loads(raw)


def test_an_import_goes_out_compressed(plain, store, client, tmp_path) -> None:
    name, tar = f"{plain.host}/imported:v1", rootfs()
    image = imported(store, name, tar)
    lines = []
    pushed = push(store, client, parse_reference(name), progress=lines.append)
    raw, document = manifest_of(plain, "imported", "v1")
    assert (pushed.digest, pushed.size) == (small_images.digest_of(raw), len(raw))
    (layer,) = document["layers"]
    assert layer["mediaType"] == OCI_LAYER_GZIP
    status, blob = plain.get(f"/v2/imported/blobs/{layer['digest']}")
    assert (status, len(blob), gzip.decompress(blob)) == (200, layer["size"], tar)
    assert len(blob) < len(tar) * 0.6
    assert blob[:10] == b"\x1f\x8b\x08\x00\0\0\0\0" + blob[8:10]  # no name, no time
    assert document["config"]["digest"] == image.id
    own = list(dict.fromkeys(line.status for line in lines if line.id == image.config.diff_ids[0][7:19]))
    assert own == ["Compressing", "Preparing", "Pushing", "Pushed"]
    # the image is the same one here, known by both manifests; what came in is still there
    again = store.find(name)
    assert (again.id, [known.digest for known in again.repo_digests]) == (image.id, [pushed.digest])
    assert set(again.manifest_digests) == {*image.manifest_digests, pushed.digest}
    assert store.read_blob(image.config.diff_ids[0]) == tar
    with Store(str(tmp_path / "elsewhere")) as elsewhere:
        assert pull(elsewhere, client, parse_reference(name)).id == image.id


def test_a_second_push_sends_nothing_and_changes_nothing(plain, proxy, store, client, tmp_path) -> None:
    tar = rootfs()
    name = f"{proxy.host}/twice:v1"
    imported(store, name, tar)
    first = push(store, client, parse_reference(name))
    before = len(proxy.seen)
    store.tag(name, parse_reference(f"{proxy.host}/twice:v2"))
    lines = []
    assert push(store, client, parse_reference(f"{proxy.host}/twice:v2"), progress=lines.append).digest == first.digest
    assert {line.status for line in lines if line.id} == {"Preparing", "Layer already exists"}
    assert {request.method for request in proxy.seen[before:]} <= {"GET", "HEAD", "PUT"}
    # another machine with the same import
    with Store(str(tmp_path / "elsewhere")) as elsewhere:
        imported(elsewhere, name, tar)
        lines.clear()
        assert push(elsewhere, client, parse_reference(name), progress=lines.append).digest == first.digest
        assert "Layer already exists" in {line.status for line in lines}
        assert "Pushing" not in {line.status for line in lines}


def test_a_commit_on_an_import(plain, store, client) -> None:
    base = imported(store, "base:1", rootfs())
    name = f"{plain.host}/commit:v1"
    commit_layer(store, [made_layer({"more": b"more"})], base=base, reference=parse_reference(name))
    push(store, client, parse_reference(name))
    _, document = manifest_of(plain, "commit", "v1")
    assert [layer["mediaType"] for layer in document["layers"]] == [OCI_LAYER_GZIP] * 2


def test_what_others_made_goes_out_as_it_is(plain, other, store, client) -> None:
    """A manifest with plain layers of a registry, and one of a layout that says more than ours would."""
    plain_layers = []
    made = small_images.image([{"a": os.urandom(100)}])
    for digest in made.layers:
        data = gzip.decompress(made.blobs[digest])
        plain_layers.append(({"mediaType": OCI_LAYER, "digest": small_images.digest_of(data), "size": len(data)}, data))
    document = json.loads(made.manifest)
    document["layers"] = [entry for entry, _ in plain_layers]
    raw = json.dumps(document, separators=(",", ":")).encode()
    theirs = made._replace(manifest=raw, blobs={entry["digest"]: data for entry, data in plain_layers} | {made.config_digest: made.config})
    push_made(client, f"{plain.host}/theirs", theirs, "v1")
    pull(store, client, parse_reference(f"{plain.host}/theirs:v1"))
    target = parse_reference(f"{other.host}/theirs:v1")
    store.tag(f"{plain.host}/theirs:v1", target)
    push(store, client, target)
    assert manifest_of(other, "theirs", "v1")[0] == raw


def test_a_loaded_archive(plain, store, client, tmp_path) -> None:
    image = imported(store, "saved:1", rootfs())
    out = io.BytesIO()
    save_from_store(store, ["saved:1"], out.write)
    with Store(str(tmp_path / "elsewhere")) as elsewhere:
        load_archive(elsewhere, io.BytesIO(out.getvalue()).read)
        target = parse_reference(f"{plain.host}/loaded:v1")
        elsewhere.tag("saved:1", target)
        pushed = push(elsewhere, client, target)
        # it is still saved as it came, byte for byte
        again = io.BytesIO()
        save_from_store(elsewhere, ["saved:1"], again.write)
        assert again.getvalue() == out.getvalue()
        assert elsewhere.verify() == []
    (loaded,) = load_archive(store, io.BytesIO(again.getvalue()).read)
    assert loaded.image.id == image.id
    assert pushed.digest == small_images.digest_of(manifest_of(plain, "loaded", "v1")[0])


def test_a_layer_that_is_damaged_in_the_store(plain, client, tmp_path) -> None:
    with Store(str(tmp_path / "damaged")) as store:
        name = f"{plain.host}/damaged:v1"
        image = imported(store, name, rootfs())
        path = Path(store.blob_path(image.config.diff_ids[0]))
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
        with pytest.raises(DigestMismatch, match="is damaged in the store"):
            push(store, client, parse_reference(name))
    assert plain.get("/v2/damaged/manifests/v1")[0] == 404


def test_a_cancel_while_compressing(plain, store, client) -> None:
    name, cancel = f"{plain.host}/cancelled:v1", threading.Event()
    imported(store, name, rootfs(20 << 20))
    before = set(os.listdir(f"{store.root}/blobs/sha256"))

    def told(line) -> None:
        if line.status == "Compressing" and not cancel.is_set():
            cancel.set()
            time.sleep(1)  # in the job: it does not end before the others have seen it

    with pytest.raises(Cancelled):
        push(store, client, parse_reference(name), progress=told, cancel=cancel)
    assert os.listdir(f"{store.root}/ingest") == []
    store.prune()
    assert set(os.listdir(f"{store.root}/blobs/sha256")) == before


def test_killed_at_any_instant(plain, proxy, tmp_path) -> None:
    chance, root, name = random.Random(SEED), tmp_path / "store", f"{proxy.host}/killed:v1"
    with Store(str(root)) as store:
        imported(store, name, rootfs(8 << 20))
        before = set(os.listdir(root / "blobs/sha256"))
    proxy.faults.append(Fault("PUT", "/manifests/", times=-1, status=403))  # a push that is not killed ends here
    for number in range(8):
        with begun(PUSH, root, name) as call:
            time.sleep(chance.uniform(0, 0.8))
            call.send_signal(signal.SIGKILL)
            call.wait()
        with Store(str(root), keep_s=0) as store:  # nothing is kept for the next try
            assert store.verify() == [], (SEED, number)
            assert set(os.listdir(root / "blobs/sha256")) == before, (SEED, number)
            assert os.listdir(root / "ingest") == []
    proxy.faults.clear()
    with Store(str(root)) as store:
        push(store, RegistryClient(HostConfig(certs_folders=())), parse_reference(name))
        assert store.verify() == []
    assert manifest_of(plain, "killed", "v1")[1]["layers"][0]["mediaType"] == OCI_LAYER_GZIP


def test_memory_is_flat(plain, tmp_path) -> None:
    names = [f"{plain.host}/memory{number}:v1" for number in range(2)]
    with Store(str(tmp_path / "store")) as store:
        for name, size in zip(names, (1 << 20, 192 << 20)):
            imported(store, name, rootfs(size))
    with begun(PUSH, tmp_path / "store", *names) as call:
        said, _ = call.communicate(timeout=300)
    small, large = (int(word) for word in said.split())
    assert large - small < MOST_KIB, (small, large)
