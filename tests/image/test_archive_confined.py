"""The helper that takes an archive's compression off: what it gives, what it says of damage, and how it is held."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from backports import zstd

from pyruntime.errors import InvalidImage
from pyruntime.image.archive_confined import inflated
from tests.plain_user import need_readable_checkout

REPOSITORY = Path(__file__).resolve().parents[2]
PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd.compress}
PLAIN = os.urandom(300_000) + bytes(3 << 20) + b"text" * 100_000
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def all_of(data: bytes, *, step: int = 1 << 20, **more) -> bytes:
    source = io.BytesIO(data)
    with inflated(lambda size: source.read(min(step, size)), **more) as read:
        return b"".join(iter(lambda: read(1 << 16), b""))


@pytest.mark.parametrize("kind", PACKERS)
def test_what_comes_out(kind):
    packed = PACKERS[kind](PLAIN)
    assert all_of(packed, step=7000) == PLAIN
    assert all_of(packed + packed) == PLAIN * 2
    cases = [(packed[:-20], "cut short|damaged"), (packed + b"more", "something else follows")]
    if kind != "zstd":  # which has no checksum where nobody asks for it
        cases.append((packed[:100] + b"xxxxxxx" + packed[107:], ""))
    for damaged, said in cases:
        with pytest.raises(InvalidImage, match=f"the archive's {kind} compression is damaged: .*({said})"):
            all_of(damaged)
    with pytest.raises(InvalidImage, match="more than 1000 bytes when unpacked"):
        all_of(packed, limit_bytes=1000)


def greedy_xz() -> bytes:
    """A small file whose header asks for a dictionary of 4 GiB (xz-file-format, 3.1 and 5.3.1)."""
    packed = bytearray(lzma.compress(b"x"))
    size = (packed[12] + 1) * 4
    at = packed.index(b"\x21\x01", 12) + 2
    packed[at] = 40
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    return bytes(packed)


@pytest.mark.parametrize(("data", "said"), [
    (greedy_xz(), "Memory usage limit"),
    (b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x09\0\0x", ""),  # a window of 2 GiB (RFC 8878, 3.1.1.1.2)
], ids=["xz", "zstd"])  # fmt: skip
def test_memory_that_a_header_asks_for_is_not_given(data, said):
    with pytest.raises(InvalidImage, match=f"compression is damaged: .*{said}"):
        all_of(data)


def test_plain_needs_no_process():
    with inflated(io.BytesIO(b"plain").read) as read:
        assert not children()
        assert read(100) == b"plain"
    assert all_of(b"") == b""


def children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def test_how_the_helper_is_held():
    """S52: its root is an empty folder, it may not gain privileges, its calls are filtered, and it goes with its reader."""
    packed = gzip.compress(os.urandom(4 << 20))
    with inflated(io.BytesIO(packed).read) as read:
        assert read(1)
        (pid,) = children()
        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert os.listdir(f"/proc/{pid}/root") == []
        assert os.stat(f"/proc/{pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino
    assert not children()


def test_a_reader_that_leaves_early_leaves_no_process_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with inflated(io.BytesIO(gzip.compress(PLAIN)).read) as read:
        assert read(10)
    assert not children()
    assert os.listdir(tmp_path) == []


def test_a_slow_source_is_waited_for():
    packed, (out, into) = gzip.compress(b"slow" * 1000), os.pipe()

    def trickle() -> None:
        for at in range(0, len(packed), 10):
            os.write(into, packed[at : at + 10])
            time.sleep(0.02)
        os.close(into)

    thread = threading.Thread(target=trickle)
    thread.start()
    with inflated(lambda size: os.read(out, size)) as read:
        assert b"".join(iter(lambda: read(1000), b"")) == b"slow" * 1000
    thread.join()
    os.close(out)


def test_a_plain_user_has_it_too():
    need_readable_checkout()
    script = ("import os, sys, io, gzip; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
              "from pyruntime.image.archive_confined import inflated\n"
              "with inflated(io.BytesIO(gzip.compress(b'text')).read) as read: print(read(100), read(100))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "b'text' b''\n", done
