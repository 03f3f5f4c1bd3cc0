"""The host's end of the socket to container-init: what it said is read, however it ended."""

from __future__ import annotations

from contextlib import closing
from posix import close
from struct import pack

from pyruntime.native import kernel
from pyruntime.native.init import HEAD, Link
from pyruntime.plan.opcodes import MESSAGES


def test_an_error_is_told_although_something_of_ours_was_not_read() -> None:
    """init ends at a bad descriptor list with more of them in its queue: the kernel says "connection reset" first."""
    with closing(Link()) as link:
        for _ in range(2):
            link.release(1)
        kernel.send(link.remote, pack(HEAD, MESSAGES["ERROR"], -1, 71, 0) + b"why")
        close(link.remote)
        link.remote = -1
        said = [link.receive(timeout_ms=1000), link.receive(timeout_ms=1000), link.receive(timeout_ms=1000)]
    assert [(message.type, message.errno, message.payload) for message in said] == [
        ("ERROR", 71, b"why"), ("EOF", 0, b""), ("EOF", 0, b"")]  # fmt: skip
