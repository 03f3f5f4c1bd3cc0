"""Content into a registry: monolithic when it is small, else in pieces that can be gone on with after a break.

The state of an upload is a URL, a new one with each answer; it is used as given, its query included. After a break
the registry is asked how much it has (`GET URL`, `Range: 0-N`); 416 means the same question. What cannot be gone on
with is begun anew. An upload that is given up is taken back, errors of that are nobody's business.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pyruntime.errors import Cancelled, DigestMismatch, RegistryError
from pyruntime.image.registry import exchange
from pyruntime.image.registry.http import CHUNK, DIGITS_MAX, Operation, Transient

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.image.registry.http import Answer, Readable
    from pyruntime.image.registry.site import Site

    Sent = Callable[[int], None]  # how many bytes of the content are with the registry, as far as we know

SINGLE_MAX_BYTES = 4 << 20  # up to here one PUT is cheaper than to be able to go on
PIECE_BYTES = 64 << 20
TAKE_BACK_S = 2.0  # what a registry that does not answer has when an upload is given up
LOST_COUNT = frozenset({"BLOB_UPLOAD_INVALID", "RANGE_INVALID", "SIZE_INVALID", "DIGEST_INVALID"})  # after a break
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


class Piece:
    """Bytes [start, end) of an open file as a request body; tells how far it was read. Not thread-safe."""

    def __init__(self, fd: int, start: int, end: int, sent: Sent, operation: Operation) -> None:
        self._fd, self._at, self._end, self._sent, self._operation = fd, start, end, sent, operation

    def read(self, size: int = CHUNK) -> bytes:
        """The next bytes, b"" at the end."""
        self._operation.check()
        self._sent(self._at)
        data = os.pread(self._fd, min(max(size, CHUNK), self._end - self._at), self._at)
        self._at += len(data)
        return data


class Upload:
    """One content on its way into one repository. `fd` is borrowed and read by offset alone."""

    def __init__(self, site: Site, operation: Operation, path: str, scopes: tuple[str, ...], digest: str, fd: int, size: int,
                 sent: Sent) -> None:
        self.site, self.operation, self.path, self.scopes = site, operation, path, scopes
        self.digest, self.fd, self.size, self.sent = digest, fd, size, sent
        self.piece = PIECE_BYTES
        self.broken = False  # whether a piece was cut, so that the registry may have lost count

    def run(self, sources: tuple[str, ...] = ()) -> str:
        """Takes the content over from the first of the repositories `sources` that lets us, else uploads it.

        The repository it was mounted from, "" for uploaded. Raises RegistryError.
        """
        location = ""
        for source in sources:
            self._cancel(location)
            mounted, location = self._mount(source)
            if mounted:
                return source
        self._upload(location)
        return ""

    def _mount(self, source: str) -> tuple[bool, str]:
        """(mounted, URL of the upload that was begun in its place or "")."""
        query = urlencode({"mount": self.digest, "from": source})
        scopes = (*self.scopes, f"repository:{source}:pull")
        answer = self.site.call(self.operation, "POST", f"/v2/{self.path}/blobs/uploads/?{query}", scopes=scopes,
                                headers={"Content-Length": "0"})
        if answer.status == 202:
            return False, self._begun(answer)
        answer.close()  # a registry that refuses to mount is uploaded to, and says then what it has against it
        return answer.status == 201, ""

    def _upload(self, location: str) -> None:
        for attempt in range(self.site.policy.attempts):
            try:
                location = location or self._start()
                location = self._in_pieces(location)
                self._finish(location)
            except Transient:
                self._cancel(location)
                if attempt + 1 == self.site.policy.attempts:
                    raise
                location = ""
                self.operation.sleep(self.site.policy.delay(attempt))
            except BaseException:
                self._cancel(location)
                raise
            else:
                self.sent(self.size)
                return

    def _start(self) -> str:
        self.broken = False
        return self._begun(self._call("POST", f"/v2/{self.path}/blobs/uploads/", {"Content-Length": "0"}))

    def _begun(self, answer: Answer) -> str:
        """The URL of an upload from the 202 that began it; closes the answer."""
        if answer.status != 202:
            raise exchange.refusal(answer, f"upload of {self.digest}")
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isascii() and least.isdigit() and len(least) <= DIGITS_MAX:
            self.piece = max(self.piece, int(least))
        return self._location(answer)

    def _in_pieces(self, location: str) -> str:
        """PATCHes large content; the URL to finish with. Small content is left to the last PUT."""
        at = best = 0
        failed = 0
        while self.size > SINGLE_MAX_BYTES and at < self.size:
            end = min(at + self.piece, self.size)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - at),
                       "Content-Range": f"{at}-{end - 1}"}
            try:
                answer = self._call("PATCH", location, headers, (at, end))
                if answer.status == 202:
                    at, location = self._reached(answer, end), self._location(answer)
                    failed = 0 if at > best else failed + 1
                    best = max(at, best)
                    if failed == self.site.policy.attempts:
                        raise RegistryError(f"{self.site.endpoint.host} takes in nothing more of {self.digest}",
                                            value=self.digest)
                    continue
                if answer.status != 416 and answer.status not in exchange.RETRIED:
                    raise self._refused(answer)
                asked_s = exchange.retry_after(answer.headers.get("Retry-After", ""))
                problem: RegistryError = exchange.refusal(answer, f"upload of {self.digest}")
            except Transient as error:
                problem, asked_s = error, 0.0
            failed += 1
            self.broken = True
            if failed == self.site.policy.attempts or asked_s > self.site.policy.patience_s:
                raise problem
            self.operation.sleep(self.site.policy.delay(failed - 1, asked_s))
            at, location = self._status(location)
        return location

    def _status(self, location: str) -> tuple[int, str]:
        """(bytes the registry has, URL). Raises Transient when the upload is lost: it is begun anew."""
        answer = self._call("GET", location, {})
        if answer.status != 204:
            raise _transient(exchange.refusal(answer, f"upload of {self.digest} cannot be gone on with"))
        return self._reached(answer, 0), self._location(answer)

    def _finish(self, location: str) -> None:
        """The PUT that names the digest; small content goes with it."""
        url = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': self.digest})}"
        span = (0, self.size) if self.size <= SINGLE_MAX_BYTES else (self.size, self.size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(span[1] - span[0])}
        answer = self._call("PUT", url, headers, span)
        if answer.status == 201:
            answer.close()
            return
        said = self._refused(answer)
        if answer.status in exchange.RETRIED:
            raise _transient(said)
        if said.code == "DIGEST_INVALID":
            raise DigestMismatch(said.message, value=self.digest, hint="the content was damaged on its way or in the store")
        raise said

    def _refused(self, answer: Answer) -> RegistryError:
        """The error of an answer; Transient for an upload that the registry has lost, or lost count of by a break.

        A registry that was still storing what came before the break refuses what it has just told to go on with.
        """
        said = exchange.refusal(answer, f"upload of {self.digest}")
        lost = said.code == "BLOB_UPLOAD_UNKNOWN" or (self.broken and said.code in LOST_COUNT)
        return _transient(said) if lost else said

    def _cancel(self, location: str) -> None:
        """Takes an upload back; "" is none."""
        if not location:
            return
        operation = Operation()  # of its own: the caller's may be cancelled
        timer = threading.Timer(TAKE_BACK_S, operation.cancel.set)
        timer.daemon = True
        timer.start()
        with suppress(RegistryError, Cancelled, OSError), operation.watched():
            self.site.call(operation, "DELETE", location, scopes=self.scopes, retry=False).close()
        timer.cancel()

    def _call(self, method: str, target: str, headers: dict[str, str], span: tuple[int, int] | None = None) -> Answer:
        """One call; only those without content are tried again as they are."""
        start, end = span or (0, 0)

        def body() -> bytes | Readable:
            return Piece(self.fd, start, end, self.sent, self.operation) if end > start else b""

        return self.site.call(self.operation, method, target, scopes=self.scopes, headers=headers,
                              body=body if span else None, retry=span is None)

    def _location(self, answer: Answer) -> str:
        answer.close()
        location = answer.headers.get("Location", "")
        if not location:
            raise RegistryError(f"{self.site.endpoint.host} gave no Location for the upload of {self.digest}",
                                value=self.site.endpoint.host)
        return exchange.resolve(answer.url, location)

    def _reached(self, answer: Answer, otherwise: int) -> int:
        """Bytes the registry has by its Range header: `0-N` inclusive; `0-0` is also how an empty upload is written."""
        match = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
        if not match:
            return otherwise
        reached = int(match[1]) + 1
        return 0 if reached == 1 else min(reached, self.size)


def _transient(said: RegistryError) -> Transient:
    """The same, for an upload that is worth beginning anew."""
    return Transient(said.message, http_status=said.http_status, code=said.code, value=said.value, hint=said.hint)
