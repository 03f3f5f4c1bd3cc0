"""Platforms: names, and which entry of an index is chosen."""

from __future__ import annotations

import json

import pytest

from pyruntime.errors import ImageNotFound, InvalidReference
from pyruntime.image import media
from pyruntime.image.digest import chain_ids, check_digest, digest_of, verify
from pyruntime.image.media import Index, parse_manifest
from pyruntime.image.platform import Platform, host_platform, normalise, parse_platform, select


@pytest.mark.parametrize(("words", "text"), [
    (("linux", "x86_64"), "linux/amd64"), (("Linux", "aarch64"), "linux/arm64"), (("linux", "armhf"), "linux/arm/v7"),
    (("linux", "armel"), "linux/arm/v6"), (("linux", "i686"), "linux/386"), (("linux", "arm64", "v8"), "linux/arm64"),
    (("linux", "arm64", "8"), "linux/arm64"), (("linux", "arm"), "linux/arm/v7"), (("linux", "arm", "5"), "linux/arm/v5"),
    (("linux", "amd64", "v1"), "linux/amd64"), (("linux", "amd64", "v3"), "linux/amd64/v3"), (("macos", "arm64"), "darwin/arm64"),
])
def test_normalise(words, text) -> None:
    assert str(normalise(*words)) == text


@pytest.mark.parametrize(("text", "result"), [
    ("linux/arm64", "linux/arm64"), ("arm/v6", "linux/arm/v6"), ("aarch64", "linux/arm64"), ("windows/amd64", "windows/amd64"),
    ("linux/arm/v7", "linux/arm/v7"), ("linux", str(host_platform())), ("other/thing", "other/thing"),
])
def test_parse(text, result) -> None:
    assert str(parse_platform(text)) == result


@pytest.mark.parametrize("text", ["", "/", "a/b/c/d", "linux/", "what", "li nux/amd64", "amd64/v2/x"])
def test_parse_refuses(text) -> None:
    with pytest.raises(InvalidReference, match="invalid platform"):
        parse_platform(text)


def index(*rows) -> Index:
    entries = []
    for number, row in enumerate(rows):
        entry = {"mediaType": media.OCI_MANIFEST, "digest": digest_of(str(number).encode()), "size": number}
        if isinstance(row, str):
            names = dict(zip(("os", "architecture", "variant"), row.split("/")))
            entry["platform"] = names
        else:
            entry |= row
        entries.append(entry)
    found = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize(("wanted", "rows", "chosen"), [
    ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
    ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
    ("linux/amd64", ["linux/386", "linux/amd64/v1"], 1),
    ("linux/amd64", ["linux/386", "linux/arm64"], 0),
    ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
    ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v3"], 1),
    ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
    ("linux/arm/v7", ["linux/arm/v6", "linux/arm"], 1),
    ("linux/arm64", ["linux/arm64/v8"], 0),
    ("linux/amd64", [{}, "linux/amd64"], 1),
    ("linux/amd64", ["linux/arm64", {}], 1),
    ("linux/amd64", [{"mediaType": media.OCI_INDEX}, "linux/arm64"], 0),
    ("linux/amd64", ["unknown/unknown", {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}, "linux/amd64"], 2),
])
def test_select(wanted, rows, chosen) -> None:
    assert select(index(*rows), parse_platform(wanted)).size == chosen


def test_select_says_what_is_offered() -> None:
    with pytest.raises(ImageNotFound, match="no matching manifest for linux/arm/v6") as caught:
        select(index("linux/amd64", "linux/arm/v7", "windows/amd64", "unknown/unknown"), Platform("linux", "arm", "v6"))
    assert caught.value.hint == "platforms offered: linux/amd64, linux/arm/v7, windows/amd64"


def test_chain_ids() -> None:
    diffs = [digest_of(b"a"), digest_of(b"b"), digest_of(b"c")]
    chains = chain_ids(diffs)
    assert chains[0] == diffs[0]
    assert chains[2] == digest_of(f"{chains[1]} {diffs[2]}".encode())
    assert chain_ids(()) == ()


@pytest.mark.parametrize(("text", "computable", "word"), [
    ("sha256:abc", False, "length"), ("sha256:" + "G" * 64, False, "format"), ("sha256:" + "A" * 64, False, "format"),
    ("", False, "format"), (None, False, "format"), (7, False, "format"), ("a:b:c", False, "format"), ("blake3:abc", True, "unsupported"),
    ("sha256:" + "a" * 64 + "\n", False, "format"), ("sha512:" + "a" * 64, False, "length"),
])
def test_digests_refused(text, computable, word) -> None:
    with pytest.raises(Exception, match=word):
        check_digest(text, computable=computable)


def test_verify_names_both_digests() -> None:
    verify(b"x", digest_of(b"x"), size=1)
    verify(b"x", digest_of(b"x", "sha512"))
    with pytest.raises(Exception, match=f"expected {digest_of(b'y')}, got {digest_of(b'x')}"):
        verify(b"x", digest_of(b"y"))
    with pytest.raises(Exception, match="has 1 bytes, expected 2"):
        verify(b"x", digest_of(b"x"), size=2)
