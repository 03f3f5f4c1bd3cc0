"""The client against Debian's docker-registry: every way of authentication, every row of the protocol."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pyruntime.errors import DigestMismatch, RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import Reference, parse_reference
from pyruntime.image.registry import Credentials, HostConfig, RegistryClient, referrers
from pyruntime.image.registry.credentials import only_for
from tests import small_images
from tests.registry_stand import (
    PASSWORD,
    QUICK,
    USER,
    Authority,
    Registry,
    htpasswd,
    push_made,
    put,
    registry,
    token_server,
)
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
ANNA = Credentials(USER, PASSWORD)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    with token_server(folder) as server, registry(folder / "registry", auth=server.auth) as made:
        yield server, made


def client_of(found: Registry, credentials: Any = None, **more: Any) -> RegistryClient:
    return RegistryClient(HostConfig(certs_folders=()), credentials, policy=QUICK, **more)


@pytest.fixture
def image():
    return small_images.image([{"a": os.urandom(3000)}, {"b/": b"", "b/c": b"text"}])


# ---- rows of the protocol ----
def test_what_is_pushed_comes_back_byte_for_byte(plain, image) -> None:
    client, name = client_of(plain), f"{plain.host}/team/thing"
    push_made(client, name, image, "v1")
    fetched = client.manifest(parse_reference(f"{name}:v1"))
    assert (fetched.raw, fetched.content_type, fetched.digest) == (image.manifest, image.media_type, image.digest)
    head = client.manifest(parse_reference(f"{name}:v1"), head=True)
    assert (head.raw, head.digest, head.size) == (b"", image.digest, len(image.manifest))
    for digest, data in image.blobs.items():
        assert client.blob_bytes(name, digest, len(data)) == data
        assert b"".join(client.blob(name, digest, len(data), 7)) == data[7:]
        assert client.has_blob(name, digest)
        # by another hand
        assert plain.get(f"/v2/team/thing/blobs/{digest}") == (200, data)
    assert not client.has_blob(name, digest_of(b"nobody has this"))
    assert client.has_manifest(name, "v1")
    assert not client.has_manifest(name, "v2")


def test_large_content_goes_in_pieces(plain, monkeypatch) -> None:
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 3 << 20)
    client, data = client_of(plain), os.urandom(10 << 20)
    said: list[int] = []
    assert put(client, f"{plain.host}/large", data, sent=said.append) == ""
    assert plain.get(f"/v2/large/blobs/{digest_of(data)}") == (200, data)
    assert said == sorted(said)
    assert said[-1] == len(data)


def test_mount_from_a_repository_that_has_it(plain) -> None:
    client, data = client_of(plain), os.urandom(5000)
    put(client, f"{plain.host}/here", data)
    sources = (f"{plain.host}/nowhere", f"{plain.host}/here")
    assert put(client, f"{plain.host}/there", data, sources=sources) == f"{plain.host}/here"
    assert client.has_blob(f"{plain.host}/there", digest_of(data))
    # nobody has it: the upload that the registry began in place of the mount is gone on with
    other = os.urandom(5000)
    assert put(client, f"{plain.host}/there", other, sources=(f"{plain.host}/nowhere",)) == ""
    assert client.blob_bytes(f"{plain.host}/there", digest_of(other), 5000) == other


def test_lists_in_one_page_and_in_several(plain, image) -> None:
    client, name = client_of(plain), f"{plain.host}/tags"
    push_made(client, name, image, "t0")
    for number in range(1, 9):
        client.put_manifest(name, f"t{number}", image.manifest, image.media_type)
        put(client, f"{plain.host}/r{number}", b"x")
    assert sorted(client.tags(name)) == [f"t{number}" for number in range(9)]
    # this registry gives tags in one page, but its catalogue in several
    found = [page["repositories"] for _, page in referrers.pages(client, name, "/v2/_catalog?n=2")]
    assert len(found) >= 4
    assert {f"r{number}" for number in range(1, 9)} <= {name for page in found for name in page}


def test_referrers_by_the_fallback_tag(plain, image) -> None:
    client, name = client_of(plain), f"{plain.host}/signed"
    push_made(client, name, image, "v1")
    assert client.referrers(name, image.digest) == ()
    empty = b"{}"
    put(client, name, empty)
    blob = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(empty), "size": 2}
    subject = {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)}
    made = []
    for kind in ("application/vnd.x.signature", "application/vnd.x.sbom"):
        raw = json.dumps({"schemaVersion": 2, "mediaType": small_images.MANIFEST, "artifactType": kind, "config": blob,
                          "layers": [blob], "subject": subject, "annotations": {"who": kind}}).encode()
        for _ in range(2):  # twice is once
            client.put_manifest(name, digest_of(raw), raw, small_images.MANIFEST)
        made.append(digest_of(raw))
    found = client.referrers(name, image.digest)
    assert [entry.digest for entry in found] == made
    assert found[0].annotations == {"who": "application/vnd.x.signature"}
    assert [entry.digest for entry in client.referrers(name, image.digest, "application/vnd.x.sbom")] == made[1:]


def test_delete(plain, image, tmp_path) -> None:
    client, name = client_of(plain), f"{plain.host}/deleted"
    push_made(client, name, image, "v1")
    client.delete_manifest(name, image.digest)
    with pytest.raises(RegistryError, match="manifest unknown"):
        client.manifest(parse_reference(f"{name}:v1"))
    client.delete_blob(name, image.layers[0])
    assert not client.has_blob(name, image.layers[0])


def test_what_is_missing_is_said(plain) -> None:
    client = client_of(plain)
    with pytest.raises(RegistryError, match=r"manifest for 127.*/no:where not found: manifest unknown") as caught:
        client.manifest(parse_reference(f"{plain.host}/no:where"))
    assert (caught.value.http_status, caught.value.code) == (404, "MANIFEST_UNKNOWN")
    with pytest.raises(RegistryError, match="blob unknown"):
        client.blob_bytes(f"{plain.host}/no", digest_of(b"x"), 1)


def test_a_digest_is_checked(plain, image) -> None:
    client, name = client_of(plain), f"{plain.host}/checked"
    push_made(client, name, image, "v1")
    by_digest = Reference(plain.host, "checked", "", image.digest)
    assert client.manifest(by_digest).digest == image.digest
    layer = image.layers[0]
    with pytest.raises(DigestMismatch, match=f"descriptor says {len(image.blobs[layer]) - 1}"):
        client.blob_bytes(name, layer, len(image.blobs[layer]) - 1)


def test_nobody_listens() -> None:
    client = RegistryClient(policy=QUICK)
    with pytest.raises(RegistryError, match=r"cannot connect to 127\.0\.0\.1:1: .*refused"):
        client.ping("127.0.0.1:1")


# ---- TLS ----
def test_tls_with_an_authority_of_its_own(tmp_path, image) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger", "stranger")
    with registry(tmp_path / "tls", authority=authority) as made:
        folder = tmp_path / "certs.d" / made.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(authority.path.read_bytes())
        client = RegistryClient(HostConfig(certs_folders=(str(tmp_path / "certs.d"),)), policy=QUICK)
        push_made(client, f"{made.host}/x", image, "v1")
        assert client.manifest(parse_reference(f"{made.host}/x:v1")).raw == image.manifest
        # without its folder a loopback host is lax
        RegistryClient(HostConfig(certs_folders=()), policy=QUICK).ping(made.host)
        # with another's certificate there it is not
        (folder / "ca.crt").write_bytes(stranger.path.read_bytes())
        strict = RegistryClient(HostConfig(certs_folders=(str(tmp_path / "certs.d"),)), policy=QUICK)
        with pytest.raises(RegistryError, match=f"the certificate of {made.host} cannot be verified"):
            strict.ping(made.host)
        (folder / "client.cert").write_text("x")
        with pytest.raises(Exception, match=r"missing key client\.key"):
            strict.ping(made.host)


def test_a_registry_that_wants_a_client_certificate(tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    with registry(tmp_path / "tls", authority=authority) as made:
        config = json.loads((made.folder / "config.yml").read_text())
        config["http"]["tls"]["clientcas"] = [str(authority.path)]
        made.stop()
        (made.folder / "config.yml").write_text(json.dumps(config))
        made.start()
        folder = tmp_path / "certs.d" / made.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(authority.path.read_bytes())
        hosts = HostConfig(certs_folders=(str(tmp_path / "certs.d"),))
        with pytest.raises(RegistryError):
            RegistryClient(hosts, policy=QUICK).ping(made.host)
        authority.issue(folder, "client")
        RegistryClient(hosts, policy=QUICK).ping(made.host)


# ---- authentication ----
def test_basic(tmp_path, image) -> None:
    with registry(tmp_path, auth=htpasswd(tmp_path)) as made:
        push_made(client_of(made, ANNA), f"{made.host}/x", image, "v1")
        assert client_of(made, only_for(made.host, ANNA)).manifest(parse_reference(f"{made.host}/x:v1")).raw == image.manifest
        for wrong in (None, Credentials(USER, "wrong"), only_for("elsewhere:5000", ANNA)):
            with pytest.raises(RegistryError, match=r"pull access denied for .*/x, repository does not exist or may require "
                                                    "authorization: unauthorized: authentication required") as caught:
                client_of(made, wrong).manifest(parse_reference(f"{made.host}/x:v1"))
            assert caught.value.unauthorized
            assert PASSWORD not in repr(caught.value.details())
        assert client_of(made, ANNA).login(made.host) == ""
        with pytest.raises(RegistryError, match="unauthorized"):
            client_of(made, Credentials(USER, "wrong")).login(made.host)


def test_tokens_by_name_and_password(tokens, image) -> None:
    server, made = tokens
    client = client_of(made, ANNA)
    server.asked.clear()
    push_made(client, f"{made.host}/closed/x", image, "v1")
    # one token for all of it, asked once with the account's name
    assert [(method, query["scope"], user) for method, query, user in server.asked] == [
        ("GET", ["repository:closed/x:pull,push"], USER)]
    assert server.asked[0][1]["service"] == ["the stand"]
    assert client.manifest(parse_reference(f"{made.host}/closed/x:v1")).raw == image.manifest


def test_tokens_for_nobody(tokens, image) -> None:
    _, made = tokens
    push_made(client_of(made, ANNA), f"{made.host}/open/x", image, "v1")
    push_made(client_of(made, ANNA), f"{made.host}/closed/y", image, "v1")
    assert client_of(made).manifest(parse_reference(f"{made.host}/open/x:v1")).raw == image.manifest
    with pytest.raises(RegistryError, match="repository does not exist or may require authorization") as caught:
        client_of(made).manifest(parse_reference(f"{made.host}/closed/y:v1"))
    assert caught.value.unauthorized
    with pytest.raises(RegistryError, match="unauthorized") as caught:
        put(client_of(made), f"{made.host}/open/x", b"data")
    with pytest.raises(RegistryError, match="incorrect username or password") as caught:
        client_of(made, Credentials(USER, "wrong")).manifest(parse_reference(f"{made.host}/open/x:v1"))
    assert "wrong" not in str(caught.value)


def test_an_identity_token(tokens, image) -> None:
    server, made = tokens
    identity = client_of(made, ANNA).login(made.host)
    assert identity in server.identities
    server.asked.clear()
    push_made(client_of(made, Credentials(identity_token=identity)), f"{made.host}/closed/z", image, "v1")
    (method, form, _), = server.asked
    assert method == "POST"
    assert form["refresh_token"] == [identity]
    assert form["access_type"] == ["offline"]
    with pytest.raises(RegistryError, match="unknown identity token"):
        client_of(made, Credentials(identity_token="made up")).ping(made.host)
    with pytest.raises(RegistryError, match="incorrect username or password"):
        client_of(made, Credentials(USER, "wrong")).login(made.host)


def test_a_registry_token_is_sent_as_it_is(tokens, image) -> None:
    server, made = tokens
    push_made(client_of(made, ANNA), f"{made.host}/closed/r", image, "v1")
    token = server.sign([{"type": "repository", "name": "closed/r", "actions": ["pull"]}], USER)
    server.asked.clear()
    client = client_of(made, Credentials(registry_token=token))
    assert client.manifest(parse_reference(f"{made.host}/closed/r:v1")).raw == image.manifest
    assert server.asked == []


def test_a_token_that_ends_early_is_asked_for_anew(tokens, image, monkeypatch) -> None:
    server, made = tokens
    client = client_of(made, ANNA)
    # the signature ends at once (registries allow a minute), what is said of it does not
    monkeypatch.setattr(server, "lasts_s", -120)
    server.asked.clear()
    with pytest.raises(RegistryError):
        client.manifest(parse_reference(f"{made.host}/closed/q:v1"))
    assert len(server.asked) == 2  # once anew, not for ever
    monkeypatch.setattr(server, "lasts_s", None)
    push_made(client, f"{made.host}/closed/q", image, "v1")


def test_a_token_that_has_expired_is_fetched_anew(tokens, image, monkeypatch) -> None:
    server, made = tokens
    client = client_of(made, ANNA)
    push_made(client, f"{made.host}/closed/s", image, "v1")
    monkeypatch.setattr(server, "expires_s", 200)
    monkeypatch.setattr(server, "lasts_s", 300)
    pull = client_of(made, ANNA)
    server.asked.clear()
    reference = parse_reference(f"{made.host}/closed/s:v1")
    pull.manifest(reference)
    pull.manifest(reference)
    assert len(server.asked) == 1
    now = time.monotonic
    monkeypatch.setattr("time.monotonic", lambda: now() + 200)
    pull.manifest(reference)
    assert len(server.asked) == 2


def test_a_mount_asks_for_both_repositories(tokens) -> None:
    server, made = tokens
    client, data = client_of(made, ANNA), os.urandom(100)
    put(client, f"{made.host}/closed/from", data)
    server.asked.clear()
    assert put(client, f"{made.host}/closed/to", data, sources=(f"{made.host}/closed/from",)) == f"{made.host}/closed/from"
    assert ["repository:closed/to:pull,push", "repository:closed/from:pull"] in [query["scope"] for _, query, _ in server.asked]


def test_a_token_server_in_trouble_is_asked_again(tokens, image) -> None:
    server, made = tokens
    push_made(client_of(made, ANNA), f"{made.host}/open/t", image, "v1")
    server.failures += [(503, {}), (429, {"Retry-After": "1"})]
    began = time.monotonic()
    client_of(made).manifest(parse_reference(f"{made.host}/open/t:v1"))
    assert time.monotonic() - began >= 1
    assert server.failures == []


def test_many_threads_ask_for_one_token(tokens, image) -> None:
    server, made = tokens
    push_made(client_of(made, ANNA), f"{made.host}/open/m", image, "v1")
    client = client_of(made)
    server.asked.clear()
    failed: list[Exception] = []

    def ask() -> None:
        try:
            client.manifest(parse_reference(f"{made.host}/open/m:v1"))
        except Exception as error:  # noqa: BLE001 # of a thread, raised below
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(server.asked) <= 2  # all of them may have been refused before the first token came


# ---- a mirror ----
def test_a_mirror_in_front(plain, tmp_path, image) -> None:
    client, name = client_of(plain), f"{plain.host}/mirrored"
    push_made(client, name, image, "v1")
    with registry(tmp_path / "mirror", remote=f"http://{plain.host}") as mirror:
        hosts = HostConfig(mirrors=((plain.host, (f"http://{mirror.host}",)),), certs_folders=())
        through = RegistryClient(hosts, policy=QUICK)
        assert through.manifest(parse_reference(f"{name}:v1")).raw == image.manifest
        for digest, data in image.blobs.items():
            assert through.blob_bytes(name, digest, len(data)) == data
        until(lambda: set(image.blobs) <= mirror.blobs())  # it stores what it hands on in its own time
        # a push goes to the origin
        put(through, name, b"pushed")
        assert digest_of(b"pushed") not in mirror.blobs()
        mirror.stop()
        assert through.manifest(parse_reference(f"{name}:v1")).raw == image.manifest


def test_a_password_of_the_origin_is_not_the_mirrors(tmp_path, image) -> None:
    with registry(tmp_path / "origin") as origin, registry(tmp_path / "m", auth=htpasswd(tmp_path / "m")) as mirror:
        push_made(client_of(origin), f"{origin.host}/x", image, "v1")
        asked: list[str] = []

        def lookup(host: str) -> Credentials:
            asked.append(host)
            return ANNA if host == origin.host else Credentials()

        client = RegistryClient(HostConfig(mirrors=((origin.host, (f"http://{mirror.host}",)),), certs_folders=()), lookup,
                                policy=QUICK)
        assert client.manifest(parse_reference(f"{origin.host}/x:v1")).raw == image.manifest
        assert asked == [mirror.host, origin.host]


def test_the_log_of_a_failed_login_holds_no_secret(tmp_path) -> None:
    with registry(tmp_path, auth=htpasswd(tmp_path)) as made:
        with pytest.raises(RegistryError) as caught:
            client_of(made, Credentials(USER, "wr0ng-secret")).login(made.host)
        said = f"{caught.value!r} {caught.value.details()} {client_of(made, ANNA).credentials!r}"
        assert "wr0ng-secret" not in said
        assert PASSWORD not in said
        assert Path(made.folder / "log").exists()
