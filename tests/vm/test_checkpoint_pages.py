"""Memory that does not lie with the images: a page server takes it at the checkpoint, or serves it after the restore."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.system.runtime import finish, reap, wait_until
from tests.vm.counter import COUNTER, SLOW_S, checkpoint, count, logs, passes, restored, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.system


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def criu(*words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """criu beside the runtime; it is ended when it has not ended by itself."""
    call = subprocess.Popen(["criu", *words], stdin=subprocess.DEVNULL)
    try:
        yield call
        call.wait(SLOW_S)
    finally:
        call.kill()
        call.wait()


def test_page_server(runtime, make_bundle, tmp_path):
    """The pages are sent to another folder as if it were another host; with them the images are complete."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    bundle, out, images, pages = make_bundle(COUNTER), tmp_path / "out", tmp_path / "images", tmp_path / "pages"
    pages.mkdir()
    port = free_port()
    with started(runtime, bundle, out) as first:
        passes(bundle, 2)
        with criu("page-server", "--address", "127.0.0.1", "--port", str(port), "--images-dir", pages):
            wait_until(lambda: listens(port), "the page server listens", SLOW_S)
            checkpoint(runtime, first, images, "--page-server", f"127.0.0.1:{port}")
    assert not [path.name for path in images.glob("pages-*.img")]
    for path in [*pages.glob("pages-*.img"), *pages.glob("pagemap-*.img")]:
        shutil.move(path, images / path.name)
    before = count(bundle)
    with restored(runtime, bundle, images, out):
        passes(bundle, before)


def listens(port: int) -> bool:
    """Looked up, because the server serves one connection alone."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        return any(f"0100007F:{port:04X} 00000000:0000 0A" in line for line in file)


def test_lazy_pages(runtime, make_bundle, tmp_path):
    """checkpoint stays until all pages are served; the container runs before it has them."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    bundle, out, images, work = make_bundle(COUNTER), tmp_path / "out", tmp_path / "images", tmp_path / "work"
    images.mkdir()
    work.mkdir()
    port = free_port()
    with started(runtime, bundle, out) as first:
        passes(bundle, 2)
        ready, told = os.pipe()
        with out.open("ab") as file:
            dump = runtime.popen("checkpoint", "--image-path", images, "--lazy-pages", "--page-server", f"127.0.0.1:{port}",
                                 "--status-fd", told, first, stdout=file, stderr=file, pass_fds=(told,))  # fmt: skip
        os.close(told)
        assert select.select([ready], [], [], SLOW_S)[0], logs(images)
        assert os.read(ready, 1) == b"\0", f"{out.read_text()}\n{logs(images)}"
        os.close(ready)
        before = count(bundle)
        with (
            criu("lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", str(port), "--images-dir", images,
                 "--work-dir", work),
            restored(runtime, bundle, images, out, "--lazy-pages", "--work-path", str(work)),
        ):
            wait_until((work / "lazy-pages.socket").exists, "the server of lazy pages", SLOW_S)
            passes(bundle, before)
            assert finish(dump, SLOW_S) == 0, logs(images, work)
            reap()
        assert "does not exist" in runtime("state", first).err
