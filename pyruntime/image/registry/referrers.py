"""Lists a registry gives in pages, and what refers to a manifest: the referrers API with its fallback of a tag."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from pyruntime.errors import RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.media import OCI_INDEX, Index, Manifest, parse_manifest
from pyruntime.image.reference import Reference
from pyruntime.image.registry import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyruntime.image.media import Descriptor
    from pyruntime.image.registry.client import RegistryClient
    from pyruntime.image.registry.http import Answer

PAGE_LIMIT = 4 << 20  # bytes of a page
PAGES_MAX = 1000
LINK_LIMIT, LINKS_MAX = 4096, 8  # characters of a field that are read, and fields
TOTAL_LIMIT = 64 << 20  # bytes of all pages
_NEXT = re.compile(r'<([^<>]+)>\s*;(?:[^,]*;)?\s*rel="?next"?', re.IGNORECASE)


def pages(client: RegistryClient, name: str, tail: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(bytes, document) of a list and of the pages its `Link` headers lead to. Raises RegistryError."""
    left = TOTAL_LIMIT
    for _ in range(PAGES_MAX):
        answer, raw = client.get(name, tail, f"list {tail.partition('?')[0]} of {name}", PAGE_LIMIT)
        tail = _next(answer)
        try:
            document = json.loads(raw) if len(raw) <= PAGE_LIMIT else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise RegistryError(f"the registry's list for {name} is no JSON object of at most {PAGE_LIMIT} bytes",
                                value=name)
        yield raw, document
        left -= len(raw)
        if not tail:
            return
        if left < 0:
            break
    raise RegistryError(f"the registry's list for {name} has more than {PAGES_MAX} pages or {TOTAL_LIMIT} bytes", value=name)


def _next(answer: Answer) -> str:
    """Path and query of the next page, "" after the last. Raises RegistryError for a page on another host."""
    found = (_NEXT.search(field[:LINK_LIMIT]) for field in answer.headers.getlist("Link")[:LINKS_MAX])
    match = next((match for match in found if match), None)
    if not match:
        return ""
    url = exchange.join(answer.url, match[1])
    if exchange.origin(url) != exchange.origin(answer.url):
        raise RegistryError(f"the registry {urlsplit(answer.url).netloc} names a next page on another host",
                            value=urlsplit(url).netloc)
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def tags(client: RegistryClient, name: str) -> Iterator[str]:
    """See RegistryClient.tags."""
    for _, document in pages(client, name, "tags/list?n=1000"):
        found = document.get("tags") or []
        if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
            raise RegistryError(f"the registry's list of tags of {name} is no list of texts", value=name)
        yield from found


def referrers(client: RegistryClient, name: str, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
    """See RegistryClient.referrers."""
    found: list[Descriptor] = []
    try:
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        for raw, _ in pages(client, name, f"referrers/{digest}{query}"):
            parsed = parse_manifest(raw)
            if not isinstance(parsed, Index):
                raise RegistryError(f"the registry's list of what refers to {digest} is no index", value=name)
            found += parsed.manifests
    except RegistryError as error:
        if error.http_status != 404 or found:  # the registry has the API, but lost a page
            raise
        found = list(_fallback(client, name, digest)[0])
    return tuple(entry for entry in found if artifact_type in {"", entry.artifact_type})


def _fallback_tag(digest: str) -> str:
    """`sha256-<hex>`, cut to what a tag may be (distribution-spec, Referrers Tag Schema)."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def _fallback(client: RegistryClient, name: str, digest: str) -> tuple[tuple[Descriptor, ...], list[Any]]:
    """The entries of the fallback index, parsed and as they are written; none when the tag is missing."""
    domain, _, path = name.partition("/")
    try:
        fetched = client.manifest(Reference(domain, path, _fallback_tag(digest)))
    except RegistryError as error:
        if error.http_status != 404:
            raise
        return (), []
    parsed = parse_manifest(fetched.raw, fetched.content_type)
    if not isinstance(parsed, Index):
        raise RegistryError(f"tag {_fallback_tag(digest)} of {name} is no index of referrers", value=name)
    return parsed.manifests, json.loads(fetched.raw)["manifests"]


def add_to_fallback(client: RegistryClient, name: str, made: Manifest | Index) -> None:
    """Names a pushed manifest in the fallback index of its subject, for a registry without the referrers API."""
    assert made.subject is not None
    digest = digest_of(made.raw)
    known, written = _fallback(client, name, made.subject.digest)
    if any(entry.digest == digest for entry in known):
        return
    artifact_type = made.artifact_type or (made.config.media_type if isinstance(made, Manifest) else "")
    entry = {"mediaType": made.media_type, "digest": digest, "size": len(made.raw),
             **({"artifactType": artifact_type} if artifact_type else {}),
             **({"annotations": made.annotations} if made.annotations else {})}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*written, entry]}
    raw = json.dumps(document, separators=(",", ":")).encode()
    client.put_manifest(name, _fallback_tag(made.subject.digest), raw, OCI_INDEX)
