"""What tests of checkpoint and restore have in common: a counter, calls that have to succeed, criu's own words."""

from __future__ import annotations

import json
import os
import select
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.runtime import Result, finish, reap, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

SLOW_S = 100
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.2; done"


def count(bundle: Bundle) -> int:
    """How far the counter in the bundle's rootfs has come."""
    try:
        return int((bundle.rootfs / "tmp/count").read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0


def passes(bundle: Bundle, number: int) -> int:
    """Wait until the counter is beyond `number`; what it is then."""
    wait_until(lambda: count(bundle) > number, f"counter beyond {number}", SLOW_S)
    return count(bundle)


class Console:
    """A console socket: the master ends of terminals arrive at it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "console.sock")
        self.socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self.socket.bind(self.path)
        self.socket.listen()
        self.socket.settimeout(SLOW_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def master(self) -> int:
        """The next one."""
        connection, _ = self.socket.accept()
        with connection:
            return socket.recv_fds(connection, 64, 1)[1][0]


def read_until(fd: int, text: bytes) -> None:
    """Read from a terminal until it has said `text`."""
    seen = b""
    while text not in seen:
        assert select.select([fd], [], [], SLOW_S)[0], seen
        seen += os.read(fd, 4096)


def logs(*folders: Path) -> str:
    """The errors of criu's logs with what stands before them, for a failed call."""
    found = []
    for path in [path for folder in folders for path in folder.glob("*.log")]:
        lines = path.read_text(errors="replace").splitlines()
        bad = [number for number, line in enumerate(lines) if "Error" in line or "Warn" in line]
        keep = sorted({near for number in bad for near in range(max(0, number - 6), number + 1)})
        found += [f"--- {path.name}", *(lines[number] for number in keep)]
    return "\n".join(found)


def must(result: Result, *folders: Path) -> None:
    """Fails with criu's words when the call has failed."""
    if result.code:
        pytest.fail(f"{result}\n{logs(*folders)}", pytrace=False)


@contextmanager
def started(runtime: Runtime, bundle: Bundle, out: Path, *flags: str) -> Iterator[str]:
    """The id of a container that runs detached and writes to `out`; deleted at the end."""
    name = runtime.new_id()
    try:
        with out.open("ab") as file:
            call = runtime.popen("run", "--detach", "-b", bundle.path, *flags, name, stdout=file, stderr=file)
            assert finish(call, SLOW_S) == 0, out.read_text()
        yield name
    finally:
        deleted = runtime("delete", "--force", name, timeout_s=SLOW_S)
        reap()
    assert deleted.code == 0, deleted


def checkpoint(runtime: Runtime, name: str, images: Path, *flags: str) -> None:
    """A checkpoint that has to succeed."""
    must(runtime("checkpoint", "--image-path", images, *flags, name, timeout_s=SLOW_S), images)
    reap()


@contextmanager
def restored(runtime: Runtime, bundle: Bundle, images: Path, out: Path, *flags: str) -> Iterator[str]:
    """The id of a container restored detached that writes to `out`; deleted at the end."""
    name = runtime.new_id()
    try:
        with out.open("ab") as file:
            call = runtime.popen("restore", "--detach", "-b", bundle.path, "--image-path", images, *flags, name,
                                 stdout=file, stderr=file)  # fmt: skip
            must(Result(finish(call, SLOW_S), "", out.read_text()), images)
        yield name
    finally:
        deleted = runtime("delete", "--force", name, timeout_s=SLOW_S)
        reap()
    assert deleted.code == 0, deleted


def state(runtime: Runtime, name: str) -> dict[str, Any]:
    """The answer of `state`."""
    return dict(json.loads(runtime("state", name).out))
