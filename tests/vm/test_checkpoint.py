"""checkpoint and restore with criu, on the kernel that Debian's criu was made for."""

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

pytestmark = pytest.mark.system
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


@pytest.mark.representative
def test_counter_survives(runtime, make_bundle, tmp_path):
    data, images, out = tmp_path / "data", tmp_path / "images", tmp_path / "out"
    data.mkdir()
    (data / "word").write_text("bound")
    bundle = make_bundle(f"echo one; {COUNTER}; echo end", {
        "linux.resources": {"pids": {"limit": 31}}, "linux.maskedPaths": ["/proc/keys", "/etc/group", "/sys"],
        "linux.readonlyPaths": ["/proc/sys"]})  # fmt: skip
    bundle.add_mounts({"destination": "/mnt/data", "source": str(data), "options": ["rbind", "ro"]})
    with started(runtime, bundle, out) as first:
        passes(bundle, 2)
        checkpoint(runtime, first, images)
        assert "does not exist" in runtime("state", first).err
    before = count(bundle)
    (bundle.rootfs / "mnt/data").rmdir()  # made again by restore
    with restored(runtime, bundle, images, out, "--pid-file", str(tmp_path / "pid")) as name:
        after = passes(bundle, before)
        assert after < before + 1000
        found = state(runtime, name)
        assert found["status"] == "running"
        assert (tmp_path / "pid").read_text() == str(found["pid"])
        script = "cat /mnt/data/word; cat /etc/group; ls /sys; touch /mnt/data/x 2>/dev/null || echo read-only"
        seen = runtime("exec", name, "sh", "-c", script, timeout_s=SLOW_S)
        assert seen.out == "boundread-only\n", seen
        cgroup = Path(f"/proc/{found['pid']}/cgroup").read_text().strip().partition("::")[2]
        assert cgroup.endswith(name)
        assert Path(f"/sys/fs/cgroup{cgroup}/pids.max").read_text() == "31\n"
        runtime("kill", name, "KILL")
    assert out.read_text() == "one\n"


def test_pre_dump_leave_running_and_parent(runtime, make_bundle, tmp_path):
    bundle, out = make_bundle(COUNTER), tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        checkpoint(runtime, first, tmp_path / "pre", "--pre-dump")
        assert state(runtime, first)["status"] == "running"
        passes(bundle, count(bundle))
        checkpoint(runtime, first, tmp_path / "full", "--parent-path", "../pre", "--leave-running", "--work-path",
                   str(tmp_path / "work"))  # fmt: skip
        assert (tmp_path / "work/dump.log").exists()
        assert state(runtime, first)["status"] == "running"
        passes(bundle, count(bundle))
    before = count(bundle)
    with restored(runtime, bundle, tmp_path / "full", out):
        passes(bundle, 1)
        wait_until(lambda: count(bundle) != before, "the restored counter writes", SLOW_S)


def test_foreground_restore_has_the_exit_code(runtime, make_bundle, tmp_path):
    bundle, images, out = make_bundle("while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7"), tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        checkpoint(runtime, first, images)
    name = runtime.new_id()
    with out.open("ab") as file:
        call = runtime.popen("restore", "-b", bundle.path, "--image-path", images, name, stdout=file, stderr=file)
        wait_until(lambda: name in runtime.ids() and runtime("state", name).code == 0, "restored", SLOW_S)
        (bundle.rootfs / "tmp/go").touch()
        assert finish(call, SLOW_S) == 7, logs(images)
    assert runtime.ids() == []


def test_failures_leave_what_was(runtime, make_bundle, tmp_path):
    bundle, images, out = make_bundle(COUNTER), tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        failed = runtime("checkpoint", "--image-path", images, "--parent-path", "../none", first, timeout_s=SLOW_S)
        assert failed.code == 1
        assert "--parent-path ../none" in failed.message
        assert state(runtime, first)["status"] == "running"
        checkpoint(runtime, first, images)
    for image in images.glob("core-*.img"):
        image.write_bytes(b"damaged")
    name = runtime.new_id()
    with out.open("ab") as file:
        call = runtime.popen("restore", "-b", bundle.path, "--image-path", images, name, stdout=file, stderr=file)
        assert finish(call, SLOW_S) == 1
    assert "criu failed: type RESTORE" in out.read_text()
    assert runtime.ids() == []


def test_terminal(runtime, make_bundle, tmp_path):
    bundle = make_bundle("while read line; do echo got $line; done", {"process.terminal": True})
    images, out = tmp_path / "images", tmp_path / "out"
    with Console(tmp_path) as console:
        with started(runtime, bundle, out, "--console-socket", console.path) as first:
            master = console.master()
            os.write(master, b"a\n")
            read_until(master, b"got a")
            checkpoint(runtime, first, images)
            os.close(master)
        with restored(runtime, bundle, images, out, "--console-socket", console.path):
            master = console.master()
            os.write(master, b"b\n")
            read_until(master, b"got b")
            os.close(master)
