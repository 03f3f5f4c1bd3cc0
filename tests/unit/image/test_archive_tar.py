"""Archives as streams: what GNU tar and tarfile write is read, what we write they read, damage is named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.errors import InvalidImage
from pyruntime.image import archive_inflate
from pyruntime.image.archive_inflate import inflating
from pyruntime.image.archive_tar import HEADER_MAX_BYTES, Entry, TarReader, TarWriter, _make_header, _pax_records
from pyruntime.image.config import check_layers, parse_config
from tests.image_samples import archive, config, contents, sha

try:
    from compression import zstd
except ImportError:
    from backports import zstd


def entries(data: bytes, step: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    """All of an archive; the source gives at most `step` bytes at a time."""
    source = io.BytesIO(data)
    reader = TarReader(lambda size: source.read(min(size, step)))
    return [(entry, b"".join(reader.chunks())) for entry in reader]


def tar(members: list[tuple[str, bytes | str]], format_: int = tarfile.PAX_FORMAT) -> bytes:
    """bytes: a file, text: a symlink, name/: a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


LONG = "d/" * 60 + "é" * 80
MEMBERS = [("a", b"x" * 1000), ("dir/", b""), ("dir/b", b""), (LONG, b"long"), ("link", "../" * 60 + "target"), ("z", b"1" * 512)]


@pytest.mark.parametrize("step", [1, 7, 512, 1 << 20])
@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(format_, step):
    members = [m for m in MEMBERS if format_ != tarfile.USTAR_FORMAT or (len(m[0]) < 100 and not isinstance(m[1], str))]
    kinds = {bytes: "file", str: "symlink"}
    found = entries(tar(members, format_), step)
    assert [(e.name.rstrip("/"), content) for e, content in found] == [
        (name.rstrip("/"), b"" if isinstance(content, str) else content) for name, content in members]  # fmt: skip
    assert [e.kind for e, _ in found] == ["directory" if n.endswith("/") else kinds[type(c)] for n, c in members]
    assert [e.target for e, _ in found if e.kind == "symlink"] == [c for _, c in members if isinstance(c, str)]


def test_gnu_tar(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("content")
    (tmp_path / "in/hard").hardlink_to(tmp_path / "in/file")
    data = subprocess.run(["tar", "-C", str(tmp_path), "--sort=name", "-cf", "-", "in"], capture_output=True, check=True).stdout
    assert [(e.name, e.kind, e.target, c) for e, c in entries(data)] == [
        ("in/", "directory", "", b""), ("in/file", "file", "", b"content"), ("in/hard", "hardlink", "in/file", b"")]  # fmt: skip


def test_what_is_written_is_read_by_others(tmp_path):
    out = io.BytesIO()
    writer = TarWriter(out.write)
    writer.directory("blobs")
    writer.file("blobs/a", b"x" * 700)
    writer.stream("b", 5, iter((b"12", b"345")))
    writer.file("c", b"")
    writer.close()
    assert [(e.name, c) for e, c in entries(out.getvalue())] == [("blobs/", b""), ("blobs/a", b"x" * 700), ("b", b"12345"), ("c", b"")]
    listed = subprocess.run(["tar", "-tvf", "-"], input=out.getvalue(), capture_output=True, check=True)
    assert listed.stderr == b""
    assert b"drwxr-xr-x 0/0" in listed.stdout
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.extractfile("b").read() == b"12345"


def test_a_file_of_another_size_is_refused():
    for pieces in ((b"1",), (b"12", b"3")):
        with pytest.raises(InvalidImage, match="another size than 2 bytes"):
            TarWriter(lambda data: None).stream("x", 2, iter(pieces))


def test_huge_sizes_are_written_and_read():
    header = _make_header("big", b"0", 1 << 40, 0o644)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 1 << 40
    source = io.BytesIO(header)
    assert next(iter(TarReader(source.read))).size == 1 << 40


def patched(at: int, data: bytes, name: str = "a") -> bytes:
    block = bytearray(_make_header(name, b"0", 0, 0o644))
    block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


def pax(record: bytes) -> bytes:
    return _make_header("p", b"x", len(record), 0o644) + record.ljust(-(-len(record) // 512) * 512, b"\0") + _make_header("a", b"0", 0, 0o644) + bytes(1024)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"),
    (b"x" * 512, "checksum|number"),
    (b"x" * 100, "is cut short"),
    (tar([("a", b"x" * 600)])[:700], "cut short inside of an entry"),
    (patched(124, b"\xff" * 12), "size -1"),
    (patched(124, b"\x80" + b"\xff" * 11), "an entry of size 309485009821345068724781055"),
    (patched(156, b"S"), "unknown kind"),
    (patched(156, b"Z"), "unknown kind"),
    (patched(124, b"99999999999\0"), "a number of a header cannot be read"),
    (pax(b"5 a=b\n"), "PAX record"),
    (pax(b"99 path=x\n"), "PAX record of a wrong length"),
    (pax(b"-1 path=x\n"), "PAX record of a wrong length"),
    (pax(b"9 pathxxx\n"), "PAX record"),
    (pax(b"11 size=-1\n"), "size '-1'"),
    (pax(b"29 size=99999999999999999999\n"), "an entry of size 9999"),
    (pax(b"22 GNU.sparse.major=1\n"), "unknown kind"),
    (_make_header("p", b"x", 2 << 20, 0o644) + bytes(1 << 21), "a header of 2097152 bytes"),
    (_make_header("p", b"L", 8192, 0o644) + b"n" * 8192 + _make_header("a", b"0", 0, 0o644), "name that is too long"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_damage_is_named(data, message):
    with pytest.raises(InvalidImage, match=message):
        entries(data)


def test_too_many_entries(monkeypatch):
    monkeypatch.setattr("pyruntime.image.archive_tar.ENTRIES_MAX", 3)
    with pytest.raises(InvalidImage, match="more than 3 entries"):
        entries(tar([(str(i), b"") for i in range(5)]))


@given(data=st.binary(max_size=3000), at=st.integers(0, 3000))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_damage_gives_one_error_or_an_answer(data, at):
    good = bytearray(tar(MEMBERS))
    good[at : at + len(data)] = data
    try:
        entries(bytes(good))
    except InvalidImage as error:
        assert "\n" not in str(error)


PLAIN = (b"some text, then zeros " + bytes(5000)) * 60
PACKERS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd.compress}


def inflate(data: bytes, step: int = 1 << 20, ask: int = 70_000, **more) -> bytes:
    source = io.BytesIO(data)
    read = inflating(lambda size: source.read(min(size, step)), **more)
    return b"".join(iter(lambda: read(ask), b""))


@pytest.mark.parametrize("step", [1000, 1 << 20])
@pytest.mark.parametrize("ask", [512, 1 << 20])
@pytest.mark.parametrize("kind", PACKERS)
def test_compression(kind, step, ask):
    packed = PACKERS[kind](PLAIN)
    assert inflate(packed, step, ask) == PLAIN
    assert inflate(packed + packed, step, ask) == PLAIN * 2  # several members
    assert inflate(packed + bytes(5000), step, ask) == PLAIN  # padding
    for cut in (1, len(packed) // 2):
        with pytest.raises(InvalidImage, match=f"{kind} compression is damaged"):
            inflate(packed[:-cut], step, ask)
    with pytest.raises(InvalidImage, match="something else follows"):
        inflate(packed + b"garbage", step, ask)
    with pytest.raises(InvalidImage, match="more than 10000 bytes"):
        inflate(packed, step, ask, limit_bytes=10_000)


def test_plain_and_skippable():
    assert inflate(b"plain") == b"plain"
    assert inflate(b"") == b""
    frame = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    assert inflate(frame + zstd.compress(b"data") + frame) == b"data"


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_comes_in_small_pieces(kind):
    packed = PACKERS[kind](bytes(16 << 20))
    source = io.BytesIO(packed)
    read = inflating(source.read)
    assert max(len(piece) for piece in iter(lambda: read(1 << 16), b"")) <= 1 << 16


@pytest.mark.parametrize(("tool", "kind"), [("gzip", "gzip"), ("bzip2", "bzip2"), ("xz", "xz"), ("zstd", "zstd")])
def test_the_usual_tools(tool, kind):
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    mixed = random.Random(kind).randbytes(150_000).hex().encode() + PLAIN  # blocks that pieces of input end in
    packed = subprocess.run([tool, "-c", "-1"], input=mixed, capture_output=True, check=True).stdout
    assert archive_inflate.sniff(packed) == kind
    for ask in (512, 65536):
        for step in (99, 65537, 1 << 20):
            assert inflate(packed, step, ask) == mixed
            with pytest.raises(InvalidImage, match="cut short"):
                inflate(packed[:-9], step, ask)


def test_a_mebibyte_of_small_pax_records_takes_no_time():
    """Of any number of records each byte is looked at a few times."""
    data = b"6 a=b\n" * ((HEADER_MAX_BYTES - 512) // 6)
    began = time.process_time()
    assert _pax_records(data + bytes(100)) == {"a": "b"}
    assert time.process_time() - began < 5
    with pytest.raises(InvalidImage, match="a PAX record of a wrong length"):
        _pax_records(data + b"9 a=b\n")


def test_names_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pyruntime.image.archive_contents.NAMES_MAX", 10_000)
    members = [(f"{number:0200}", b"") for number in range(40)]
    assert contents(archive(members), tmp_path / "a")
    with pytest.raises(InvalidImage, match="names of more than 10000 characters"):
        contents(archive([*members, *((f"l{number}", "x" * 90) for number in range(40))]), tmp_path / "b")


def test_more_layers_than_a_mount_takes():
    with pytest.raises(InvalidImage, match="has 501 layers, more than 500"):
        check_layers(parse_config(config([sha(b"")] * 501)), 501)
    check_layers(parse_config(config([sha(b"")] * 500)), 500)
