"""What the API says word by word, by raw HTTP: headers, empty bodies, null, filters, events with labels, refusals."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import tarfile
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import pytest

from tests import small_images
from tests.engine.registries import publish, small
from tests.engine.stand import Daemon
from tests.fault_proxy import Fault, fault_proxy

pytestmark = pytest.mark.system
JSON = {"Content-Type": "application/json"}
ARM = json.dumps({"os": "linux", "architecture": "arm64"})


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


@pytest.fixture
def ask(engine: Daemon):
    """`ask(method, path, body, headers)`: (status, headers in lower case, body)."""

    def made(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = Unix(str(engine.socket))
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    return made


def rootfs() -> bytes:
    """A root file system of one file, as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    return buffer.getvalue()


def make(ask, name: str, *changes: str) -> str:
    """An image under a name; its ID."""
    status, _, body = ask("POST", f"/images/create?fromSrc=-&repo={name}" + "".join(f"&changes={quote(text)}" for text in changes), rootfs())
    assert status == 200
    return json.loads(body)["status"]


def test_headers_and_empty_bodies(ask):
    make(ask, "wire/empty:1")
    status, headers, body = ask("POST", "/images/wire/empty:1/tag?repo=wire/empty&tag=2")
    assert (status, body, headers["content-length"]) == (201, b"", "0")
    assert "content-type" not in headers  # a client that reads JSON where it says JSON finds none here
    assert abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time()) < 60
    status, headers, body = ask("HEAD", "/_ping")
    assert (status, headers["content-type"], body) == (200, "text/plain; charset=utf-8", b"")


@pytest.mark.parametrize(("path", "status"), [
    ("/images/json?filters=null", 200), ("/images/json?filters=[]", 400), ("/images/json?filters=x", 400),
    ("/containers/json?filters=" + quote('{"nope":["x"]}'), 400), ("/containers/json?filters=" + quote('{"name":["x"]}'), 200),
    ("/volumes?filters=" + quote('{"nope":{"x":true}}'), 400), ("/volumes?filters=" + quote('{"dangling":["1"]}'), 200),
    ("/events?since=20&until=10", 400), ("/images/search?term=x&filters=" + quote('{"stars":["x"]}'), 400),
])
def test_filters(ask, path, status):
    found = ask("GET", path)
    assert found[0] == status
    assert (list(json.loads(found[2])) == ["message"]) is (status == 400)


def test_the_filter_of_old_clients(ask):
    make(ask, "wire/old:1")
    for version, found in (("/v1.24", True), ("/v1.40", True), ("/v1.41", False)):
        rows = json.loads(ask("GET", f"{version}/images/json?filter=wire/old")[2])
        assert ["wire/old:1"] in [row["RepoTags"] for row in rows]
        assert (json.loads(ask("GET", f"{version}/images/json?filter=wire/none")[2]) == []) is found


def test_events_carry_the_labels_of_their_image(ask):
    began = time.time()
    image = make(ask, "wire/labels:1", "LABEL a=b name=mine")
    ask("POST", "/images/wire/labels:1/tag?repo=wire/labels&tag=2")
    ask("GET", "/images/wire/labels:1/get")
    ask("DELETE", "/images/wire/labels:2")
    ask("DELETE", "/images/wire/labels:1")
    _, _, body = ask("GET", f"/events?since={began:.6f}&until={time.time() + 0.1:.6f}&filters=" + quote('{"label":["a=b"]}'))
    events = [json.loads(line) for line in body.splitlines()]
    assert [(event["Action"], event["Actor"]["Attributes"]["name"]) for event in events] == [
        ("import", "wire/labels:1"), ("tag", "wire/labels:2"), ("save", image), ("untag", "wire/labels:2"),
        ("untag", "wire/labels:1"), ("delete", image)]  # fmt: skip


@pytest.mark.parametrize(("query", "body", "message"), [
    ("changes=BOGUS+x", rootfs(), "bogus is not a valid change command"),
    ("", b"", "the archive to import is empty"),
])
def test_a_bad_import_is_the_callers_fault(ask, query, body, message):
    status, _, answer = ask("POST", f"/images/create?fromSrc=-&{query}", body)
    assert (status, json.loads(answer)["message"]) == (400, message)


def test_a_source_that_is_no_url(ask):
    status, _, answer = ask("POST", "/images/create?fromSrc=/etc/passwd")
    assert (status, json.loads(answer)["message"]) == (400, "'/etc/passwd' is no http or https URL")


def test_names_of_fields_are_matched_without_regard_to_case(ask, hub):
    body = json.dumps({"UserName": "anna", "PASSWORD": "x", "ServerAddress": hub.host})
    assert json.loads(ask("POST", "/auth", body, JSON)[2]) == {"Status": "Login Succeeded", "IdentityToken": ""}


def test_null_is_an_empty_object(ask):
    status, _, body = ask("POST", "/auth", "null", JSON)
    assert b"invalid JSON" not in body
    assert status != 400


def test_pull_tells_as_docker_does(ask, hub):
    made = small("tells", layers=1)
    name = publish(hub, "wire/tells", "1", made)
    _, _, body = ask("POST", f"/images/create?fromImage={name}")
    first = json.loads(body.split(b"\r\n")[0])
    assert first == {"status": "Pulling from wire/tells", "id": "1"}
    repository = name.rpartition(":")[0]
    _, _, body = ask("POST", f"/images/create?fromImage={repository}&tag={made.digest}")
    assert json.loads(body.split(b"\r\n")[0]) == {"status": "Pulling from wire/tells", "id": f"{repository}@{made.digest}"}
    ask("DELETE", f"/images/{made.config_digest}?force=1")


def test_a_push_of_a_tag_that_is_not_here(ask, hub):
    make(ask, f"{hub.host}/wire/push:1")
    header = {"X-Registry-Auth": base64.urlsafe_b64encode(b"{}").decode()}
    status, _, body = ask("POST", f"/images/{hub.host}/wire/push/push?tag=nope", headers=header)
    told = [json.loads(line) for line in body.split(b"\r\n") if line]
    assert status == 200
    assert [line.get("error", line.get("status")) for line in told] == [
        f"The push refers to repository [{hub.host}/wire/push]", f"tag does not exist: {hub.host}/wire/push:nope"]


def test_platforms_are_told_as_they_are_written(ask, hub):
    amd, arm = small("wireamd"), small("wirearm", architecture="arm64")
    written = [{"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "5"}]
    publish(hub, "wire/many", "arm", arm)
    name = publish(hub, "wire/many", "1", amd, index=small_images.index([(amd, written[0]), (arm, written[1])]))
    found = json.loads(ask("GET", f"/distribution/{name}/json")[2])
    assert found["Platforms"] == written


def test_the_platform_of_an_image_that_is_asked_for(ask):
    make(ask, "wire/platform:1")
    for route in ("json", "history"):
        status, _, body = ask("GET", f"/images/wire/platform:1/{route}?platform={quote(ARM)}")
        assert status == 404
        assert "does not match the specified platform (linux/arm64)" in json.loads(body)["message"]
        amd = quote(json.dumps({"os": "linux", "architecture": "amd64"}))
        assert ask("GET", f"/images/wire/platform:1/{route}?platform={amd}")[0] == 200


def test_a_system_s_version(ask, hub):
    made = small_images.image([{"a": b"a"}], docker=True)
    raw = json.loads(made.config) | {"os.version": "10.0.1"}
    config = json.dumps(raw).encode()
    manifest = json.loads(made.manifest)
    manifest["config"] |= {"digest": small_images.digest_of(config), "size": len(config)}
    changed = made._replace(manifest=json.dumps(manifest).encode(), config=config,
                            blobs={**made.blobs, small_images.digest_of(config): config})  # fmt: skip
    name = publish(hub, "wire/osversion", "1", changed)
    ask("POST", f"/images/create?fromImage={name}")
    assert json.loads(ask("GET", f"/images/{name}/json")[2])["OsVersion"] == "10.0.1"


@pytest.mark.parametrize("body", [b"", b"<html>not here</html>", b'{"errors":[{"code":"NOT_FOUND","message":"artifact x not found"}]}'])
def test_registries_with_words_of_their_own_for_what_they_lack(ask, hub, body):
    with fault_proxy(hub.host) as proxy:
        proxy.faults.append(Fault("GET", "/manifests/", status=404, body=body, times=-1))
        for method, path in (("POST", f"/images/create?fromImage={proxy.host}/x&tag=1"), ("GET", f"/distribution/{proxy.host}/x:1/json")):
            status, _, answer = ask(method, path)
            assert (status, json.loads(answer)["message"]) == (404, f"manifest for {proxy.host}/x:1 not found: manifest unknown: manifest unknown")


@pytest.mark.parametrize("header", ["!!", "e30", "e30=", "", base64.b64encode(b"[]").decode(), base64.urlsafe_b64encode(b'{"USERNAME":"a"}').decode()])
def test_credentials_that_cannot_be_read_are_none(ask, hub, header):
    name = publish(hub, "wire/header", "1", small("wireheader"))
    status, _, body = ask("POST", f"/images/create?fromImage={name}", headers={"X-Registry-Auth": header})
    assert (status, b"errorDetail" in body) == (200, False)
