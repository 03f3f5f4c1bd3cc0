"""References: the grammar, Docker's short form, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.errors import InvalidReference
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import parse_familiar, parse_reference

D = digest_of(b"x")
H = "a" * 64


@pytest.mark.parametrize(("text", "name", "tag", "digest", "familiar"), [
    ("busybox", "docker.io/library/busybox", "latest", "", "busybox:latest"),
    ("busybox:1", "docker.io/library/busybox", "1", "", "busybox:1"),
    ("user/x", "docker.io/user/x", "latest", "", "user/x:latest"),
    ("docker.io/x", "docker.io/library/x", "latest", "", "x:latest"),
    ("docker.io/library/x:t", "docker.io/library/x", "t", "", "x:t"),
    ("index.docker.io/x", "docker.io/library/x", "latest", "", "x:latest"),
    ("index.docker.io/u/x", "docker.io/u/x", "latest", "", "u/x:latest"),
    ("localhost/x", "localhost/x", "latest", "", "localhost/x:latest"),
    ("localhost:5000/a/b/c:v1", "localhost:5000/a/b/c", "v1", "", "localhost:5000/a/b/c:v1"),
    ("host.example/x", "host.example/x", "latest", "", "host.example/x:latest"),
    ("HOST/x", "HOST/x", "latest", "", "HOST/x:latest"),
    ("[::1]:5000/x", "[::1]:5000/x", "latest", "", "[::1]:5000/x:latest"),
    ("127.0.0.1:5000/x", "127.0.0.1:5000/x", "latest", "", "127.0.0.1:5000/x:latest"),
    (f"x@{D}", "docker.io/library/x", "", D, f"x@{D}"),
    (f"x:1@{D}", "docker.io/library/x", "1", D, f"x:1@{D}"),
    (f"h:1/x:1@{D}", "h:1/x", "1", D, f"h:1/x:1@{D}"),
    ("a.b", "docker.io/library/a.b", "latest", "", "a.b:latest"),
    ("docker.io/a.b/c", "docker.io/a.b/c", "latest", "", "docker.io/a.b/c:latest"),
    ("x__y-z---1/a.b", "docker.io/x__y-z---1/a.b", "latest", "", "x__y-z---1/a.b:latest"),
    (f"x:{'t' * 128}", "docker.io/library/x", "t" * 128, "", f"x:{'t' * 128}"),
    (f"{H[:63]}", f"docker.io/library/{H[:63]}", "latest", "", f"{H[:63]}:latest"),
    (f"u/{H}", f"docker.io/u/{H}", "latest", "", f"u/{H}:latest"),
    ("a/" * 120 + "b", "docker.io/" + "a/" * 120 + "b", "latest", "", "a/" * 120 + "b:latest"),
])
def test_read(text, name, tag, digest, familiar) -> None:
    found = parse_reference(text)
    assert (found.name, found.tag, found.digest, found.familiar) == (name, tag, digest, familiar)
    assert parse_reference(found.familiar) == found == parse_reference(str(found))


def test_familiar_adds_no_tag() -> None:
    found = parse_familiar("x")
    assert (found.tag, found.familiar, found.endpoint, found.target) == ("", "x", "registry-1.docker.io", "")
    assert parse_reference(f"x:1@{D}").target == D
    assert found.with_digest(D).repo_digest == f"x@{D}"


@pytest.mark.parametrize(("text", "message"), [
    ("", "invalid reference format"),
    ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
    ("host.example/Foo/x:A", "invalid reference format: repository name (Foo/x) must be lowercase"),
    (H, f"invalid repository name ({H}), cannot specify 64-byte hexadecimal strings"),
    ("x:", "invalid reference format"),
    ("x:a b", "invalid reference format"),
    (f"x:{'t' * 129}", "invalid reference format"),
    ("x:-t", "invalid reference format"),
    ("x@", "invalid reference format"),
    ("x@sha256:abc", "invalid reference format"),
    (f"x@sha256:{'a' * 40}", "invalid checksum digest length"),
    (f"x@{D.upper()}", "invalid reference format"),
    (f"x@md5:{H}", "unsupported digest algorithm"),
    (f"x@{D}@{D}", "invalid reference format"),
    ("x..y", "invalid reference format"),
    ("x___y", "invalid reference format"),
    ("-x", "invalid reference format"),
    ("x-", "invalid reference format"),
    ("a//b", "invalid reference format"),
    ("/x", "invalid reference format"),
    ("host.example/", "invalid reference format"),
    ("host.example:port/x", "invalid reference format"),
    ("-host.example/x", "invalid reference format"),
    ("http://host/x", "invalid reference format"),
    ("x/../y", "invalid reference format"),
    ("x\n", "invalid reference format"),
    ("x:t\n", "invalid reference format"),
    ("ünicode", "invalid reference format"),
    ("host.example/" + "a/" * 122 + "bb", "repository name must not be more than 255 characters"),
])
def test_refused(text, message) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert caught.value.message == message


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="abzAZ019.:-_/@[]", max_size=40))
def test_what_is_read_comes_back_the_same(text) -> None:
    try:
        found = parse_familiar(text)
    except InvalidReference:
        return
    assert parse_familiar(found.familiar) == found == parse_familiar(str(found))
