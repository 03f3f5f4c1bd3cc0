"""The rows of the registry protocol (distribution-spec 1.1; contract images-and-build 3) as calls.

    client = RegistryClient(HostConfig(), credentials)
    with client.operation(cancel) as client:       # what it does is cut off when `cancel` is set
        answer = client.manifest(reference)

Repositories are named as `Reference.name` is: `docker.io/library/x`. Pulling calls ask mirrors first; a mirror that
fails in any way is passed over, its content is checked like any other. All calls raise RegistryError, with the
registry's own words where it gave some, and Cancelled.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pyruntime.errors import DigestMismatch, InvalidImage, RegistryError
from pyruntime.image.digest import algorithm_of, digest_of, verify
from pyruntime.image.media import ACCEPT, MANIFEST_MAX_BYTES, parse_manifest
from pyruntime.image.registry import exchange
from pyruntime.image.registry.credentials import ANONYMOUS
from pyruntime.image.registry.download import read_blob
from pyruntime.image.registry.exchange import RetryPolicy
from pyruntime.image.registry.hosts import HostConfig
from pyruntime.image.registry.http import Http, Operation
from pyruntime.image.registry.site import Site
from pyruntime.image.registry.upload import Upload
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyruntime.image.media import Descriptor
    from pyruntime.image.reference import Reference
    from pyruntime.image.registry.credentials import Credentials, Lookup
    from pyruntime.image.registry.download import Ask
    from pyruntime.image.registry.http import Answer


T = TypeVar("T")
MANIFEST = "manifest for"  # how a manifest's errors begin
WARNINGS_MAX = 20  # different ones that are told


class Fetched(Record):
    """A manifest as a registry gave it; `raw` is b"" after a HEAD, whose `digest` is the registry's word alone."""

    raw: bytes
    content_type: str
    digest: str
    size: int


class RegistryClient:
    """Thread-safe. `credentials` are for every registry asked, or a look-up by host; None is anonymous.

    `warn` gets each text of the registries' Warning headers once.
    """

    def __init__(self, hosts: HostConfig | None = None, credentials: Credentials | Lookup | None = None, *,
                 policy: RetryPolicy | None = None, warn: Callable[[str], None] | None = None) -> None:
        self.hosts, self.policy = hosts or HostConfig(), policy or RetryPolicy()
        self.http = Http(self.hosts)
        self.credentials = credentials or ANONYMOUS
        self._lookup: Lookup = credentials if callable(credentials) else lambda _: credentials or ANONYMOUS
        self._sites: dict[tuple[str, bool], list[Site]] = {}
        self._lock = threading.Lock()
        self._warn, self._warned = warn, set[str]()
        self._operation = Operation()

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two clients ask the same places as the same user; hashable."""
        return (self.hosts, self.credentials)

    @contextmanager
    def operation(self, cancel: threading.Event) -> Iterator[RegistryClient]:
        """This client, sharing connections and tokens, whose calls end with Cancelled soon after `cancel` is set."""
        view = object.__new__(RegistryClient)
        view.__dict__.update(self.__dict__, _operation=Operation(cancel))
        with view._operation.watched():
            yield view

    def close(self) -> None:
        """Drops idle connections; the client may be used again."""
        self.http.close()

    # ---- registries ----
    def ping(self, domain: str) -> None:
        """Checks that the host is a registry that lets us in."""
        site = self._origin(domain)
        with site.call(self._operation, "GET", "/v2/") as answer:
            if answer.status != 200:
                raise exchange.refusal(answer, f"registry {domain}")

    def login(self, domain: str) -> str:
        """Checks the credentials; the identity token the registry gives for them, "" when it gives none."""
        site = self._origin(domain)
        with site.unauthorized(self._operation) as answer:
            identity = site.auth.login(self._operation, answer) if answer.status == 401 else ""
        self.ping(domain)
        return identity

    # ---- manifests ----
    def manifest(self, reference: Reference, *, head: bool = False) -> Fetched:
        """The manifest or index of a reference, byte for byte, its digest checked where the reference has one."""
        return self._first(reference.name, partial(self._manifest, reference, "HEAD" if head else "GET"))

    def _manifest(self, reference: Reference, method: str, site: Site) -> Fetched:
        tail = f"manifests/{reference.digest or reference.tag or 'latest'}"
        ask = partial(self._ask, reference.name, method, tail, {"Accept": ", ".join(ACCEPT)},
                      f"{MANIFEST} {reference.familiar}", site)
        answer, raw = exchange.read_whole(self._operation, self.policy, ask, MANIFEST_MAX_BYTES)
        content_type = answer.headers.get("Content-Type", "")
        stated = answer.headers.get("Docker-Content-Digest", "")
        if method == "HEAD":
            return Fetched(b"", content_type, stated, answer.length)
        if len(raw) > MANIFEST_MAX_BYTES:
            raise InvalidImage(f"manifest of {reference.familiar} is larger than {MANIFEST_MAX_BYTES} bytes",
                               value=reference.familiar)
        if reference.digest:
            verify(raw, reference.digest, what="manifest")
        elif stated and algorithm_of(stated) in {"sha256", "sha512"}:
            verify(raw, stated, what="manifest")
        if site.endpoint.mirror:
            parse_manifest(raw, content_type)  # what is none is the next one's business
        return Fetched(raw, content_type, reference.digest or digest_of(raw), len(raw))

    def put_manifest(self, name: str, target: str, raw: bytes, media_type: str) -> str:
        """Stores a manifest under a tag or its digest; its digest. A `subject` is made known as its registry wants it."""
        with self._pushing(name, "PUT", f"manifests/{target}", {"Content-Type": media_type}, raw) as answer:
            if answer.status != 201:
                raise exchange.refusal(answer, f"manifest {target}")
            stated = answer.headers.get("Docker-Content-Digest", "")
            knows_subject = "OCI-Subject" in answer.headers
        digest = digest_of(raw)
        if stated and algorithm_of(stated) == "sha256" and stated != digest:
            raise DigestMismatch(f"the registry stored {stated} in place of manifest {digest}", value=digest)
        parsed = parse_manifest(raw, media_type)
        if parsed.subject is not None and not knows_subject:
            from pyruntime.image.registry.referrers import add_to_fallback

            add_to_fallback(self, name, parsed)
        return digest

    def delete_manifest(self, name: str, target: str) -> None:
        """Deletes a manifest by digest, or a tag."""
        self._delete(name, f"manifests/{target}")

    def tags(self, name: str) -> Iterator[str]:
        """The repository's tags, page by page."""
        from pyruntime.image.registry import referrers

        return referrers.tags(self, name)

    def referrers(self, name: str, digest: str, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """What refers to a manifest, of one artifact type or all."""
        from pyruntime.image.registry import referrers

        return referrers.referrers(self, name, digest, artifact_type)

    # ---- content ----
    def blob(self, name: str, digest: str, size: int, offset: int = 0, *, urls: tuple[str, ...] = (),
             origin_only: bool = False) -> Iterator[bytes]:
        """Bytes of a blob from `offset` on, for the caller to hash; see download.py. `urls` are asked first, as strangers.

        Only a non-distributable layer has a use for its `urls`; they get no credentials and have to be https.
        """
        operation, sites = self._operation, self._endpoints(name, push=origin_only)
        asks = [_stranger(self.http, operation, self.policy, url) for url in urls if url.startswith("https://")]
        asks += [_asker(site, operation, name, digest) for site in sites]
        return read_blob(operation, self.policy, asks, digest, size, offset)

    def has_mirrors(self, name: str) -> bool:
        """Whether a pull from the repository asks others than its origin."""
        return len(self._endpoints(name)) > 1

    def blob_bytes(self, name: str, digest: str, size: int, *, what: str = "blob") -> bytes:
        """A small blob, size and digest checked."""
        data = b"".join(self.blob(name, digest, size))
        verify(data, digest, size=size, what=what)
        return data

    def has_blob(self, name: str, digest: str) -> bool:
        """Whether the origin has the blob in this repository."""
        with self._pushing(name, "HEAD", f"blobs/{digest}") as answer:
            if answer.status not in {200, 404}:
                raise exchange.refusal(answer, f"blob {digest}")
            return answer.status == 200

    def has_manifest(self, name: str, target: str) -> bool:
        """Whether the origin has the manifest in this repository."""
        with self._pushing(name, "HEAD", f"manifests/{target}", {"Accept": ", ".join(ACCEPT)}) as answer:
            return answer.status == 200

    def upload_blob(self, name: str, digest: str, fd: int, size: int, *, sources: tuple[str, ...] = (),
                    sent: Callable[[int], None] = lambda _: None) -> str:
        """Uploads the content of an open file, read by offset, unless it can be mounted from one of `sources`.

        `sources` are names of repositories of the same registry; the one it came from is returned, "" for uploaded.
        `sent` hears how many bytes have gone out.
        """
        site, path = self._origin(name), _path(name)
        upload = Upload(site, self._operation, path, _scopes(name, "pull,push"), digest, fd, size, sent)
        source = upload.run(tuple(source.partition("/")[2] for source in sources))
        return f"{name.partition('/')[0]}/{source}" if source else ""

    def delete_blob(self, name: str, digest: str) -> None:
        """Deletes a blob of a repository."""
        self._delete(name, f"blobs/{digest}")

    # ---- endpoints ----
    def get(self, name: str, tail: str, context: str, limit: int) -> tuple[Answer, bytes]:
        """See exchange.read_whole: a GET below the repository, or of a path with its query, at the first that has it."""
        def ask(site: Site) -> tuple[Answer, bytes]:
            return exchange.read_whole(self._operation, self.policy,
                                       partial(self._ask, name, "GET", tail, {}, context, site), limit)

        return self._first(name, ask)

    def _first(self, name: str, ask: Callable[[Site], T]) -> T:
        """What the first endpoint gives that gives something sound; what the origin gives otherwise."""
        *mirrors, origin = self._endpoints(name)
        for site in mirrors:
            with suppress(RegistryError, DigestMismatch, InvalidImage):
                return ask(site)
        return ask(origin)

    def _ask(self, name: str, method: str, tail: str, headers: dict[str, str], context: str, site: Site) -> Answer:
        """The 200 of one endpoint. Raises RegistryError."""
        target = tail if tail.startswith("/") else f"/v2/{_path(name)}/{tail}"
        answer = site.call(self._operation, method, target, scopes=_scopes(name, "pull"), headers=headers)
        if answer.status != 200:
            raise _denied(answer, name, context)
        return answer

    def _pushing(self, name: str, method: str, tail: str, headers: dict[str, str] | None = None,
                 body: bytes | None = None) -> Answer:
        return self._origin(name).call(
            self._operation, method, f"/v2/{_path(name)}/{tail}", scopes=_scopes(name, "pull,push"), headers=headers,
            body=(lambda: body) if body is not None else None,
        )

    def _delete(self, name: str, tail: str) -> None:
        site = self._origin(name)
        with site.call(self._operation, "DELETE", f"/v2/{_path(name)}/{tail}", scopes=_scopes(name, "delete")) as answer:
            if answer.status == 405:
                raise RegistryError(f"the registry {site.endpoint.host} does not allow to delete", http_status=405,
                                    code="UNSUPPORTED", value=site.endpoint.host)
            if answer.status != 202:
                raise exchange.refusal(answer, f"delete {tail}")

    def _endpoints(self, name: str, *, push: bool = False) -> list[Site]:
        domain = name.partition("/")[0]
        with self._lock:
            key = (domain, push)
            if key not in self._sites:
                self._sites[key] = [Site(self.http, endpoint, self._lookup, self.policy, self._once)
                                    for endpoint in self.hosts.endpoints(domain, push=push)]
            return self._sites[key]

    def _origin(self, name: str) -> Site:
        return self._endpoints(name)[-1]

    def _once(self, text: str) -> None:
        if self._warn is not None and text not in self._warned and len(self._warned) < WARNINGS_MAX:
            self._warned.add(text)
            self._warn(text)


def _path(name: str) -> str:
    return quote(name.partition("/")[2])


def _scopes(name: str, actions: str) -> tuple[str, ...]:
    return (f"repository:{name.partition('/')[2]}:{actions}",)


def _asker(site: Site, operation: Operation, name: str, digest: str) -> Ask:
    return lambda headers: site.call(operation, "GET", f"/v2/{_path(name)}/blobs/{digest}", scopes=_scopes(name, "pull"),
                                     headers=headers)


def _stranger(http: Http, operation: Operation, policy: RetryPolicy, url: str) -> Ask:
    """A URL of a descriptor: no credentials, ever (CVE-2020-15157)."""
    return lambda headers: exchange.send_retrying(operation, policy,
                                                  lambda: exchange.follow(http, operation, "GET", url, headers))


def _denied(answer: Answer, name: str, context: str) -> RegistryError:
    """A refusal to pull, in the words Docker's users look for."""
    error = exchange.refusal(answer)
    known = error.unauthorized or error.code == "NAME_UNKNOWN"
    if answer.status == HTTPStatus.NOT_FOUND and context.startswith(MANIFEST) and not known:
        error.code = "MANIFEST_UNKNOWN"  # some registries have words of their own, or none
    if error.code == "MANIFEST_UNKNOWN":
        return error.within(f"{context} not found")  # type: ignore[return-value]  # it returns itself
    if known:
        return error.within(f"pull access denied for {name}, repository does not exist or may require authorization")  # type: ignore[return-value]
    return error.within(context)  # type: ignore[return-value]
