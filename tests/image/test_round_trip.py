"""Images of real systems go out and come back: pushed, pulled elsewhere, unpacked, compared file by file, and run.

The merged view is held against umoci's, each layer against GNU tar's. Times of directories, owners, modes with setuid,
xattrs and capabilities, hard links, devices' absence, symlinks and contents are compared exactly.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyruntime.image.apply import register_image
from pyruntime.image.archive import Archived, make_manifest
from pyruntime.image.archive_blobs import StoreBlobs, pieces_of
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.bundle import BundleOptions, bundle_from_archive, bundle_from_store
from pyruntime.image.config import parse_config
from pyruntime.image.importing import config_document, descriptor, dump
from pyruntime.image.media import OCI_CONFIG, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, parse_manifest
from pyruntime.image.platform import host_platform
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.runtime_config import RuntimeOptions
from pyruntime.image.store import Store
from pyruntime.image.unpack import overlay_options
from tests.images import busybox_tar, debian_tar
from tests.limits import ended_after
from tests.registry_stand import registry
from tests.tree_facts import describe, differences

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.filterwarnings("default::ResourceWarning")]
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, struct vfs_cap_data
PACKERS = {"gzip": (["gzip", "-n", "-1"], OCI_LAYER_GZIP), "zstd": (["zstd", "-q", "-1"], OCI_LAYER_ZSTD)}
NODE = ["node", "-e", "const fs=require('fs'); console.log(6*7, fs.readFileSync('/etc/added/file','utf8').trim())"]
POSTGRES = """set -e; bin=$(echo /usr/lib/postgresql/*/bin); $bin/initdb -D /tmp/db >/dev/null; $bin/pg_ctl -D /tmp/db -w -o '-k /tmp' start >/dev/null
psql -h /tmp -Atc 'select 6*7' postgres; $bin/pg_ctl -D /tmp/db -w stop >/dev/null"""
# name -> (the base's tar, options of the run, what it prints)
SYSTEMS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "busybox": (busybox_tar, {"args": ("cat", "/etc/added/file")}, "added"),
    "debian": (debian_tar, {"args": ("sh", "-c", "dpkg -l base-files | tail -1 | cut -c1-2; cat /etc/added/file")}, "ii\nadded"),
    "node": (lambda: debian_tar("nodejs"), {"args": tuple(NODE)}, "42 added"),
    "postgres": (lambda: debian_tar("postgresql"), {"args": ("sh", "-c", POSTGRES), "user": "postgres"}, "42"),
}
CASES = [pytest.param("busybox", "gzip"), pytest.param("busybox", "zstd"), *(
    pytest.param(name, "gzip", marks=pytest.mark.slow) for name in ("debian", "node", "postgres"))]  # fmt: skip


@pytest.fixture(autouse=True)
def limit(request) -> Iterator[None]:
    with ended_after(2400 if request.node.get_closest_marker("slow") else 240):
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


def second_layer(folder: Path) -> bytes:
    """A layer with one of everything, by GNU tar: it hides, replaces and adds."""
    tree = folder / "second"
    for name in ("etc/added", "srv/opaque", "usr/bin", "var/tmp-like", "root"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/added/file").write_text("added\n")
    (tree / "etc/added/hard").hardlink_to(tree / "etc/added/file")
    (tree / "etc/added/link").symlink_to("../../../outside")
    (tree / "etc/.wh.never-there").touch()
    for name in ("srv/.wh.page", "etc/.wh.issue"):  # one is busybox's, one Debian's
        (tree / name).touch()
    (tree / "srv/opaque/.wh..wh..opq").touch()
    (tree / "srv/opaque/seen").write_text("1")
    (tree / "usr/bin/privileged").write_bytes(b"#!/bin/sh\n")
    (tree / "usr/bin/privileged").chmod(0o6755)
    os.chown(tree / "etc/added/file", 1234, 70000)
    os.chown(tree / "etc/added/link", 5, 6, follow_symlinks=False)
    (tree / "var/tmp-like").chmod(0o1777)
    os.mkfifo(tree / "var/fifo", 0o622)
    with (tree / "var/sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    (tree / "var" / ("n" * 200 + "é")).write_text("long")
    (tree / "usr/bin/low").write_bytes(b"#!/bin/sh\n")
    os.setxattr(tree / "usr/bin/low", "security.capability", CAPABILITY)
    os.setxattr(tree / "var/sparse", "user.note", b"\0binary\xff")
    os.setxattr(tree / "root", "trusted.note", b"dir")
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789), follow_symlinks=False)
    os.utime(tree, ns=(0, 1_600_000_000_000_000_000))
    return subprocess.run(["tar", "-C", str(tree), "--format=pax", "--sparse", "--numeric-owner", "--sort=name", "--xattrs", "--xattrs-include=*",
                           "--pax-option=delete=atime,delete=ctime", "-cf", "-", "."], stdout=subprocess.PIPE, check=True).stdout  # fmt: skip


def make_image(store: Store, tars: list[bytes], name: str, pack: str, inner: dict[str, Any]):
    """An image of these layers, compressed by the usual tools."""
    import hashlib

    command, media_type = PACKERS[pack]
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        layers, diff_ids = [], []
        for tar in tars:
            packed = subprocess.run(command, input=tar, stdout=subprocess.PIPE, check=True).stdout
            layers.append(descriptor(media_type, blobs.add(iter((packed,)), len(packed)), len(packed)))
            diff_ids.append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
        raw = dump(config_document(inner, diff_ids, platform=host_platform(), created="2026-01-02T03:04:05Z"))
        manifest = make_manifest(descriptor(OCI_CONFIG, store.put_blob(raw, lease), len(raw)), layers)
        store.put_blob(manifest, lease)
        return register_image(store, lease, Archived(parse_manifest(manifest), parse_config(raw), (parse_reference(name),)))


def gnu_tar(blobs: StoreBlobs, digest: str, folder: Path) -> dict:
    """A layer as GNU tar unpacks it, its whiteouts told as overlayfs tells them."""
    folder.mkdir()
    with subprocess.Popen(["tar", "-C", str(folder), "-xp", "--delay-directory-restore", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", "-"], stdin=subprocess.PIPE) as tar, \
         subprocess.Popen(["sh", "-c", "zstd -dcq || gzip -dc"] if _zstd(blobs, digest) else ["gzip", "-dc"], stdin=subprocess.PIPE, stdout=tar.stdin) as inflate:  # fmt: skip
        tar.stdin.close()
        for piece in pieces_of(blobs, digest):
            inflate.stdin.write(piece)
        inflate.stdin.close()
    assert (tar.returncode, inflate.returncode) == (0, 0)
    return as_overlay(describe(folder))


def _zstd(blobs: StoreBlobs, digest: str) -> bool:
    return next(pieces_of(blobs, digest))[:4] == b"\x28\xb5\x2f\xfd"


def as_overlay(tree: dict) -> dict:
    """`.wh.` names become what our layers have: a device 0:0, or the opaque mark of the directory."""
    found = dict(tree)
    for path in tree:
        folder, _, name = path.rpartition("/")
        if name == ".wh..wh..opq":
            found[folder] = found[folder] | {"xattrs": found[folder]["xattrs"] | {"trusted.overlay.opaque": b"y"}}
            del found[path]
        elif name.startswith(".wh."):
            del found[path]
            found[f"{folder}/{name[4:]}"] = {"whiteout": True}
    return found


def our_layer(path: str) -> dict:
    found = describe(path)
    for name, facts in found.items():
        if facts.get("device") == (0, 0) and stat.S_ISCHR(int(facts["mode"], 8)):
            found[name] = {"whiteout": True}
    return found


def run(program: str, bundle: Path, name: str, state: Path) -> str:
    done = subprocess.run([program, "--root", str(state), "run", "--bundle", str(bundle), name], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=180, check=False)  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout.strip()


@pytest.mark.parametrize(("name", "pack"), CASES)
def test_round_trip(plain, program, own_host, tmp_path, name, pack):
    base, options, printed = SYSTEMS[name]
    for tool in ("skopeo", "umoci", "zstd"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    tars = [base().read_bytes(), second_layer(tmp_path)]
    reference = parse_reference(f"{plain.host}/{name}-{pack}:1")
    client = RegistryClient(HostConfig(certs_folders=()))
    with Store.open(str(tmp_path / "here")) as here:
        image = make_image(here, tars, str(reference), pack, {"Cmd": ["true"]})
        del tars
        assert push(here, client, reference).digest == image.manifest_digests[0]
    with Store.open(str(tmp_path / "there")) as there:
        pulled = pull(there, client, reference)
        assert (pulled.id, pulled.manifest_digests) == (image.id, image.manifest_digests)
        assert there.verify() == []
        compare_layers(there, pulled, tmp_path)
        compare_merged(there, pulled, plain, reference, tmp_path)
        wanted = BundleOptions(RuntimeOptions(args=options["args"]), options.get("user", ""))
        bundle_from_store(there, str(reference), str(tmp_path / "runs"), options=wanted)
    assert run(program, tmp_path / "runs", f"trip-{name}-{pack}", tmp_path / "state") == printed


def compare_layers(store: Store, image, tmp_path: Path) -> None:
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        manifest = json.loads(store.read_blob(image.manifest_digests[0]))
        lower: set[str] = set()
        for number, (chain, layer) in enumerate(zip(image.chain_ids, manifest["layers"])):
            theirs = gnu_tar(blobs, layer["digest"], tmp_path / f"tar{number}")
            hiding = {path for path, facts in theirs.items() if facts == {"whiteout": True}}
            for path in hiding - lower:  # a whiteout that hides nothing is not kept
                del theirs[path]
            assert len(hiding & lower) == number
            lower |= theirs.keys()
            assert differences(our_layer(store.layer(chain).path), theirs) == []


def compare_merged(store: Store, image, plain, reference, tmp_path: Path) -> None:
    """Overlay mount, flat bundle, bundle of a saved archive and umoci: one view."""
    out = tmp_path / "saved.tar"
    with out.open("wb") as file:
        save_from_store(store, [str(reference)], file.write)
    with out.open("rb") as file:
        bundle_from_archive(file.read, str(tmp_path / "ours"))
    ours = describe(tmp_path / "ours/rootfs")
    merged = tmp_path / "merged"
    merged.mkdir()
    layers = [store.layer(chain).path for chain in image.chain_ids][::-1]
    subprocess.run(["mount", "-t", "overlay", "-o", overlay_options(layers), "overlay", str(merged)], check=True)
    try:
        mounted = describe(merged)
    finally:
        subprocess.run(["umount", str(merged)], check=True)
    assert differences(without_overlay_marks(mounted), ours) == []
    layout = f"{tmp_path}/layout:1"
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{layout}"], check=True)
    if image_is_zstd(store, image):
        return  # Debian's umoci knows no zstd
    subprocess.run(["umoci", "unpack", "--image", layout, str(tmp_path / "umoci")], check=True, capture_output=True)
    assert differences(ours, describe(tmp_path / "umoci/rootfs")) == []


def image_is_zstd(store: Store, image) -> bool:
    return b"+zstd" in store.read_blob(image.manifest_digests[0])


def without_overlay_marks(tree: dict) -> dict:
    return {path: facts | {"xattrs": {k: v for k, v in facts["xattrs"].items() if not k.startswith("trusted.overlay.")}} for path, facts in tree.items()}
