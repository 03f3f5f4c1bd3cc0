"""The client when the network and the registry misbehave: a real registry behind a proxy that breaks things."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time

import pytest

from pyruntime.errors import DigestMismatch, RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import Credentials, HostConfig, RegistryClient
from pyruntime.image.registry.credentials import only_for
from pyruntime.image.registry.http import Operation
from tests import small_images
from tests.fault_proxy import Fault, fault_proxy
from tests.registry_stand import PASSWORD, QUICK, USER, Authority, htpasswd, put, registry

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
SIZE = 3 << 20


@pytest.fixture(scope="module")
def content(plain):
    """Content that the registry has in the repository `x`."""
    data = os.urandom(SIZE)
    put(RegistryClient(policy=QUICK), f"{plain.host}/x", data)
    return data


def fetch(client: RegistryClient, proxy, data: bytes, offset: int = 0) -> bytes:
    return b"".join(client.blob(f"{proxy.host}/x", digest_of(data), len(data), offset))


# ---- downloads ----
@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_a_broken_download_goes_on_where_it_broke(proxy, client, content, reset) -> None:
    proxy.faults += [Fault("GET", "/blobs/", cut_at=1_000_000, reset=reset), Fault("GET", "/blobs/", cut_at=500_000, reset=reset),
                     Fault("GET", "/blobs/", cut_at=0)]
    assert fetch(client, proxy, content) == content
    ranges = [request.headers.get("Range") for request in proxy.seen if "/blobs/" in request.path]
    begun = [0 if text is None else int(text[6:-1]) for text in ranges]
    assert begun == sorted(begun)
    assert begun[-1] > 0
    if not reset:  # a reset takes away what was not read yet
        assert begun == [0, 1_000_000, 1_500_000, 1_500_000]


def test_a_part_that_is_there_already_is_not_asked_for(proxy, client, content) -> None:
    assert fetch(client, proxy, content, 2_000_000) == content[2_000_000:]
    assert proxy.seen[-1].headers["Range"] == "bytes=2000000-"
    asked = len(proxy.seen)
    assert fetch(client, proxy, content, SIZE) == b""
    assert len(proxy.seen) == asked


def test_a_server_that_knows_no_ranges_sends_all_again(proxy, client, content) -> None:
    proxy.faults += [Fault("GET", "/blobs/", cut_at=1_000_000), Fault("GET", "/blobs/", no_range=True)]
    assert fetch(client, proxy, content) == content
    assert fetch(client, proxy, content, 5) == content[5:]


def test_a_range_that_begins_elsewhere_is_an_error(proxy, client, content) -> None:
    proxy.faults += [Fault("GET", "/blobs/", headers={"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"})]
    with pytest.raises(RegistryError, match="asked for bytes from 7, answered with 'bytes 0-"):
        fetch(client, proxy, content, 7)


def test_a_download_that_breaks_for_ever(proxy, client, content) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", cut_at=0, times=-1))
    with pytest.raises(RegistryError, match=r"ended after 0 of|connection to .* broke"):
        fetch(client, proxy, content)
    assert proxy.count("GET", "/blobs/") == QUICK.attempts
    # with bytes between the breaks it is no longer for ever
    proxy.faults[:] = [Fault("GET", "/blobs/", cut_at=SIZE // 12, times=-1)]
    assert fetch(client, proxy, content) == content


def test_a_wrong_size_is_found_before_a_byte_is_used(proxy, client, content) -> None:
    for size in (SIZE - 1, SIZE + 1):
        with pytest.raises(DigestMismatch, match=f"has {SIZE} bytes, its descriptor says {size}"):
            list(client.blob(f"{proxy.host}/x", digest_of(content), size))


def test_a_body_without_a_length_is_cut_at_its_size(proxy, client, content) -> None:
    # not the registry's own blob, but one with more behind it, in chunks
    proxy.faults.append(Fault("GET", "/blobs/", status=200, body=content + b"more", headers={"Connection": "close"}, times=-1))
    with pytest.raises(DigestMismatch):
        fetch(client, proxy, content)


def test_wrong_content(proxy, client, content) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", corrupt=12345))
    with pytest.raises(DigestMismatch, match="does not match its digest"):
        client.blob_bytes(f"{proxy.host}/x", digest_of(content), SIZE)


def test_a_redirect_to_another_host_goes_without_credentials(tmp_path, content, image) -> None:
    with (registry(tmp_path, auth=htpasswd(tmp_path)) as closed, registry(tmp_path / "s") as storage,
          fault_proxy(closed.host) as proxy, fault_proxy(storage.host) as other):
        anna = RegistryClient(HostConfig(certs_folders=()), only_for(proxy.host, Credentials(USER, PASSWORD)), policy=QUICK)
        put(RegistryClient(policy=QUICK), f"{other.host}/x", content)
        target = f"http://{other.host}/v2/x/blobs/{digest_of(content)}"
        for status in (302, 307):
            proxy.faults.append(Fault("GET", "/blobs/", status=status, headers={"Location": target}))
            anna.ping(proxy.host)
            assert fetch(anna, proxy, content) == content
        assert any("Authorization" in request.headers for request in proxy.seen)
        assert other.seen
        assert not any("Authorization" in request.headers for request in other.seen)


def test_a_redirect_to_itself_keeps_credentials_and_ends(tmp_path, content) -> None:
    with registry(tmp_path, auth=htpasswd(tmp_path)) as closed, fault_proxy(closed.host) as proxy:
        anna = RegistryClient(HostConfig(certs_folders=()), Credentials(USER, PASSWORD), policy=QUICK)
        put(anna, f"{proxy.host}/x", content)
        proxy.faults.append(Fault("GET", "/blobs/", status=307, headers={"Location": f"/v2/x/blobs/{digest_of(content)}"}))
        assert fetch(anna, proxy, content) == content
        proxy.faults.append(Fault("GET", "/blobs/", status=307, times=-1, headers={"Location": "/v2/x/blobs/round"}))
        with pytest.raises(RegistryError, match="more than 5 redirects"):
            fetch(anna, proxy, content)


def test_no_redirect_from_https_to_http(tmp_path, plain, content) -> None:
    import http.server
    import ssl

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if "blobs" in self.path else 200)
            self.send_header("Location", f"http://{plain.host}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    authority = Authority(tmp_path / "ca")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(tmp_path, "server"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        client = RegistryClient(HostConfig(certs_folders=()), policy=QUICK)
        with pytest.raises(RegistryError, match="redirect from https to http refused"):
            list(client.blob(f"127.0.0.1:{server.server_port}/x", digest_of(content), SIZE))
    finally:
        server.shutdown()
        server.server_close()


def test_a_connection_is_free_as_soon_as_its_answer_is_closed(proxy, client) -> None:
    """Another thread may have it before this one forgets the answer."""
    held = []
    for method in ("GET", "HEAD", "HEAD", "GET"):
        with client.http.send(Operation(), method, f"http://{proxy.host}/v2/", {}) as answer:
            held.append(answer)
    assert [answer.status for answer in held] == [200] * 4
    assert proxy.connections == 1


# ---- answers that are worth another try, and those that are not ----
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_that_passes(proxy, client, content, status) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=status, times=2))
    assert fetch(client, proxy, content) == content


@pytest.mark.parametrize("status", [400, 404, 410, 501])
def test_a_no_is_a_no(proxy, client, content, status) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=status, times=-1))
    with pytest.raises(RegistryError, match=f"answered {status}") as caught:
        fetch(client, proxy, content)
    assert caught.value.http_status == status
    assert proxy.count("GET", "/blobs/") == 1


def test_retry_after_is_honoured(proxy, client, content) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    assert fetch(client, proxy, content) == content
    assert 1 <= time.monotonic() - began < 60


def test_retry_after_beyond_all_patience(proxy, client) -> None:
    proxy.faults.append(Fault("GET", "/manifests/", status=429, headers={"Retry-After": "3600"}, times=-1,
                              body=b'{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}'))
    with pytest.raises(RegistryError, match="toomanyrequests: pull rate limit") as caught:
        client.manifest(parse_reference(f"{proxy.host}/x:v1"))
    assert caught.value.hint == "try again in 3600 s"
    assert proxy.count("GET", "/manifests/") == 1


def test_trouble_that_stays(proxy, client, content) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=503, times=-1))
    with pytest.raises(RegistryError, match="answered 503"):
        fetch(client, proxy, content)
    assert proxy.count("GET", "/blobs/") == QUICK.attempts


# ---- manifests ----
@pytest.fixture(scope="module")
def image(plain):
    """An image that the registry has as `x:v1`."""
    made = small_images.image([{"a": os.urandom(3000)}])
    client = RegistryClient(policy=QUICK)
    for data in made.blobs.values():
        put(client, f"{plain.host}/x", data)
    client.put_manifest(f"{plain.host}/x", "v1", made.manifest, made.media_type)
    return made


def test_a_manifest_that_is_not_what_its_header_says(proxy, client, image) -> None:
    reference = parse_reference(f"{proxy.host}/x:v1")
    proxy.faults.append(Fault("GET", "/manifests/", corrupt=30))
    with pytest.raises(DigestMismatch, match="manifest does not match"):
        client.manifest(reference)
    proxy.faults.append(Fault("GET", "/manifests/", headers={"Docker-Content-Digest": digest_of(b"other")}))
    with pytest.raises(DigestMismatch):
        client.manifest(reference)
    proxy.faults.append(Fault("GET", "/manifests/", headers={"Docker-Content-Digest": ""}))
    assert client.manifest(reference).digest == image.digest


def test_documents_that_break_off_are_asked_for_again(proxy, client, image) -> None:
    reference = parse_reference(f"{proxy.host}/x:v1")
    proxy.faults += [Fault("GET", "/manifests/", cut_at=10, times=2), Fault("GET", "/tags/", cut_at=3, reset=True)]
    assert client.manifest(reference).raw == image.manifest
    assert list(client.tags(f"{proxy.host}/x")) == ["v1"]
    proxy.faults.append(Fault("GET", "/manifests/", cut_at=10, times=-1))
    with pytest.raises(RegistryError, match=r"connection to .* broke"):
        client.manifest(reference)
    assert proxy.count("GET", "/manifests/") == 3 + QUICK.attempts
    # a length that promises more than comes
    proxy.faults[:] = [Fault("GET", "/manifests/", headers={"Content-Length": "9999"}, cut_at=len(image.manifest) - 1)]
    assert client.manifest(reference).raw == image.manifest


def test_warnings_reach_the_user_once(proxy, image) -> None:
    said: list[str] = []
    client = RegistryClient(HostConfig(certs_folders=()), policy=QUICK, warn=said.append)
    proxy.faults.append(Fault("GET", "/manifests/", times=-1, headers={"Warning": '299 - "it will go \\"soon\\""'}))
    for _ in range(2):
        client.manifest(parse_reference(f"{proxy.host}/x:v1"))
    assert said == ['it will go "soon"']


def test_a_manifest_without_an_end(proxy, client, image) -> None:
    proxy.faults.append(Fault("GET", "/manifests/", status=200, body=b" " * (5 << 20)))
    with pytest.raises(Exception, match="larger than 4194304 bytes"):
        client.manifest(parse_reference(f"{proxy.host}/x:v1"))


# ---- mirrors ----
@pytest.mark.parametrize("fault", [
    {"status": 404}, {"status": 500}, {"status": 401}, {"cut_at": 0}, {"cut_at": 700_000}, {"corrupt": -1, "status": 200, "body": b"short"},
], ids=str)
def test_a_mirror_that_fails_is_passed_over(plain, proxy, content, image, fault) -> None:
    client = RegistryClient(HostConfig(mirrors=((plain.host, (f"http://{proxy.host}",)),), certs_folders=()), policy=QUICK)
    proxy.faults.append(Fault("GET", "/v2/.+", times=-1, **fault))
    assert b"".join(client.blob(f"{plain.host}/x", digest_of(content), SIZE)) == content
    assert client.manifest(parse_reference(f"{plain.host}/x:v1")).raw == image.manifest
    assert client.manifest(parse_reference(f"{plain.host}/x@{image.digest}")).raw == image.manifest
    if "body" not in fault:
        assert list(client.tags(f"{plain.host}/x")) == ["v1"]
    assert proxy.seen


# ---- uploads ----
@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
def test_a_broken_upload_goes_on_or_begins_anew(plain, proxy, client, monkeypatch, reset) -> None:
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 2 << 20)
    data = os.urandom(7 << 20)
    proxy.faults += [Fault("PATCH", "/uploads/", cut_at=1_500_000, skip=1, reset=reset), Fault("PATCH", "/uploads/", cut_at=100, skip=1),
                     Fault("PUT", "/uploads/", cut_at=0)]
    put(client, f"{proxy.host}/up", data)
    assert plain.get(f"/v2/up/blobs/{digest_of(data)}") == (200, data)
    assert proxy.faults[0].hits == 1


@pytest.mark.parametrize(("method", "status"), [("POST", 503), ("PATCH", 500), ("PATCH", 429), ("PUT", 502), ("PATCH", 416)])
def test_an_upload_through_trouble(plain, proxy, client, monkeypatch, method, status) -> None:
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 2 << 20)
    data = os.urandom(5 << 20)
    proxy.faults.append(Fault(method, "/uploads/", status=status))
    put(client, f"{proxy.host}/up", data)
    assert plain.get(f"/v2/up/blobs/{digest_of(data)}") == (200, data)


def test_a_registry_that_has_lost_count_after_a_break(plain, proxy, client, monkeypatch) -> None:
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 2 << 20)
    data = os.urandom(5 << 20)
    lost = {"status": 400, "body": b'{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"wrong offset"}]}'}
    proxy.faults += [Fault("PATCH", "/uploads/", status=500), Fault("PATCH", "/uploads/", **lost)]
    put(client, f"{proxy.host}/up", data)
    assert plain.get(f"/v2/up/blobs/{digest_of(data)}") == (200, data)
    # without a break before, it is a refusal
    proxy.faults[:] = [Fault("PATCH", "/uploads/", **lost)]
    with pytest.raises(RegistryError, match="blob upload invalid: wrong offset"):
        put(client, f"{proxy.host}/up", os.urandom(5 << 20))


def test_small_content_through_trouble(plain, proxy, client) -> None:
    data = os.urandom(100_000)
    proxy.faults += [Fault("PUT", "/uploads/", cut_at=50_000, reset=True), Fault("PUT", "/uploads/", status=503)]
    put(client, f"{proxy.host}/up", data)
    assert plain.get(f"/v2/up/blobs/{digest_of(data)}") == (200, data)


def test_content_that_is_damaged_on_its_way(plain, client) -> None:
    data = os.urandom(1000)
    with tempfile.TemporaryFile() as file:
        file.write(data[:-1] + b"?")
        file.flush()
        with pytest.raises(DigestMismatch, match="digest invalid"):
            client.upload_blob(f"{plain.host}/up", f"sha256:{hashlib.sha256(data).hexdigest()}", file.fileno(), 1000)


def test_the_state_of_an_upload_is_used_as_given(proxy, client) -> None:
    put(client, f"{proxy.host}/up", os.urandom(1000))
    begun = [request for request in proxy.seen if request.method == "PUT"]
    assert "_state=" in begun[0].path
    assert "&digest=sha256" in begun[0].path
