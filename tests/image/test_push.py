"""Push to Debian's docker-registry: byte for byte, no more than is missing, from where it already is."""

from __future__ import annotations

import json
import os
import threading

import pytest

from pyruntime.errors import Cancelled, ImageNotFound, InvalidReference, RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.platform import Platform
from pyruntime.image.progress import Progress
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import Credentials, HostConfig, RegistryClient
from pyruntime.image.registry.credentials import only_for
from pyruntime.image.store import Store
from pyruntime.image.transfers import Transfers
from tests import small_images
from tests.fault_proxy import Fault, fault_proxy
from tests.image.test_pull import short
from tests.registry_stand import PASSWORD, QUICK, USER, Authority, htpasswd, registry, upload
from tests.waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]


def local(store: Store, client: RegistryClient, plain, path: str, made: small_images.Made) -> str:
    """Brings an image into the store by pulling it; its name there."""
    upload(plain, path, made, "v1")
    pull(store, client, parse_reference(f"{plain.host}/{path}:v1"))
    return f"{plain.host}/{path}:v1"


def some(count: int = 2, size: int = 50_000) -> small_images.Made:
    return small_images.image([{f"f{i}": os.urandom(size)} for i in range(count)])


def by_hand(found, path: str, target: str) -> tuple[int, bytes]:
    return found.get(f"/v2/{path}/manifests/{target}", Accept=f"{small_images.MANIFEST}, {small_images.INDEX}, {small_images.DOCKER_MANIFEST}")


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
def test_byte_for_byte(plain, other, store, client, docker) -> None:
    made = small_images.image([{"a": os.urandom(9000)}, {"b": os.urandom(9)}], docker=docker)
    name = local(store, client, plain, f"from{int(docker)}", made)
    target = parse_reference(f"{other.host}/to/x:v9")
    store.tag(name, target)
    lines: list[Progress] = []
    pushed = push(store, client, target, progress=lines.append)
    assert (pushed.tag, pushed.digest, pushed.size) == ("v9", made.digest, len(made.manifest))
    assert by_hand(other, "to/x", "v9") == (200, made.manifest)
    for digest, data in made.blobs.items():
        assert other.get(f"/v2/to/x/blobs/{digest}") == (200, data)
    assert lines[0].status == f"The push refers to repository [{other.host}/to/x]"
    assert lines[-1].status == f"v9: digest: {made.digest} size: {len(made.manifest)}"
    for diff_id in made.diff_ids:
        own = list(dict.fromkeys(line.status for line in lines if line.id == short(diff_id)))
        assert own == ["Preparing", "Pushing", "Pushed"]
    assert f"{other.host}/to/x@{made.digest}" in [known.repo_digest for known in store.find(name).repo_digests]
    # a second time nothing is sent
    lines.clear()
    push(store, client, target, progress=lines.append)
    assert {line.status for line in lines if line.id} == {"Preparing", "Layer already exists"}


def test_from_a_repository_of_the_same_registry(plain, store, client) -> None:
    made = some()
    name = local(store, client, plain, "source/x", made)
    with fault_proxy(plain.host):
        store.tag(name, parse_reference(f"{plain.host}/target/x:v1"))
        lines: list[Progress] = []
        push(store, client, parse_reference(f"{plain.host}/target/x:v1"), progress=lines.append)
    assert [line.status for line in lines if line.id and line.status != "Preparing"] == ["Mounted from source/x"] * 2
    assert by_hand(plain, "target/x", "v1") == (200, made.manifest)


def test_an_index_goes_when_all_of_it_is_here(plain, other, store, client) -> None:
    made = {arch: small_images.image([{"arch": arch.encode()}], architecture=arch) for arch in ("amd64", "arm64")}
    for one in made.values():
        upload(plain, "multi", one)
    raw = small_images.index([(one, {"os": "linux", "architecture": arch}) for arch, one in made.items()])
    client.put_manifest(f"{plain.host}/multi", "v1", raw, small_images.INDEX)
    source, target = parse_reference(f"{plain.host}/multi:v1"), parse_reference(f"{other.host}/multi:v1")
    pull(store, client, source, platform=Platform("linux", "arm64"))
    store.tag(str(source), target)
    # one of two: its manifest alone
    assert push(store, client, target).digest == made["arm64"].digest
    assert by_hand(other, "multi", "v1") == (200, made["arm64"].manifest)
    pull(store, client, source, platform=Platform("linux", "amd64"))
    store.tag(str(source), target)
    assert push(store, client, target).digest == digest_of(raw)
    assert by_hand(other, "multi", "v1") == (200, raw)
    for one in made.values():
        assert by_hand(other, "multi", one.digest) == (200, one.manifest)
    # one platform of it
    assert push(store, client, target, platform=Platform("linux", "amd64")).digest == made["amd64"].digest
    with pytest.raises(ImageNotFound, match="is for linux/amd64, not linux/s390x"):
        push(store, client, target, platform=Platform("linux", "s390x"))


def test_layers_that_are_not_for_distribution(plain, other, store, tmp_path) -> None:
    """They come from their https URL without credentials, and are pushed when that is asked for."""
    authority = Authority(tmp_path / "ca")
    with registry(tmp_path / "far", authority=authority) as far:
        folder = tmp_path / "certs.d" / far.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(authority.path.read_bytes())
        client = RegistryClient(HostConfig(certs_folders=(str(tmp_path / "certs.d"),)), policy=QUICK)
        made = some()
        foreign = made.layers[1]
        import tempfile

        with tempfile.TemporaryFile() as file:
            file.write(made.blobs[foreign])
            file.flush()
            client.upload_blob(f"{far.host}/x", foreign, file.fileno(), len(made.blobs[foreign]))
        document = json.loads(made.manifest)
        document["layers"][1] |= {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                                  "urls": ["http://127.0.0.1:1/never", f"https://{far.host}/v2/x/blobs/{foreign}"]}
        raw = json.dumps(document).encode()
        upload(plain, "foreign", made._replace(manifest=raw), "v1")
        client.delete_blob(f"{plain.host}/foreign", foreign)
        source, target = parse_reference(f"{plain.host}/foreign:v1"), parse_reference(f"{other.host}/foreign:v1")
        pull(store, client, source)
        store.tag(str(source), target)
        lines: list[Progress] = []
        push(store, client, target, progress=lines.append)
        assert (short(made.diff_ids[1]), "Skipped foreign layer") in [(line.id, line.status) for line in lines]
        assert foreign not in other.blobs()
        assert by_hand(other, "foreign", "v1") == (200, raw)
        push(store, client, target, foreign=True)
        assert foreign in other.blobs()


def test_five_at_a_time(plain, other, store, client) -> None:
    name = local(store, client, plain, "five", some(9, 1000))
    gate = threading.Event()
    with fault_proxy(other.host) as proxy:
        target = parse_reference(f"{proxy.host}/five:v1")
        store.tag(name, target)
        proxy.faults.append(Fault("POST", "/uploads/", gate=gate, times=-1))
        lines: list[Progress] = []
        thread = threading.Thread(target=lambda: push(store, client, target, progress=lines.append))
        thread.start()
        try:
            until(lambda: proxy.active == 5)
        finally:
            gate.set()
            thread.join()
        assert proxy.most_active == 5
        assert sum(line.status == "Waiting" for line in lines) == 4


def test_through_trouble(plain, other, store, client) -> None:
    made = some(3, 300_000)
    name = local(store, client, plain, "trouble", made)
    with fault_proxy(other.host) as proxy:
        target = parse_reference(f"{proxy.host}/trouble:v1")
        store.tag(name, target)
        proxy.faults += [Fault("PUT", "/uploads/", cut_at=100_000, reset=True, times=2), Fault("POST", "/uploads/", status=503),
                         Fault("PUT", "/manifests/", status=500), Fault("HEAD", "/blobs/", status=429, headers={"Retry-After": "1"})]
        push(store, client, target)
    assert by_hand(other, "trouble", "v1") == (200, made.manifest)


def test_a_cancelled_push(plain, other, store, client) -> None:
    name = local(store, client, plain, "cancelled", some(3, 100_000))
    gate, cancel = threading.Event(), threading.Event()
    with fault_proxy(other.host) as proxy:
        target = parse_reference(f"{proxy.host}/cancelled:v1")
        store.tag(name, target)
        proxy.faults.append(Fault("PUT", "/uploads/", gate=gate, times=-1))
        def give_up() -> None:
            until(lambda: proxy.count("PUT", "/uploads/"))
            cancel.set()

        thread = threading.Thread(target=give_up)
        thread.start()
        with pytest.raises(Cancelled):
            push(store, client, target, cancel=cancel)
        thread.join()
        gate.set()
    assert by_hand(other, "cancelled", "v1")[0] == 404


def test_who_may_not(plain, tmp_path, store, client) -> None:
    name = local(store, client, plain, "secret", some())
    with registry(tmp_path / "closed", auth=htpasswd(tmp_path / "closed")) as closed:
        target = parse_reference(f"{closed.host}/x:v1")
        store.tag(name, target)
        with pytest.raises(RegistryError, match="unauthorized") as caught:
            push(store, client, target)
        assert caught.value.unauthorized
        anna = RegistryClient(HostConfig(certs_folders=()), only_for(closed.host, Credentials(USER, PASSWORD)), policy=QUICK)
        Transfers().push(store, anna, target)


def test_what_cannot_be_pushed(plain, store, client) -> None:
    with pytest.raises(ImageNotFound, match="An image does not exist locally with the tag: nobody/has"):
        push(store, client, parse_reference("nobody/has:this"))
    with pytest.raises(InvalidReference, match="cannot push a digest reference"):
        push(store, client, parse_reference(f"x@{digest_of(b'x')}"))
