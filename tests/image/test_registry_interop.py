"""Other programs and ours over one registry: what skopeo and docker push we pull, what we push they pull."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
from pathlib import Path

import pytest

from conformance.callers.stand import Missing, Stand
from pyruntime.image.platform import Platform
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import HostConfig, RegistryClient
from pyruntime.image.store import Store
from tests import small_images
from tests.image.test_pull import upload
from tests.registry_stand import registry

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not small_images.BUSYBOX, reason="needs busybox (Debian: busybox-static)"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
INSECURE = ("--src-tls-verify=false", "--dest-tls-verify=false")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with registry(tmp_path_factory.mktemp("plain")) as made:
        yield made


@pytest.fixture
def client():
    return RegistryClient(HostConfig(certs_folders=()))


@pytest.fixture
def store(tmp_path):
    with Store(str(tmp_path / "store")) as made:
        yield made
        assert made.verify() == []


@pytest.fixture(scope="module")
def busybox():
    return small_images.image([small_images.busybox_layer(), {"etc/hostname": b"box\n", "tmp/.wh.gone": b""}])


@pytest.fixture
def skopeo(tmp_path):
    """`skopeo copy` with policy and folders of its own; gives its output."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("needs skopeo (Debian: skopeo)")
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}

    def call(*words: str) -> str:
        done = subprocess.run([program, "--policy", str(tmp_path / "policy.json"), *words], env=environment, timeout=120,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


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
