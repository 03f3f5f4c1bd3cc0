"""Digests: `algorithm:encoded` as text (image-spec descriptor.md, Digests), and what computes them."""

from __future__ import annotations

import hashlib
import re

from pyruntime.errors import DigestMismatch, InvalidImage

GRAMMAR = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
# registered algorithm -> hexadecimal digits of its encoded part
LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


def check_digest(text: object, *, field: str = "", computable: bool = False) -> str:
    """`text` itself, when it is a digest.

    A registered algorithm (sha256, sha512) must have its length in lower-case hexadecimal digits; other algorithms
    need the grammar alone, and are refused with `computable`, which is what asks for content. Raises InvalidImage
    that names `field`, a JSON pointer.
    """
    if not isinstance(text, str) or not GRAMMAR.fullmatch(text):
        raise InvalidImage("invalid checksum digest format", field=field, value=_shown(text),
                           hint="a digest is sha256: and 64 lower-case hexadecimal digits")
    algorithm, _, encoded = text.partition(":")
    length = LENGTHS.get(algorithm)
    if length is None:
        if computable:
            raise InvalidImage("unsupported digest algorithm", field=field, value=_shown(text),
                               hint="content is named by sha256 or sha512")
        return text
    if len(encoded) != length:
        raise InvalidImage("invalid checksum digest length", field=field, value=_shown(text),
                           hint=f"{algorithm} has {length} hexadecimal digits, not {len(encoded)}")
    if not _HEX.fullmatch(encoded):
        raise InvalidImage("invalid checksum digest format", field=field, value=_shown(text),
                           hint="the digits of a digest are lower case")
    return text


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def algorithm_of(digest: str) -> str:
    """`sha256` of `sha256:…`."""
    return digest.partition(":")[0]


def encoded_of(digest: str) -> str:
    """The digits of `sha256:…`."""
    return digest.partition(":")[2]


def short(digest: str) -> str:
    """The first 12 digits, as lists show an ID."""
    return encoded_of(digest)[:12]


class Hasher:
    """A running digest of one algorithm; counts the bytes. Raises InvalidImage for an algorithm it cannot compute."""

    def __init__(self, algorithm: str = "sha256") -> None:
        if algorithm not in LENGTHS:
            raise InvalidImage("unsupported digest algorithm", value=algorithm,
                               hint="content is named by sha256 or sha512")
        self.algorithm = algorithm
        self.size = 0
        self._hash = hashlib.new(algorithm, usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Takes more bytes in. Large buffers are hashed without the interpreter's lock (hashlib)."""
        self._hash.update(data)
        self.size += len(data) if isinstance(data, (bytes, bytearray)) else data.nbytes

    def digest(self) -> str:
        """The digest of what was taken in so far."""
        return f"{self.algorithm}:{self._hash.hexdigest()}"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of `data`."""
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


def verify(data: bytes, digest: str, *, size: int = -1, what: str = "content") -> None:
    """Raises DigestMismatch unless `data` has `size` bytes (-1: any) and this digest. Size is looked at first."""
    if size not in (-1, len(data)):
        raise DigestMismatch(f"{what} {digest} has {len(data)} bytes, expected {size}", value=digest)
    found = digest_of(data, algorithm_of(check_digest(digest, computable=True)))
    if found != digest:
        raise DigestMismatch(f"{what} does not match its digest: expected {digest}, got {found}", value=digest)


def chain_ids(diff_ids: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The ChainID of every layer stack, base first: the first is DiffID(0), each next one hashes `chain diff`.

    image-spec config.md, Layer ChainID.
    """
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(digest_of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return tuple(chains)
