"""A registry with the referrers API (distribution-spec 1.1), which Debian's docker-registry 2.8 has not: a layer over it.

    with referrers_registry(registry.host, page=2) as found:
        ... client asks found.host: everything but referrers is the real registry's ...

What is pushed with a `subject` is listed below it and answered with `OCI-Subject`. It can be a proxy that breaks things
as well (fault_proxy.py).
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from tests.fault_proxy import Fault, FaultProxy, answer
from tests.small_images import INDEX, digest_of

if TYPE_CHECKING:
    import http.server
    from collections.abc import Iterator

_REFERRERS = re.compile(r"/v2/(.+)/referrers/(sha256:[0-9a-f]{64})(?:\?(.*))?")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/.+")


class ReferrersRegistry(FaultProxy):
    """`page`: entries of one answer, 0 all. `filters`: whether it filters by artifactType, as it may. `serves`: False
    takes the API away."""

    def __init__(self, upstream: str, *, page: int = 0, filters: bool = True, serves: bool = True) -> None:
        self.page, self.filters, self.serves = page, filters, serves
        self.known: dict[tuple[str, str], list[dict[str, Any]]] = {}  # (repository, subject) -> descriptors
        super().__init__(upstream)

    def _forward(self, handler: http.server.BaseHTTPRequestHandler, headers: dict[str, str], fault: Fault) -> None:
        listed, put = _REFERRERS.fullmatch(handler.path), _MANIFEST.fullmatch(handler.path)
        if self.serves and listed and handler.command == "GET":
            self._list(handler, listed[1], listed[2], {key: value[0] for key, value in parse_qs(listed[3] or "").items()})
        elif self.serves and put and handler.command == "PUT":
            self._put(handler, put[1], headers)
        else:
            super()._forward(handler, headers, fault)

    def _put(self, handler: http.server.BaseHTTPRequestHandler, name: str, headers: dict[str, str]) -> None:
        raw = handler.rfile.read(int(headers["Content-Length"]))
        status, given, body = self.ask("PUT", handler.path, headers, raw)
        document = json.loads(raw)
        subject = (document.get("subject") or {}).get("digest")
        if status == 201 and subject:
            given["OCI-Subject"] = subject
            kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
            entry = {"mediaType": document["mediaType"], "digest": digest_of(raw), "size": len(raw), "artifactType": kind,
                     **({"annotations": document["annotations"]} if "annotations" in document else {})}
            entries = self.known.setdefault((name, subject), [])
            if entry not in entries:
                entries.append(entry)
        answer(handler, status, given, body)

    def _list(self, handler: http.server.BaseHTTPRequestHandler, name: str, subject: str, query: dict[str, str]) -> None:
        entries, headers = self.known.get((name, subject), []), {"Content-Type": INDEX}
        if self.filters and "artifactType" in query:
            entries = [entry for entry in entries if entry["artifactType"] == query["artifactType"]]
            headers["OCI-Filters-Applied"] = "artifactType"
        begin = int(query.get("from", 0))
        end = begin + self.page if self.page else len(entries)
        if end < len(entries):
            more = urlencode({**query, "from": end})
            headers["Link"] = f'</v2/{name}/referrers/{subject}?{more}>; rel="next"'
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries[begin:end]}).encode()
        answer(handler, 200, headers, body)


@contextlib.contextmanager
def referrers_registry(upstream: str, **more: Any) -> Iterator[ReferrersRegistry]:
    """A running one over the registry `upstream`, a host and port; ended at the end."""
    made = ReferrersRegistry(upstream, **more)
    try:
        yield made
    finally:
        made.close()
