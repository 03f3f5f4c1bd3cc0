"""Content of a known digest as a stream that survives broken connections and broken endpoints.

The stream goes on where it broke with `Range: bytes=N-`. A server that answers 200 to that sends all of it again: the
first N bytes are passed over, the digest at the end tells whether they were the same. A Content-Range that begins
elsewhere is an error. As long as bytes arrive the attempts are counted anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyruntime.errors import DigestMismatch, RegistryError
from pyruntime.image.registry import exchange
from pyruntime.image.registry.http import Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyruntime.image.registry.exchange import RetryPolicy
    from pyruntime.image.registry.http import Answer, Operation

    Ask = Callable[[dict[str, str]], Answer]  # one endpoint: request headers to the final answer of the blob's GET

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def read_blob(operation: Operation, policy: RetryPolicy, endpoints: list[Ask], digest: str, size: int,
              offset: int = 0) -> Iterator[bytes]:
    """Bytes from `offset` to `size`, from the first endpoint that has them; the rest of a broken one from the next.

    Size is checked here, the digest is the caller's to check. Raises DigestMismatch for a body that is too long,
    RegistryError of the last endpoint, Cancelled.
    """
    at = offset
    problem: RegistryError | DigestMismatch | None = None
    for ask in endpoints if at < size else ():
        failed = 0
        while failed < policy.attempts:
            before = at
            try:
                for data in _body(ask, digest, size, at):
                    at += len(data)
                    yield data
            except Transient as error:
                problem, failed = error, 1 if at > before else failed + 1
                operation.sleep(policy.delay(failed - 1))
            except (RegistryError, DigestMismatch) as error:
                problem = error
                break
            else:
                return
    if problem is not None:
        raise problem


def _body(ask: Ask, digest: str, size: int, at: int) -> Iterator[bytes]:
    """One answer's bytes from `at` on. Raises Transient when they end early, RegistryError when there are none."""
    try:
        answer = ask({"Accept-Encoding": "identity", **({"Range": f"bytes={at}-"} if at else {})})
    except Transient as error:  # tried often enough
        raise RegistryError(error.message, value=error.value, hint=error.hint) from error
    if answer.status not in {200, 206}:
        raise exchange.refusal(answer, f"blob {digest}")
    with answer:
        begin = _begin(answer, at, size, digest)
        for data in answer.chunks():
            end = begin + len(data)
            if end > size:
                raise DigestMismatch(f"blob {digest} is longer than the {size} bytes its descriptor says", value=digest)
            if end > at:
                yield data[at - begin :] if begin < at else data
                at = end
            begin = end
    if begin < size:
        raise Transient(f"blob {digest} ended after {begin} of {size} bytes", value=digest)


def _begin(answer: Answer, at: int, size: int, digest: str) -> int:
    """Where the body begins. Raises RegistryError for another range than was asked for, DigestMismatch for a wrong size."""
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not match or int(match[1]) != at:
            said = answer.headers.get("Content-Range", "no Content-Range")[:80]
            raise RegistryError(f"blob {digest}: asked for bytes from {at}, answered with {said!r}", http_status=206,
                                value=digest)
        whole = int(match[3]) if match[3] != "*" else size
    else:
        at, whole = 0, answer.length if answer.length >= 0 else size
    if whole != size:
        raise DigestMismatch(f"blob {digest} has {whole} bytes, its descriptor says {size}", value=digest)
    return at
