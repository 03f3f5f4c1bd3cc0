"""Other programs and ours over one registry: what skopeo and docker push we pull, what we push they pull."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import uuid
from pathlib import Path

import pytest

from conformance.callers.stand import Missing, Stand
from pyruntime.image.archive_load import load_archive
from pyruntime.image.importing import import_rootfs
from pyruntime.image.platform import Platform
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Store
from tests import small_images
from tests.registry_stand import upload

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not small_images.BUSYBOX, reason="needs busybox (Debian: busybox-static)"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
INSECURE = ("--src-tls-verify=false", "--dest-tls-verify=false")


@pytest.fixture(scope="module")
def busybox():
    return small_images.image([small_images.busybox_layer(), {"etc/hostname": b"box\n", "tmp/.wh.gone": b""}])


def tree_of(store: Store, reference: str) -> dict[str, str]:
    """Every file of the uppermost layers that has it, by its digest: what a container would see, whiteouts aside."""
    found: dict[str, str] = {}
    for chain in store.find(reference).chain_ids:
        top = Path(store.layer(chain).path)
        for path in sorted(top.rglob("*")):
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(top))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def layout_blobs(folder: Path) -> dict[str, bytes]:
    return {f"sha256:{path.name}": path.read_bytes() for path in (folder / "blobs/sha256").iterdir()}


# ---- skopeo ----
def test_skopeo_reads_what_we_push(plain, store, client, busybox, skopeo, tmp_path) -> None:
    upload(plain, "for/skopeo", busybox, "v1")
    pull(store, client, parse_reference(f"{plain.host}/for/skopeo:v1"))
    target = parse_reference(f"{plain.host}/by/us:v2")
    store.tag(f"{plain.host}/for/skopeo:v1", target)
    push(store, client, target)
    skopeo("copy", *INSECURE[:1], f"docker://{plain.host}/by/us:v2", f"oci:{tmp_path}/layout:v2")
    blobs = layout_blobs(tmp_path / "layout")
    assert blobs[busybox.digest] == busybox.manifest
    assert {digest: blobs[digest] for digest in busybox.blobs} == busybox.blobs
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{plain.host}/by/us:v2"))
    assert seen["Digest"] == busybox.digest
    assert seen["Layers"] == list(busybox.layers)


def test_an_import_that_we_push(plain, store, client, skopeo, tmp_path) -> None:
    """Its layer is compressed on its way; skopeo checks digest and DiffID and finds the tar that came in."""
    name = f"{plain.host}/by/import:v1"
    raw = gzip.decompress(small_images.layer(small_images.busybox_layer())[0])
    image = import_rootfs(store, io.BytesIO(raw).read, reference=parse_reference(name))
    pushed = push(store, client, parse_reference(name))
    seen = skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{name}")
    assert small_images.digest_of(seen.encode()) == pushed.digest
    assert [layer["mediaType"] for layer in json.loads(seen)["layers"]] == [small_images.LAYER]
    skopeo("copy", *INSECURE[:1], f"docker://{name}", f"docker-archive:{tmp_path}/theirs.tar:x:1")
    with (tmp_path / "theirs.tar").open("rb") as file:
        (loaded,) = load_archive(store, file.read)
    assert loaded.image.id == image.id
    assert store.read_blob(image.config.diff_ids[0]) == raw
    # what skopeo archived is another one's form of the same: pushed again, the registry has all of it
    store.tag(name, parse_reference(f"{plain.host}/by/import:v2"))
    assert push(store, client, parse_reference(f"{plain.host}/by/import:v2")).digest == pushed.digest


def plain_layout(folder: Path, made: small_images.Made) -> None:
    """An OCI layout of the image with its layers as they are without compression, tagged v1."""
    layers = [gzip.decompress(made.blobs[digest]) for digest in made.layers]
    manifest = json.dumps({"schemaVersion": 2, "mediaType": small_images.MANIFEST,
                           "config": {"mediaType": small_images.CONFIG, "digest": made.config_digest, "size": len(made.config)},
                           "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": small_images.digest_of(data),
                                       "size": len(data)} for data in layers]}).encode()
    (folder / "blobs/sha256").mkdir(parents=True)
    for data in (*layers, made.config, manifest):
        (folder / "blobs/sha256" / small_images.digest_of(data)[7:]).write_bytes(data)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": small_images.MANIFEST, "digest": small_images.digest_of(manifest), "size": len(manifest),
         "annotations": {"org.opencontainers.image.ref.name": "v1"}}]}))


@pytest.mark.parametrize(("words", "kind"), [
    (["--format", "v2s2"], small_images.DOCKER_LAYER),
    (["--format", "oci"], small_images.LAYER),
    (["--format", "oci", "--dest-compress-format", "zstd"], "application/vnd.oci.image.layer.v1.tar+zstd"),
], ids=["v2s2", "oci", "zstd"])  # fmt: skip
def test_we_read_what_skopeo_pushes(plain, store, client, skopeo, tmp_path, words, kind) -> None:
    # skopeo remembers which compressed blob a layer has in a registry: each form has layers of its own
    made = small_images.image([{**small_images.busybox_layer(), "own": os.urandom(8)}, {"own": os.urandom(8)}])
    plain_layout(tmp_path / "layout", made)
    name = f"{plain.host}/by/skopeo:{uuid.uuid4().hex[:8]}"
    skopeo("copy", "--dest-tls-verify=false", *words, f"oci:{tmp_path}/layout:v1", f"docker://{name}")
    image = pull(store, client, parse_reference(name))
    assert image.config.diff_ids == made.diff_ids
    assert tree_of(store, name)["bin/busybox"] == hashlib.sha256(Path(small_images.BUSYBOX).read_bytes()).hexdigest()
    assert {layer["mediaType"] for layer in json.loads(store.read_blob(image.manifest_digests[0]))["layers"]} == {kind}


def test_an_index_through_skopeo(plain, store, client, skopeo) -> None:
    made = {arch: small_images.image([{"arch": arch.encode()}], architecture=arch) for arch in ("amd64", "arm64")}
    for one in made.values():
        upload(plain, "multi", one)
    raw = small_images.index([(one, {"os": "linux", "architecture": arch}) for arch, one in made.items()])
    client.put_manifest(f"{plain.host}/multi", "v1", raw, small_images.INDEX)
    skopeo("copy", *INSECURE, "--all", f"docker://{plain.host}/multi:v1", f"docker://{plain.host}/copied:v1")
    name = parse_reference(f"{plain.host}/copied:v1")
    for arch, one in made.items():
        assert pull(store, client, name, platform=Platform("linux", arch)).id == one.config_digest
    target = parse_reference(f"{plain.host}/back:v1")
    store.tag(str(name), target)
    push(store, client, target)
    assert skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{plain.host}/back:v1").encode() == raw


# ---- docker ----
class Docker:
    """A dockerd in a room of its own that shares the network, where the registry is."""

    def __init__(self) -> None:
        self.stand = Stand(f"pyregistry{uuid.uuid4().hex[:8]}", share_net=True)
        settings = {"data-root": "/run/varlib/docker", "iptables": False, "ip6tables": False, "bridge": "none", "ip-forward": False,
                    "ip-masq": False, "storage-driver": "vfs", "exec-opts": ["native.cgroupdriver=cgroupfs"]}
        self.stand.write("/etc/docker/daemon.json", json.dumps(settings))
        self.daemon = self.stand.daemon("dockerd", "-H", "unix:///run/docker.sock")
        self.daemon.wait_ready(lambda: self.stand.run("docker", "-H", "unix:///run/docker.sock", "version").code == 0, "dockerd answers")

    def __call__(self, *words: object, **more: object) -> str:
        ended = self.stand.run("docker", "-H", "unix:///run/docker.sock", *words, **more)
        assert ended.code == 0, (words, ended, self.daemon.tail())
        return ended.out.strip()


@pytest.fixture(scope="module")
def docker():
    if shutil.which("dockerd") is None:
        pytest.skip("needs dockerd (Debian: docker.io)")
    try:
        made = Docker()
    except Missing as missing:
        pytest.skip(f"needs {missing}")
    with contextlib.ExitStack() as stack:
        stack.callback(made.stand.end)
        yield made


def test_docker_pulls_what_we_push(plain, store, client, busybox, docker) -> None:
    upload(plain, "for/docker", busybox, "v1")
    pull(store, client, parse_reference(f"{plain.host}/for/docker:v1"))
    target = parse_reference(f"{plain.host}/to/docker:v1")
    store.tag(f"{plain.host}/for/docker:v1", target)
    push(store, client, target)
    said = docker("pull", str(target))
    assert f"Digest: {busybox.digest}" in said
    assert docker("image", "inspect", "-f", "{{.Id}}", str(target)) == busybox.config_digest
    assert json.loads(docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", str(target))) == list(busybox.diff_ids)


def test_docker_pulls_an_archive_of_its_own_that_we_push(plain, store, client, docker) -> None:
    """`docker save` writes plain layers; after our push docker has its image again, under the ID it gave it."""
    raw = gzip.decompress(small_images.layer(small_images.busybox_layer())[0])
    docker("import", "-c", "CMD [\"/bin/busybox\"]", "-", "made:1", stdin=raw)
    own = docker("image", "inspect", "-f", "{{.Id}}", "made:1")
    docker("save", "-o", "/run/made.tar", "made:1")
    with docker.stand.path("/run/made.tar").open("rb") as file:
        load_archive(store, file.read)
    docker("rmi", "made:1")
    target = parse_reference(f"{plain.host}/archived:v1")
    store.tag("made:1", target)
    pushed = push(store, client, target)
    assert f"Digest: {pushed.digest}" in docker("pull", str(target))
    assert docker("image", "inspect", "-f", "{{.Id}}", str(target)) == own
    _, manifest = plain.get("/v2/archived/manifests/v1", Accept=small_images.MANIFEST)
    assert [layer["mediaType"] for layer in json.loads(manifest)["layers"]] == [small_images.LAYER]


def test_we_pull_what_docker_pushes(plain, store, client, docker) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {"bin/busybox": Path(small_images.BUSYBOX).read_bytes(), "etc/motd": b"from docker\n"}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    name = f"{plain.host}/by/docker:v1"
    docker("import", "-c", "CMD [\"/bin/busybox\"]", "-", name, stdin=buffer.getvalue())
    docker("push", name)
    image = pull(store, client, parse_reference(name))
    assert image.id == docker("image", "inspect", "-f", "{{.Id}}", name)
    assert image.config.config["Cmd"] == ["/bin/busybox"]
    assert Path(store.layer(image.chain_ids[0]).path, "etc/motd").read_bytes() == b"from docker\n"
    # and back again: docker finds that it has all of it
    other = parse_reference(f"{plain.host}/and/back:v1")
    store.tag(name, other)
    push(store, client, other)
    assert docker("pull", "-q", str(other))
    assert docker("image", "inspect", "-f", "{{.Id}}", str(other)) == image.id
