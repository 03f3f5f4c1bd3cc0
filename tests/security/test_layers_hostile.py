"""Hostile layers, against the real helper: every numbered escape of images-and-build 5, with the host looked at after."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

from pyruntime.errors import UnpackError
from pyruntime.image.unpack import HELPER, LayerUnpack, Limits
from tests.image.trees import (
    END,
    Entry,
    describe,
    directory,
    file,
    hard_link,
    header,
    layer,
    pax,
    symlink,
    unpack,
)

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def host(tmp_path, own_etc):
    """Folders beside the target that stand for the host, and /etc; checked afterwards."""
    beside = tmp_path / "host"
    (beside / "etc").mkdir(parents=True)
    (beside / "etc" / "passwd").write_text("root")
    os.mkfifo(beside / "fifo")
    before = (describe(beside), sorted(os.listdir(tmp_path)), known("/etc/passwd"), sorted(os.listdir("/")), mounts(tmp_path))
    yield beside
    (tmp_path / "t").mkdir(exist_ok=True)
    after = (describe(beside), sorted({*os.listdir(tmp_path)} - {"t"}), known("/etc/passwd"), sorted(os.listdir("/")), mounts(tmp_path))
    assert before == after


@pytest.fixture
def aside(tmp_path_factory):
    """A folder for what a test itself writes."""
    return tmp_path_factory.mktemp("aside")


def mounts(place: Path) -> int:
    """How many there are below a place in this process's namespace."""
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8").count(f" {place}/")


def known(path: str) -> tuple[int, ...]:
    """What a write to a file would change."""
    status = os.stat(path)
    return status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns


def refused(data: bytes, target: Path, told: str, mode: str = "overlay") -> None:
    """The layer is an error that says so, and leaves nothing."""
    with pytest.raises(UnpackError, match=told):
        unpack(data, target, mode=mode)
    if mode != "flat":
        assert os.listdir(target) == []


@pytest.mark.parametrize("mode", ["overlay", "flat"])
@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "./../x", "/../x", "a/b/../../../x", "../../../../../../etc/x", "../t/x"])
def test_names_that_leave_the_root(tmp_path, host, name, mode) -> None:
    """S50, escape 1: also as a directory, a link, its target, a whiteout."""
    refused(layer(file(name)), tmp_path / "t", "leaves the root", mode)
    refused(layer(directory(name)), tmp_path / "t", "leaves the root", mode)
    refused(layer(symlink(name, "x")), tmp_path / "t", "leaves the root", mode)
    refused(layer(hard_link("l", name)), tmp_path / "t", "leaves the root", mode)
    refused(pax({b"path": name.encode()}) + header(b"f") + END, tmp_path / "t", "leaves the root", mode)
    refused(layer(file(name + "/.wh.x")), tmp_path / "t", "leaves the root", mode)


def test_absolute_names_are_below_the_root(tmp_path, host) -> None:
    """S50, escape 2."""
    unpack(layer(file("/etc/passwd", b"x"), file("//etc//shadow"), hard_link("/l", "/etc/passwd")), tmp_path / "t")
    assert sorted(os.listdir(tmp_path / "t" / "etc")) == ["passwd", "shadow"]
    assert (tmp_path / "t" / "l").read_bytes() == b"x"


@pytest.mark.parametrize("mode", ["overlay", "flat"])
def test_names_through_symlinks_of_the_same_layer(tmp_path, host, mode) -> None:
    """S50, escape 3: followed, but only inside the root."""
    up = "../" * 20
    for number, target in enumerate([str(host / "etc"), "../host/etc", f"{up}{host}/etc", f"/proc/self/root{host}/etc", f"x/../..{host}/etc"]):
        place = tmp_path / "t" / str(number)
        unpack(layer(symlink("d", target), file("d/passwd", b"evil"), file("d/.wh.passwd"), file("d/.wh..wh..opq"),
                     directory("d/sub", mode=0o777, uid=9), symlink("d/l", "x")), place, mode=mode)  # fmt: skip
        found = list(place.rglob("passwd"))
        assert len(found) == 1
        assert found[0].read_bytes() == b"evil"


def test_names_through_symlinks_of_a_lower_layer(tmp_path, host) -> None:
    """S50, escape 3: flat is where a lower layer's link is on the disk; a directory takes its place."""
    unpack(layer(symlink("d", str(host / "etc")), symlink("e", "../host"), symlink("f", str(host / "fifo"))), tmp_path / "t", mode="flat")
    result = unpack(layer(file("d/passwd", b"evil"), file("e/.wh.fifo"), file("e/.wh..wh..opq"), file("f", b"evil"), file(".wh.e")),
                    tmp_path / "t", mode="flat")  # fmt: skip
    assert (tmp_path / "t" / "d" / "passwd").read_bytes() == b"evil"
    assert not (tmp_path / "t" / "d").is_symlink()
    assert (tmp_path / "t" / "f").read_bytes() == b"evil"
    assert len(result.warnings) == 1


def test_entries_replace_links_and_never_write_through_them(tmp_path, host) -> None:
    """S50: a file, fifo, device, link or directory with the name of an earlier symlink or hard link."""
    victim = str(host / "etc" / "passwd")
    for entry in (file("x", b"evil"), Entry("x", tarfile.FIFOTYPE), Entry("x", tarfile.CHRTYPE, devmajor=1, devminor=3),
                  directory("x", mode=0o777, uid=7), symlink("x", "y"), hard_link("x", "other")):  # fmt: skip
        unpack(layer(file("other"), symlink("x", victim), entry), tmp_path / "t" / entry.type.decode())
    unpack(layer(file("keep", b"kept"), hard_link("x", "keep"), file("x", b"evil")), tmp_path / "t" / "hard")
    assert (tmp_path / "t" / "hard" / "keep").read_bytes() == b"kept"


@pytest.mark.parametrize("mode", ["overlay", "flat"])
def test_hard_links_resolve_inside(tmp_path, host, mode) -> None:
    """S50, escape 4: through a symlink to the host there is nothing; a symlink as the target is linked itself."""
    data = layer(symlink("d", str(host / "etc")), hard_link("x", "d/passwd"))
    if mode == "flat":
        refused(data, tmp_path / "t", "not there", mode)
    else:
        assert unpack(data, tmp_path / "t").links == ((b"x", b"d/passwd"),)
        from pyruntime.image.unpack import settle

        with pytest.raises(UnpackError, match="not there"):
            settle([(str(tmp_path / "t"), unpack(data, tmp_path / "t" / "again"))])
    unpack(layer(symlink("s", str(host / "etc" / "passwd")), hard_link("y", "s")), tmp_path / "t" / "own", mode=mode)
    assert (tmp_path / "t" / "own" / "y").is_symlink()


def test_settling_stays_inside_the_layers(tmp_path, host) -> None:
    """S50: links and implied directories are looked for in lower layers whose names lead out."""
    from pyruntime.image.unpack import settle

    unpack(layer(symlink("d", str(host / "etc")), symlink("e", "../host")), tmp_path / "t" / "low")
    above = tmp_path / "t" / "above"
    for name in ("d/passwd", "e/etc/passwd", "d/../../host/etc/passwd"):
        with pytest.raises(UnpackError, match=r"not there|leaves"):
            settle([(str(above), unpack(layer(hard_link("x", name)), above))], [str(tmp_path / "t" / "low")])
        for left in above.iterdir():
            left.unlink()
    result = unpack(layer(file("d/new"), file("e/etc/new")), above)
    warnings = settle([(str(above), result)], [str(tmp_path / "t" / "low")])
    assert stat.S_IMODE((above / "e" / "etc").stat().st_mode) == 0o755
    assert len(warnings) == 2


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("name", [".", "./", "a/..", "/"])
def test_the_root_is_not_replaced(tmp_path, host, kind, name) -> None:
    """S50, escape 8."""
    if kind == tarfile.REGTYPE and name.endswith("/"):
        pytest.skip("needs a name without a slash: an old name that ends in one is a directory")
    refused(layer(file("f"), Entry(name, kind, linkname="/etc", devmajor=1)), tmp_path / "t", "root of the layer is not a directory")


def test_a_symlink_swapped_while_unpacking(tmp_path, host) -> None:
    """S50, escape 9: another process exchanges a directory of the target for a link to the host all the time."""
    target = tmp_path / "t"
    target.mkdir()
    stop = threading.Event()

    def swap() -> None:
        os.symlink(host / "etc", target.parent / "t.link")
        while not stop.is_set():
            try:
                os.rename(target / "d", target.parent / "t.dir")
                os.rename(target.parent / "t.link", target / "d")
                os.rename(target / "d", target.parent / "t.link")
                os.rename(target.parent / "t.dir", target / "d")
            except OSError:
                time.sleep(0)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        body = io.BytesIO()
        with tarfile.open(fileobj=body, mode="w") as archive:
            archive.addfile(directory("d"))
            for number in range(3000):
                archive.addfile(file(f"d/{number}"))
                if number % 100 == 0:  # closes what the cache holds open
                    archive.addfile(directory("d"))
        try:
            unpack(body.getvalue(), target)
        except UnpackError:
            pass
    finally:
        stop.set()
        swapper.join()
        for name in ("t.link", "t.dir"):
            subprocess.run(["rm", "-rf", tmp_path / name], check=True)
    assert sorted(os.listdir(host / "etc")) == ["passwd"]


@pytest.mark.parametrize(("name", "told"), [
    ("n" * 256, "over 255"), ("a/" + "n" * 256 + "/b", "over 255"), ("d/" * 2100 + "f", "4094|255"), ("x" * 200000, "255"),
], ids=["component", "inner", "depth", "huge"])  # fmt: skip
def test_names_that_are_too_long(tmp_path, host, name, told) -> None:
    """S50, S51, escape 10."""
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        refused(layer(file(name), form=form), tmp_path / "t", told)


def test_depth_by_symlinks(tmp_path, host) -> None:
    """S50, escape 10: a path that grows past every limit by links, and links in a circle."""
    deep = ("d" * 200 + "/") * 15
    entries = [directory(deep), symlink("s", deep), symlink("s/t", "/" + deep)]
    refused(layer(*entries, file("s/" + ("e" * 200 + "/") * 6 + "f")), tmp_path / "t", "4094")
    refused(layer(symlink("a", "b"), symlink("b", "a"), file("a/f")), tmp_path / "t", "too many symlinks")
    unpack(layer(*entries), tmp_path / "t")
    unpack(layer(directory("d/" * 600), file("d", b"in its place")), tmp_path / "t" / "replaced")
    assert (tmp_path / "t" / "replaced" / "d").read_bytes() == b"in its place"
    refused(layer(directory("d/" * 600), file("..")), tmp_path / "t" / "removed", "leaves the root")


def test_more_entries_than_the_limit(tmp_path, host) -> None:
    """S51, escape 10: millions of entries end early, in bounded memory."""
    one = header(b"f")
    with pytest.raises(UnpackError, match="more entries than the limit of 1000"):
        unpack(one * 100_000, tmp_path / "t", limits=Limits(entries=1000))
    assert os.listdir(tmp_path / "t") == []


def made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_bombs(tmp_path, host) -> None:
    """S51: total and ratio are bounded; nothing stays."""
    zeros = header(b"f", size=1 << 30)
    body = io.BytesIO()
    with gzip.GzipFile(fileobj=body, mode="wb", compresslevel=1) as writer:
        writer.write(zeros)
        for _ in range(64):
            writer.write(bytes(1 << 20))
    for data in (body.getvalue(), lzma.compress(zeros + bytes(64 << 20), preset=0)):
        for limits, told in ((Limits(total_bytes=32 << 20), "more than the limit of|larger than the limit"),
                             (Limits(ratio=50, ratio_from=1 << 20), "50 times")):  # fmt: skip
            with pytest.raises(UnpackError, match=told):
                unpack(data, tmp_path / "t", limits=limits)
            assert os.listdir(tmp_path / "t") == []
    hole = pax({b"GNU.sparse.size": b"%d" % (1 << 60), b"GNU.sparse.map": b"0,0"}) + header(b"f")
    refused(hole + END, tmp_path / "t", "larger than the limit")


def test_a_full_file_system_leaves_nothing(tmp_path, host) -> None:
    """S51: ENOSPC is one line with a hint, and the target is empty."""
    target = made(tmp_path / "t")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "full", target], check=True)
    try:
        with pytest.raises(UnpackError, match=r"'b': No space left on device") as caught:
            unpack(layer(file("a", b"x" * (1 << 20)), file("b", b"x" * (2 << 20))), target)
        assert "nothing of the layer was kept" in caught.value.hint
        assert os.listdir(target) == []
    finally:
        subprocess.run(["umount", target], check=True)


def broken_off(data: bytes, target: Path, call) -> None:
    """A layer whose caller does something in between."""
    with LayerUnpack(str(target)) as one:
        one.write(data)
        call(one)
        one.finish()


def test_leaving_early_and_dying_leave_nothing(tmp_path, host) -> None:
    """S51: an exception of the caller, a helper that is killed, a blob cut short."""
    data = layer(file("a", b"x" * 5000), directory("d"), file("d/f"))
    made(tmp_path / "t")
    with pytest.raises(KeyError):
        broken_off(data, tmp_path / "t", lambda one: {}[one])
    assert os.listdir(tmp_path / "t") == []
    with pytest.raises(UnpackError, match="helper process died"):
        broken_off(data, tmp_path / "t", lambda one: one.started.process.kill())
    assert os.listdir(tmp_path / "t") == []
    with pytest.raises(UnpackError, match="ends inside its gzip data"):
        unpack(gzip.compress(layer(file("a", os.urandom(9000))))[:-2000], tmp_path / "t")


# What the helper may still do once it is confined: run in its place, on the same settings.
PROBE = """
import errno, os, posix, socket, sys
sys.argv[1:] = [word for word in sys.argv[1:]]
sys.path[:0] = [{folder!r}]
import ctypes, importlib.util, signal, subprocess
spec = importlib.util.spec_from_file_location("helper", {helper!r})
helper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helper)
job = helper.Job(sys.argv[1:])
helper.limit_resources(job.resource)
root = job.confine()
libc = ctypes.CDLL(None, use_errno=True)
told = []
def attempt(name, call):
    try:
        call()
        told.append(name)
    except (OSError, ImportError) as error:
        pass
def sysc(*words):
    def call():
        if libc.syscall(*words) < 0:
            raise OSError(ctypes.get_errno(), "syscall")
    return call
attempt("fork", lambda: posix.fork() or posix._exit(0))
attempt("exec", lambda: posix.execv("/bin/true", ["true"]))
attempt("socket", lambda: socket.socket(socket.AF_UNIX))
attempt("kill", lambda: posix.kill({pid}, 0))
attempt("import", lambda: __import__("decimal"))
attempt("host", lambda: posix.stat("/etc/passwd"))
attempt("proc", lambda: posix.stat("/proc"))
attempt("up", lambda: posix.stat("../../../../etc/passwd"))
attempt("chroot", lambda: posix.chroot("."))
attempt("mount", sysc(165, b"x", b"/", b"tmpfs", 0, 0))
attempt("unshare", sysc(272, 0x10000000))
attempt("ptrace", sysc(101, 16, {pid}, 0, 0))
attempt("bpf", sysc(321, 0, 0, 0))
attempt("handle", sysc(304, root, b"x" * 32, 0))
attempt("module", sysc(175, 0, 0, b""))
attempt("executable memory", sysc(9, 0, 4096, 7, 0x22, -1, 0))
attempt("setuid", lambda: posix.setuid(1000))
posix.mknod("disk", 0o60660, posix.makedev(259, 0))
attempt("open a device", lambda: posix.open("disk", posix.O_RDONLY))
attempt("write a file", lambda: posix.close(posix.open("file", posix.O_CREAT | posix.O_WRONLY)))
attempt("see itself", lambda: told.append(",".join(sorted(posix.listdir("/")))))
posix.close(0)
posix.write(job.status, b"Z" + ";".join(told).encode() + b"\\0")
posix._exit(0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs x86_64: system calls by number")
def test_what_the_confined_helper_may_do(tmp_path, host, aside, monkeypatch) -> None:
    """S52, S4: files below its root and nothing else: no process, program, import, socket, mount, device, host."""
    probe = aside / "probe.py"
    probe.write_text(PROBE.format(helper=HELPER, folder=os.path.dirname(os.__file__), pid=os.getpid()))
    monkeypatch.setattr("pyruntime.image.unpack.HELPER", str(probe))
    with pytest.raises(UnpackError) as caught:
        unpack(b"", tmp_path / "t")
    assert str(caught.value).removeprefix("unpacking layer: ").split(";") == ["write a file", "disk,file", "see itself"]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def test_the_helper_as_the_kernel_sees_it(tmp_path, host) -> None:
    """S52: no new privileges, a filter, seven capabilities, its own root, three descriptors and the target's."""
    with LayerUnpack(str(made(tmp_path / "t"))) as one:
        one.write(layer(file("f"))[:1024])
        pid = one.started.process.pid
        deadline = time.monotonic() + 60
        while not (tmp_path / "t" / "f").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        status = status_of(pid)
        assert (status["NoNewPrivs"], status["Seccomp"], status["CapInh"], status["CapAmb"]) == ("1", "2", "0" * 16, "0" * 16)
        kept = sum(1 << bit for bit in (0, 1, 3, 4, 21, 27, 31))
        assert int(status["CapPrm"], 16) | kept == kept
        assert status["CapBnd"] == "0" * 16
        assert os.path.samefile(f"/proc/{pid}/root", tmp_path / "t")
        assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        mounted = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8").splitlines()
        assert len(mounted) == 1
        assert {"nosuid", "nodev", "noexec"} <= set(mounted[0].split()[5].split(","))
        opened = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
        assert {text.partition(":")[0] for text in opened} == {"pipe", "socket", "/dev/null", "/"}
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""


def test_no_program_of_the_target_or_the_path_is_run(tmp_path, host, aside, monkeypatch) -> None:
    """S52: decompressors are code of this process, whatever PATH and the layer offer (CVE-2026-41567)."""
    fake = made(aside / "bin")
    for name in ("gzip", "igzip", "zstd", "xz", "bzip2", "tar"):
        (fake / name).write_text(f"#!/bin/sh\ntouch {aside}/ran\n")
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(fake))
    for number, data in enumerate((gzip.compress, lzma.compress)):
        unpack(data(layer(file("usr/lib/python3/encodings.py", b"x"))), tmp_path / "t" / str(number))
    assert not (aside / "ran").exists()


def test_a_plain_interpreter_cannot_be_turned_by_its_environment(tmp_path, host, aside, monkeypatch) -> None:
    """S52: PYTHONPATH and PYTHONSTARTUP do not reach the helper."""
    (aside / "hashlib.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(aside))
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent")
    assert unpack(layer(file("f")), tmp_path / "t").entries == 1
