"""The pure parts of the registry client: challenges, hosts, proxies, credentials, refusals, redirects."""

from __future__ import annotations

import base64
import json
import os
import stat

import pytest
from hypothesis import given, strategies

from pyruntime.errors import RegistryError, UsageError
from pyruntime.image.registry import credentials as creds
from pyruntime.image.registry import exchange, helpers
from pyruntime.image.registry.auth import choose, covered, read_token
from pyruntime.image.registry.challenge import parse_challenges
from pyruntime.image.registry.credentials import ANONYMOUS, ConfigFile, Credentials
from pyruntime.image.registry.hosts import HostConfig, bare, from_environment, masked

pytestmark = pytest.mark.unit


# ---- challenges ----
@pytest.mark.parametrize(("field", "found"), [
    ('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
     [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})]),
    ('BASIC Realm="a \\"quoted\\" one, with a comma"', [("basic", {"realm": 'a "quoted" one, with a comma'})]),
    ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
    ('Negotiate YII+/=, Bearer realm=https://a/t , service = "s"', [("negotiate", {}), ("bearer", {"realm": "https://a/t", "service": "s"})]),
    ('Basic realm="a",Bearer realm="b",error="insufficient_scope"',
     [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "error": "insufficient_scope"})]),
    ("Basic", [("basic", {})]),
    (' , ,Basic realm="x" ,, ', [("basic", {"realm": "x"})]),
    ('Bearer realm="no end', [("bearer", {})]),
    ("", []), ("=", []), ('a="b"', []),
], ids=str)  # fmt: skip
def test_challenges(field, found) -> None:
    assert [(c.scheme, dict(c.parameters)) for c in parse_challenges([field])] == found


def test_challenges_in_several_fields_and_which_is_taken() -> None:
    found = parse_challenges(['Digest realm="x"', 'Basic realm="x"', 'Bearer service="no realm"', 'Bearer realm="y"'])
    assert choose(found).get("realm") == "y"
    assert choose(found[:3]).scheme == "basic"
    assert choose(found[:1]) is None


@given(strategies.text(alphabet='ab=", \\\t/+', max_size=60))
def test_no_header_is_too_much(field) -> None:
    for challenge in parse_challenges([field, field * 1000]):
        assert challenge.scheme


@pytest.mark.parametrize(("word", "scopes", "answer"), [
    ("repository:x:pull", ("repository:x:pull,push",), True),
    ("repository:x:pull,push", ("repository:x:pull",), False),
    ("repository:y:pull", ("repository:x:pull",), False),
    ("registry:catalog:*", (), False),
    ("odd", ("odd",), True),
], ids=str)  # fmt: skip
def test_scopes_that_are_asked_for_already(word, scopes, answer) -> None:
    assert covered(word, scopes) is answer


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"token": 3}', b'{"token": "a\\nb"}', b'{"token":"x","expires_in":"soon"}',
                                 b'{"token":"x","refresh_token":3}', b"[" * 100000,
                                 b'{"token":"x","expires_in":1' + b"0" * 400 + b"}", b'{"token":"x","expires_in":1' + b"0" * 5000 + b"}"])
def test_a_token_server_that_talks_nonsense(raw) -> None:
    with pytest.raises(RegistryError, match="token server h answered without a token"):
        read_token(raw, "h")


def test_when_a_token_ends(monkeypatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    assert read_token(b'{"token":"x"}', "h").until == 1055
    assert read_token(b'{"access_token":"x","expires_in":300,"issued_at":"2999-01-01T00:00:00Z"}', "h").until == 1295
    assert read_token(b'{"token":"x","expires_in":300,"issued_at":"2001-01-01T00:00:00Z"}', "h").until < 1002
    assert read_token(b'{"token":"x","expires_in":1,"issued_at":"nonsense"}', "h").until == 1000.9
    for odd in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-7"):  # json takes them all
        assert 1000 < read_token(b'{"token":"x","expires_in":%s}' % odd, "h").until <= 1000 + 366 * 86400
    assert "x" not in repr(read_token(b'{"token":"xyzzy"}', "h")).replace("Token", "")


# ---- hosts ----
@pytest.mark.parametrize(("host", "insecure", "answer"), [
    ("localhost:5000", (), True), ("127.3.2.1", (), True), ("[::1]:5000", (), True), ("::1", (), True),
    ("example.org", (), False), ("localhost.example.org", (), False), ("10.1.2.3:5000", ("10.0.0.0/8",), True),
    ("11.1.2.3", ("10.0.0.0/8",), False), ("reg:5000", ("reg:5000",), True), ("reg:5001", ("reg:5000",), False),
    ("reg:5001", ("reg",), True), ("[fd00::1]:5000", ("fd00::/8",), True),
], ids=str)  # fmt: skip
def test_who_may_be_asked_without_tls(host, insecure, answer) -> None:
    config = HostConfig(insecure=insecure, certs_folders=())
    assert config.is_insecure(host) is answer
    assert config.endpoint(host).plain_allowed is answer
    assert config.tls(host).verify is not answer


def test_endpoints_in_order() -> None:
    config = HostConfig(mirrors=(("docker.io", ("https://m1:5000", "m2", "http://m3/")),), certs_folders=())
    found = config.endpoints("docker.io")
    assert [(e.url, e.mirror) for e in found] == [("https://m1:5000", True), ("https://m2", True), ("http://m3", True),
                                                  ("https://registry-1.docker.io", False)]
    assert [e.url for e in config.endpoints("docker.io", push=True)] == ["https://registry-1.docker.io"]
    assert [e.url for e in config.endpoints("quay.io")] == ["https://quay.io"]


@pytest.mark.parametrize("mirror", ["ftp://x", "https://user:pw@x", "https://x/path", "https://", "https://x?y", "x y"])
def test_a_mirror_that_is_no_host(mirror) -> None:
    with pytest.raises(UsageError, match="invalid mirror") as caught:
        HostConfig(mirrors=(("docker.io", (mirror,)),)).endpoints("docker.io")
    assert caught.value.field == "registry-mirrors"


def test_a_folder_of_certificates_makes_a_host_strict(tmp_path) -> None:
    folder = tmp_path / "localhost:5000"
    folder.mkdir()
    for name in ("ca.crt", "b.crt", "client.cert", "client.key", "notes"):
        (folder / name).write_text("")
    config = HostConfig(certs_folders=("/nowhere", str(tmp_path)))
    tls = config.tls("localhost:5000")
    assert tls.verify
    assert [os.path.basename(path) for path in tls.authorities] == ["b.crt", "ca.crt"]
    assert [os.path.basename(path) for path in tls.pairs[0]] == ["client.cert", "client.key"]
    assert not config.endpoint("localhost:5000").plain_allowed
    assert config.endpoint("localhost:5001").plain_allowed
    assert config.certificates("../localhost:5000") == ""
    (folder / "client.key").unlink()
    with pytest.raises(UsageError, match="missing key client.key"):
        config.tls("localhost:5000")


@pytest.mark.parametrize(("host", "no_proxy", "direct"), [
    ("reg.example.org", "", False), ("reg.example.org", "example.org", True), ("reg.example.org", ".example.org", True),
    ("example.org", ".example.org", False), ("example.org", "*.example.org", False), ("badexample.org", "example.org", False),
    ("reg.example.org:5000", "reg.example.org:5000", True), ("reg.example.org:5001", "reg.example.org:5000", False),
    ("reg.example.org", "reg.example.org:443", True), ("10.1.2.3", "10.0.0.0/8", True), ("10.1.2.3:5000", "10.0.0.0/8 x", True),
    ("[fd00::1]:5000", "fd00::/8", True), ("[fd00::1]", "[fd00::1]", True), ("x", "a, *", True), ("localhost", "", True),
    ("127.0.0.1:5000", "", True), ("REG.example.org", "EXAMPLE.org", True), ("x", ",,", False),
], ids=str)  # fmt: skip
def test_no_proxy(host, no_proxy, direct) -> None:
    config = HostConfig(https_proxy="http://proxy:3128", no_proxy=no_proxy)
    assert (config.proxy("https", host) is None) is direct


def test_proxies_of_the_environment() -> None:
    config = from_environment({"https_proxy": "http://u%40x:p%3A@proxy:3128", "HTTP_PROXY": "other:1", "http_proxy": "no"},
                              insecure=("a",))
    assert config.insecure == ("a",)
    proxy = config.proxy("https", "x")
    assert (proxy.url, proxy.username, proxy.password) == ("http://proxy:3128", "u@x", "p:")
    assert "p:" not in repr(proxy).replace("http:", "")
    assert config.proxy("http", "x").url == "http://other:1"
    assert from_environment({}).proxy("https", "x") is None
    with pytest.raises(UsageError, match="only http"):
        HostConfig(http_proxy="socks5://x:1").proxy("http", "y")


def test_bare() -> None:
    assert [bare(host) for host in ("A.b:5000", "[::1]:5", "::1", "x")] == ["a.b", "::1", "::1", "x"]


# ---- credentials ----
def header(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


def test_what_a_request_carries() -> None:
    assert creds.from_header("") == creds.from_header("e30=") == ANONYMOUS
    assert creds.from_header(header({"username": "a", "password": "b?>~", "serveraddress": "x"})) == Credentials("a", "b?>~")
    assert creds.from_header(header({"identitytoken": "t"}).rstrip("=")) == Credentials(identity_token="t")
    assert creds.from_header(header({"registrytoken": "t"})) == Credentials(registry_token="t")
    pair = base64.b64encode(b"a:b:c").decode()
    assert creds.from_header(header({"auth": pair})) == Credentials("a", "b:c")
    lookup = creds.from_config_header(header({"https://index.docker.io/v1/": {"username": "h", "password": "p"},
                                              "reg:5000": {"auth": pair}}))
    assert lookup("docker.io").username == "h"
    assert lookup("reg:5000").username == "a"
    assert lookup("reg:5001") == ANONYMOUS
    assert creds.from_config_header("")("x") == ANONYMOUS
    # look-ups of one user are equal, so that equal pulls are one
    one, same, other = (creds.only_for("reg", Credentials("a", word)) for word in ("p", "p", "q"))
    assert one == same
    assert {one, same, other} == {one, other}
    assert "'p'" not in repr(one)


@pytest.mark.parametrize("text", ["!", "e30", header([]), header({"auth": "x"}), header({"username": 3}), header("x"), "e3" * 600000])
def test_headers_that_are_none(text) -> None:
    if text == "e30":  # without its padding
        assert creds.from_header(text) == ANONYMOUS
        return
    with pytest.raises(UsageError, match="X-Registry-Auth") as caught:
        creds.from_header(text)
    assert caught.value.field.startswith("X-Registry-Auth")


def test_no_secret_is_printed() -> None:
    text = repr(Credentials("anna", "pass", "ident", "reg")) + str(Credentials("anna", "pass"))
    assert "anna" in text
    assert not {"'pass'", "'ident'", "'reg'"} & set(text.replace("=", " ").replace(",", " ").split())


@pytest.mark.parametrize(("written", "asked"), [
    ("https://index.docker.io/v1/", "docker.io"), ("docker.io", "registry-1.docker.io"), ("https://reg:5000", "reg:5000"),
    ("reg:5000", "http://reg:5000/v2/"), ("https://REG/v1/", "reg"),
])
def test_one_host_by_many_names(written, asked) -> None:
    assert creds.server_key(written) == creds.server_key(asked)


def test_config_json(tmp_path) -> None:
    path = tmp_path / "sub" / "config.json"
    file = ConfigFile(str(path))
    assert file("reg") == ANONYMOUS
    assert file.store("reg:5000", Credentials("a", "b:c")) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert file("https://reg:5000/v2/") == Credentials("a", "b:c")
    document = json.loads(path.read_text()) | {"HttpHeaders": {"x": "y"}}
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    file.store("docker.io", Credentials("h", "", "token"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert document["HttpHeaders"] == {"x": "y"}
    assert document["auths"]["https://index.docker.io/v1/"]["identitytoken"] == "token"
    assert file("docker.io") == Credentials("h", "", "token")
    assert file.erase("reg:5000")
    assert not file.erase("reg:5000")
    assert file("reg:5000") == ANONYMOUS
    assert os.listdir(tmp_path / "sub") == ["config.json"]


def test_config_json_is_found(tmp_path) -> None:
    assert creds.config_path({"DOCKER_CONFIG": "/x"}) == "/x/config.json"
    assert creds.config_path({"HOME": "/h"}) == "/h/.docker/config.json"


@pytest.mark.parametrize(("text", "said"), [
    ("{", "invalid"), ("[]", "not a JSON object"), ('{"auths": [1]}', "auths is no object"),
    ('{"auths": {"reg": {"auth": "bm9jb2xvbg=="}}}', r"auths\[reg\]: auth is not base64"),
    ('{"auths": {"reg": 3}}', "not an object"), ('{"credsStore": 3}', "no text"),
    ('{"credsStore": "no/such"}', "no name of a helper"), ('{"credsStore": "nosuch"}', "docker-credential-nosuch is not in PATH"),
])  # fmt: skip
def test_a_config_json_that_is_broken(tmp_path, text, said) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises((UsageError, RegistryError), match=said):
        ConfigFile(str(tmp_path / "config.json"))("reg")


HELPER = """#!/bin/sh
# a helper that keeps one secret in a file, as the protocol wants it
store="$(dirname "$0")/secret"
case $1 in
store) cat >"$store" ;;
get) read -r server; [ "$server" != broken ] || { echo "the keyring is locked"; exit 1; }
     grep -q "\\"$server\\"" "$store" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; }
     cat "$store" ;;
erase) [ -e "$store" ] || { echo "credentials not found in native keychain"; exit 1; }; rm "$store" ;;
list) echo '{"reg":"anna"}' ;;
esac
"""


@pytest.fixture
def helper(tmp_path, monkeypatch):
    path = tmp_path / "docker-credential-file"
    path.write_text(HELPER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return "file"


def test_helpers(tmp_path, helper) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credHelpers": {"reg": helper, "https://broken/": helper}, "auths": {"other": {"auth": "YTpi"}}}))
    file = ConfigFile(str(path))
    assert file("reg") == ANONYMOUS
    assert file.store("reg", Credentials("anna", "s3cret")) == "docker-credential-file"
    assert file("reg") == Credentials("anna", "s3cret")
    assert "s3cret" not in path.read_text()
    file.store("reg", Credentials("anna", "", "identity"))
    assert file("reg") == Credentials(identity_token="identity")
    assert file("other") == Credentials("a", "b")
    assert file.erase("reg")
    assert not file.erase("reg")
    assert helpers.servers(helper) == {"reg": "anna"}
    with pytest.raises(RegistryError, match="docker-credential-file get failed: the keyring is locked"):
        file("broken")
    # one that answers and fails all the same
    (tmp_path / f"docker-credential-{helper}").write_text('#!/bin/sh\necho \'{"Username":"a","Secret":"s3cret"}\'; exit 3\n')
    with pytest.raises(RegistryError, match="get failed: exit code 3") as caught:
        file("reg")
    assert "s3cret" not in f"{caught.value!r} {caught.value.details()}"


def test_the_store_for_all(tmp_path, helper) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credsStore": helper}))
    ConfigFile(str(path)).store("docker.io", Credentials("anna", "pw"))
    assert json.loads((tmp_path / "secret").read_text())["ServerURL"] == "https://index.docker.io/v1/"
    assert ConfigFile(str(path))("docker.io") == Credentials("anna", "pw")


# ---- rules of exchanges ----
@pytest.mark.parametrize(("text", "seconds"), [("3", 3), (" 10 ", 10), ("", 0), ("-1", 0), ("soon", 0), ("9" * 400, 999999999), ("Wed, " * 20_000, 0),
                                               ("Wed, 21 Oct 2015 07:28:00 GMT", 0)])
def test_retry_after(text, seconds) -> None:
    assert exchange.retry_after(text) == seconds


def test_retry_after_a_date(monkeypatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1445412470.0)
    assert exchange.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 10


def test_waits_double_below_a_bound_and_never_undercut_the_server() -> None:
    policy = exchange.RetryPolicy(base_s=1, cap_s=10)
    for attempt, most in ((0, 1), (1, 2), (3, 8), (4, 10), (2000, 10)):
        found = [policy.delay(attempt) for _ in range(50)] if attempt < 1000 else [policy.delay(900)]
        assert all(0 <= delay <= most for delay in found)
    assert policy.delay(0, 7.0) >= 7


@pytest.mark.parametrize(("raw", "found"), [
    (b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}', ("MANIFEST_UNKNOWN", "manifest unknown")),
    (b'{"errors":[{"code":"DENIED","message":"no","detail":"why"}]}', ("DENIED", "no: why")),
    (b'{"details":"incorrect username or password"}', ("", "incorrect username or password")),
    (b'{"errors":[{"code":"<script>","message":"a\\nb\\u001b[2J"}]}', ("", "a b [2J")),
    (b'{"errors":[]}', ("", "")), (b"<html>", ("", "")), (b"", ("", "")), (b"[" * 70000, ("", "")), (b'{"errors":[3]}', ("", "")),
])  # fmt: skip
def test_what_a_refusal_says(raw, found) -> None:
    assert exchange.parse_errors(raw) == found


@pytest.mark.parametrize(("base", "location", "found"), [
    ("https://a/v2/x", "/v2/y?z=1", "https://a/v2/y?z=1"), ("https://a/v2/x", "https://b/y", "https://b/y"),
    ("http://a/", "https://b/", "https://b/"), ("https://a:5000/v2/", "y", "https://a:5000/v2/y"),
])
def test_where_a_location_leads(base, location, found) -> None:
    assert exchange.resolve(base, location) == found


@pytest.mark.parametrize("location", ["http://a/", "ftp://b/", "https://u:p@b/", "https://b:port/", "file:///etc/passwd", "http://[", "//[", "https://a]/"])
def test_where_no_location_leads(location) -> None:
    with pytest.raises(RegistryError, match="refused|invalid URL"):
        exchange.resolve("https://a/", location)


def test_a_proxys_password_is_for_nobody_to_read() -> None:
    assert masked("http://anna:s3cret@proxy:3128") == "http://xxxxx:xxxxx@proxy:3128"
    assert masked("anna:s3@cret@proxy") == "xxxxx:xxxxx@proxy"
    assert masked("http://proxy:3128") == "http://proxy:3128"
    assert "s3cret" not in repr(HostConfig(http_proxy="http://anna:s3cret@proxy", https_proxy="anna:s3cret@proxy"))
