"""The parts of unpacking that need no helper: decompression, the answer's words, mount options, id maps."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys

import pytest

from pyruntime.errors import UnpackError
from pyruntime.image import unpack_helper
from pyruntime.image.tar_header import entry_header, record
from pyruntime.image.unpack import IdMaps, LayerUnpack, overlay_options
from pyruntime.image.unpack_helper import Blob, Decompressors, Inflate, Limits, Refused, pieces
from pyruntime.image.unpack_maps import namespace_for
from pyruntime.image.unpack_report import CODES, WARNINGS, implied_paths, read_answer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TAR = b"a tar of some length " * 5_000
KNOWN = Decompressors()


class Given(Blob):
    """A blob in pieces of our choice."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__()
        self.data, self.size = data, size

    def read(self) -> bytes:
        piece, self.data = self.data[: self.size], self.data[self.size :]
        self.count += len(piece)
        return piece


def inflated(data: bytes, size: int = 70_000, known: Decompressors = KNOWN) -> bytes:
    return b"".join(pieces(Given(data, size), known))


SKIPPABLE = b"\x5a\x2a\x4d\x18" + (6).to_bytes(4, "little") + b"ignore"
FORMS = {
    "plain": TAR, "gzip": gzip.compress(TAR, 1), "zstd": zstd.compress(TAR), "bzip2": bz2.compress(TAR), "xz": lzma.compress(TAR, preset=0),
    "gzip members": gzip.compress(TAR[:5000], 1) + gzip.compress(b"", 1) + gzip.compress(TAR[5000:], 1),
    "gzip and zeros": gzip.compress(TAR, 1) + bytes(3000),
    "zeros between": gzip.compress(TAR[:9], 1) + bytes(200_000) + gzip.compress(TAR[9:], 1),
    "zstd frames": zstd.compress(TAR[:70_000]) + SKIPPABLE + zstd.compress(TAR[70_000:]),
    "zstd skippable first": SKIPPABLE + zstd.compress(TAR),
    "xz streams": lzma.compress(TAR[:7], preset=0) + bytes(8) + lzma.compress(TAR[7:], preset=0),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_pieces_of_any_size(form, size) -> None:
    data = FORMS[form]
    if size == 1:
        data = data if len(data) < 50_000 else data[:0]
    assert inflated(data, size) == (TAR if data else b"")


def test_zlib_where_isal_is_not_installed(monkeypatch) -> None:
    plain = Decompressors()
    plain.gzip = Inflate
    for form in ("gzip", "gzip members", "gzip and zeros"):
        assert inflated(FORMS[form], 999, plain) == TAR
    monkeypatch.setitem(sys.modules, "isal", None)
    assert Decompressors().gzip is Inflate


def test_zstd_without_a_library_is_one_clear_line(monkeypatch) -> None:
    monkeypatch.setattr(unpack_helper, "_zstd", lambda: None)
    with pytest.raises(Refused, match="neither compression.zstd nor backports.zstd is installed"):
        inflated(FORMS["zstd"], known=Decompressors())


@pytest.mark.parametrize("form", ["gzip", "zstd", "bzip2", "xz"])
def test_damage_of_every_kind(form) -> None:
    data = FORMS[form]
    with pytest.raises(Refused, match=f"ends inside its {form} data"):
        inflated(data[:-9])
    with pytest.raises(Refused, match=f"decompress as {form}|inside its {form}"):
        inflated(data[:40] + bytes([data[40] ^ 255]) + data[41:-12] + b"x" * 12)
    with pytest.raises(Refused, match=f"{form}"):
        inflated(data + b"junk" * 20)


def test_a_wrong_checksum_of_gzip(monkeypatch) -> None:
    data = FORMS["gzip"]
    monkeypatch.setitem(sys.modules, "isal", None)
    plain = Decompressors()
    assert plain.gzip is Inflate
    for known in (KNOWN, plain):
        with pytest.raises(Refused):
            inflated(data[:-8] + b"\0\0\0\0" + data[-4:], known=known)


def test_limits() -> None:
    limits = Limits(100, 10, 50)
    limits.add(50, 1)
    with pytest.raises(Refused, match="10 times"):
        limits.add(20, 5)
    with pytest.raises(Refused, match="limit of 100 bytes"):
        limits.add(80, 50)


def answer(*texts: bytes) -> bytes:
    return b"".join(text + b"\0" for text in texts)


def test_an_answer_becomes_a_result() -> None:
    told = answer(b"D" + b"ab" * 32, b"S2048", b"R100", b"i0 ", b"i0 d/e", b"i1 f", b"e7", b"b9", b"lnew", b"tlow/f", b"dd", b"w\xffx", b"wy",
                  b"k0 3", b"fdev/null", b"x", b"T1.5 0.5 2000")  # fmt: skip
    result = read_answer(told, "", 5)
    assert (result.diff_id, result.size, result.entries) == ("sha256:" + "ab" * 32, 9, 7)
    assert (implied_paths(result), result.links) == ([b"", b"d/e", b"d/f"], ((b"new", b"low/f"),))
    assert [(one.directory, one.name) for one in result.whiteouts] == [(b"d", b"\xffx"), (b"d", b"y")]
    assert result.warnings == ("'dev/null': devices skipped, they need a privileged user (and 2 more)",)
    assert (result.tar_size, result.blob_size, result.seconds, result.memory_kib) == (2048, 100, 1.5, 2000)


def test_an_error_names_entry_layer_and_what_to_do() -> None:
    with pytest.raises(UnpackError) as caught:
        read_answer(answer(b"D00", b"S0", b"c1 28", b"pusr/bin/\x1bx", b"q"), "sha256:1", 5)
    assert str(caught.value) == "unpacking layer sha256:1: 'usr/bin/\\x1bx': No space left on device"
    assert (caught.value.entry, caught.value.layer) == ("usr/bin/\x1bx", "sha256:1")
    assert "nothing of the layer was kept" in caught.value.hint
    for broken in (b"", answer(b"ZOSError: [Errno 1] own root")):
        with pytest.raises(UnpackError, match=r"helper process died|own root"):
            read_answer(broken, "", 5)


def test_every_code_of_the_extension_has_words() -> None:
    path = os.path.join(os.path.dirname(__file__), "../../../csrc/")
    with open(path + "unpack_tar.h", encoding="utf-8") as file:
        codes = file.read().partition("enum code {")[2].partition("}")[0]
    assert len([line for line in codes.splitlines() if line.strip()]) == len(CODES)
    with open(path + "unpack.h", encoding="utf-8") as file:
        kinds = file.read().partition("enum warning {")[2].partition("}")[0]
    assert kinds.replace(",", " ").split().index("WARNINGS") == len(WARNINGS)


def test_options_of_an_overlay_mount() -> None:
    assert overlay_options(["a:b", "c,d"], "up", "w\\k") == (
        "lowerdir=a\\:b:c\\,d,upperdir=up,workdir=w\\\\k,redirect_dir=off,metacopy=off")  # fmt: skip
    assert overlay_options(["a"], user=True) == "lowerdir=a,userxattr"


def test_a_mode_that_is_none() -> None:
    with pytest.raises(UnpackError, match="'vfs' is none of overlay, overlay-user, flat"):
        LayerUnpack("/nonexistent", mode="vfs")


def test_a_target_that_is_not_there_or_not_empty(tmp_path) -> None:
    with pytest.raises(UnpackError, match="No such file"):
        LayerUnpack(str(tmp_path / "none")).__enter__()
    (tmp_path / "f").touch()
    with pytest.raises(UnpackError, match="not empty"):
        LayerUnpack(str(tmp_path)).__enter__()
    assert (tmp_path / "f").exists()


def test_id_maps() -> None:
    many = namespace_for(IdMaps(((0, 100000, 65536),), ((0, 100000, 65536),)))
    one = namespace_for(IdMaps(((0, 1000, 1),), ((0, 1000, 1),)))
    assert (many.fresh, many.flags, one.flags) == (True, 1, 3)


def test_headers_use_ustar_where_it_will_do() -> None:
    assert len(entry_header(b"d/" * 70 + b"f", b"0", mtime_ns=5 * 10**9)) == 512
    with_pax = entry_header(b"f" * 101, b"0", mtime_ns=-1, owner=(3_000_000, 0), size=1 << 40, link=b"l" * 101)
    for told in (record(b"path", b"f" * 101), record(b"mtime", b"-0.000000001"), record(b"uid", b"3000000"),
                 record(b"size", b"%d" % (1 << 40)), record(b"linkpath", b"l" * 101)):  # fmt: skip
        assert told in with_pax

    assert all(int(record(b"k", b"x" * n).split()[0]) == len(record(b"k", b"x" * n)) for n in range(2000))
    assert b"LIBARCHIVE.xattr.user.a%3Db=AA\n" in entry_header(b"f", b"0", xattrs={"user.a=b": b"\0"})
