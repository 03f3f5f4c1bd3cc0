"""Tar entries of every kind as the helper applies them (images-and-build 5, Tar entries to be handled)."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from pyruntime.errors import UnpackError
from pyruntime.image.unpack_report import implied_paths
from tests.image import trees
from tests.image.trees import (
    END,
    describe,
    differences,
    directory,
    file,
    hard_link,
    header,
    layer,
    padded,
    pax,
    record,
    symlink,
    unpack,
)

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tree with what tar can carry, made by the system's own tools."""
    root = tmp_path_factory.mktemp("source")
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"data" * 1000)
    (root / "d" / "empty").touch()
    os.link(root / "d" / "f", root / "linked")
    os.symlink("/etc/passwd", root / "absolute")
    os.symlink("nowhere", root / "dangling")
    os.link(root / "dangling", root / "dangling-too", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(259, 70000))
    (root / "suid").touch()
    os.chown(root / "suid", 1000, 2000)
    (root / "suid").chmod(0o6755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "closed").mkdir(0o700)
    (root / "closed" / "inside").touch(0o400)
    (root / "closed").chmod(0)
    (root / "old").touch()
    os.utime(root / "old", ns=(0, -(10**18) - 5))
    with (root / "sparse").open("wb") as sparse:
        sparse.seek(1 << 20)
        sparse.write(b"middle")
        sparse.truncate(5 << 20)
    os.setxattr(root / "d" / "f", "user.note", b"\0raw\nbytes=")
    os.setxattr(root / "d", "user.dir", b"d")
    os.setxattr(root / "suid", "trusted.note", b"t")
    for path in (root / "d" / "sub", root / "d", root / "sticky", root / "closed"):
        os.utime(path, ns=(10**18, 10**18 + 123456789))
    return root


def tar(source: Path, *words: str) -> bytes:
    """GNU tar's archive of the tree."""
    command = ["tar", "-C", source, "--numeric-owner", "--sort=name", "-cf", "-", *words, "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


def by_tar(data: bytes, target: Path) -> Path:
    """What GNU tar makes of an archive."""
    target.mkdir()
    command = ["tar", "-C", target, "-xpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run(command, check=True, input=data, capture_output=True)
    return target


@pytest.mark.parametrize("words", [
    ["--format=pax", "--xattrs", "-S"],
    ["--format=pax", "--xattrs", "-S", "--sparse-version=0.0"],
    ["--format=pax", "--xattrs", "-S", "--sparse-version=0.1"],
    ["--format=gnu", "-S"],
    ["--format=gnu"],
    ["--format=ustar"],
], ids=" ".join)  # fmt: skip
def test_every_format_gives_what_gnu_tar_gives(tmp_path, source, words) -> None:
    if words == ["--format=ustar"]:  # which has no negative times
        words = [*words, "--exclude=./old"]
    data = tar(source, *words)
    result = unpack(data, tmp_path / "ours")
    assert differences(describe(tmp_path / "ours"), describe(by_tar(data, tmp_path / "theirs"))) == []
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert (result.tar_size, result.blob_size, result.warnings) == (len(data), len(data), ())


def test_v7_has_no_magic_and_directories_by_their_slash(tmp_path) -> None:
    (tmp_path / "source" / "d").mkdir(parents=True)
    (tmp_path / "source" / "d" / "f").write_bytes(b"x" * 700)
    data = tar(tmp_path / "source", "--format=v7")
    unpack(data, tmp_path / "ours")
    assert differences(describe(tmp_path / "ours"), describe(by_tar(data, tmp_path / "theirs"))) == []


def test_holes_stay_holes(tmp_path, source) -> None:
    for number, words in enumerate((["--format=pax"], ["--format=gnu"])):
        unpack(tar(source, "-S", *words), tmp_path / str(number))
        assert (tmp_path / str(number) / "sparse").stat().st_blocks * 512 < 1 << 20


def test_many_pieces_need_extension_blocks(tmp_path) -> None:
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "s").open("wb") as sparse:
        for at in range(100):
            sparse.seek(at << 17)
            sparse.write(b"piece %d" % at)
    for form in ("pax", "gnu"):
        unpack(tar(tmp_path / "source", "-S", f"--format={form}"), tmp_path / form)
        assert (tmp_path / form / "s").read_bytes() == (tmp_path / "source" / "s").read_bytes()


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_long_names(tmp_path, form) -> None:
    deep = "/".join(["n" * 70] * (2 if form == "ustar" else 14)) + "/" + "f" * (40 if form == "ustar" else 200)
    source = tmp_path / "source"
    (source / deep).parent.mkdir(parents=True)
    (source / deep).write_text("deep")
    if form != "ustar":
        os.symlink("t" * 1000, source / "long-link")
        os.link(source / deep, source / "z-hard")
    data = tar(source, f"--format={form}")
    unpack(data, tmp_path / "ours")
    assert differences(describe(tmp_path / "ours"), describe(by_tar(data, tmp_path / "theirs"))) == []


def test_pieces_of_any_size(tmp_path, source) -> None:
    data = tar(source, "--format=pax", "--xattrs", "-S", "--sparse-version=0.0")
    from pyruntime.image.unpack import LayerUnpack

    trees_made = []
    for size in (1, 511, 513, 4097):
        target = tmp_path / str(size)
        target.mkdir()
        with LayerUnpack(str(target)) as one:
            for at in range(0, len(data) if size > 1 else 20000, size):
                one.write(data[at : at + size])
            if size == 1:
                one.write(data[20000:])
            one.finish()
        trees_made.append(describe(target))
    assert all(differences(tree, trees_made[0]) == [] for tree in trees_made[1:])


def test_umask_and_inherited_ids_have_no_effect(tmp_path) -> None:
    before = os.umask(0o077)
    try:
        unpack(layer(directory("d", mode=0o2775, gid=50), file("d/f", mode=0o666), directory("d/e", mode=0o777)), tmp_path / "t")
    finally:
        os.umask(before)
    told = describe(tmp_path / "t")
    assert [(told[name]["mode"], told[name]["owner"]) for name in ("d", "d/f", "d/e")] == [
        ("0o42775", (0, 50)), ("0o100666", (0, 0)), ("0o40777", (0, 0))]  # fmt: skip


def test_pax_wins_over_the_header_and_global_over_neither(tmp_path) -> None:
    body = {b"path": b"named", b"size": b"3", b"uid": b"3000000", b"gid": b"7", b"mtime": b"-1.5", b"uname": b"root"}
    data = pax({b"uid": b"5", b"mtime": b"99"}, kind=b"g") + pax(body) + header(b"x", size=0) + padded(b"abc")
    data += header(b"second") + END
    unpack(data, tmp_path / "t")
    one, two = describe(tmp_path / "t")["named"], describe(tmp_path / "t")["second"]
    assert (one["owner"], one["mtime"], one["content"][0]) == ((3000000, 7), -1500000000, 3)
    assert (two["owner"], two["mtime"]) == ((5, 0), 99_000_000_000)


def test_numbers_in_base_256_and_octal(tmp_path) -> None:
    big, before = (1 << 63 | 5_000_000).to_bytes(8, "big"), (2**96 - 7).to_bytes(12, "big")
    unpack(header(b"f", uid=big, mtime=before) + header(b"g", mtime=b"     1234567") + END, tmp_path / "t")
    told = describe(tmp_path / "t")
    assert (told["f"]["owner"], told["f"]["mtime"]) == ((5_000_000, 0), -7_000_000_000)
    assert told["g"]["mtime"] == 0o1234567 * 10**9


def test_names_are_cleaned_and_bytes(tmp_path) -> None:
    unpack(header(b"./a//./b/../\xff\xfe") + header(b"///top") + header(b"a\nb") + END, tmp_path / "t")
    assert sorted(os.listdir(os.fsencode(tmp_path / "t"))) == [b"a", b"a\nb", b"top"]
    assert os.listdir(os.fsencode(tmp_path / "t" / "a")) == [b"\xff\xfe"]


def test_the_root_entry_is_attributes_only(tmp_path) -> None:
    result = unpack(layer(directory("./", mode=0o711, uid=5, mtime=77)), tmp_path / "t")
    status = (tmp_path / "t").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o711, 5, 77)
    assert result.implied == ()


def test_xattrs_of_both_kinds(tmp_path) -> None:
    body = {b"SCHILY.xattr.user.a": b"\0\xff=", b"LIBARCHIVE.xattr.user.b%3Dc": base64.b64encode(b"value").rstrip(b"="),
            b"LIBARCHIVE.xattr.user.a": base64.b64encode(b"loses")}  # fmt: skip
    unpack(pax(body) + header(b"f") + END, tmp_path / "t")
    assert describe(tmp_path / "t")["f"]["xattrs"] == {"user.a": b"\0\xff=", "user.b=c": b"value"}


def test_capabilities_come_after_the_owner(tmp_path) -> None:
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    unpack(pax({b"SCHILY.xattr.security.capability": value}) + header(b"ping", uid=b"0001750\0", mode=b"0004755\0") + END,
           tmp_path / "t")  # fmt: skip
    told = describe(tmp_path / "t")["ping"]
    assert (told["xattrs"], told["mode"], told["owner"]) == ({"security.capability": value}, "0o104755", (1000, 0))


def test_acls_and_none_inherited(tmp_path) -> None:
    if subprocess.run(["which", "setfacl"], capture_output=True, check=False).returncode:
        pytest.skip("needs setfacl (Debian: acl)")
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "f").touch(0o640)
    subprocess.run(["setfacl", "-m", "u:1000:rw", source / "d" / "f"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1001:rwx", source / "d"], check=True)
    data = tar(source, "--format=pax", "--xattrs", "--xattrs-include=*")
    target = tmp_path / "t"
    target.mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:1002:rwx", target], check=True)
    unpack(data, target)
    assert differences(describe(target), describe(source)) == []
    unpack(layer(file("d/new", mode=0o644), directory("d/e")), target, mode="flat")
    told = describe(target)
    assert (told["d/new"]["xattrs"], told["d/new"]["mode"], told["d/e"]["xattrs"]) == ({}, "0o100644", {})


def test_attributes_that_are_not_for_the_disk(tmp_path) -> None:
    body = {b"SCHILY.xattr.trusted.overlay.opaque": b"y", b"SCHILY.xattr.user.overlay.redirect": b"/x",
            b"SCHILY.xattr.security.selinux": b"label"}  # fmt: skip
    result = unpack(pax(body) + header(b"d/", kind=b"5", mode=b"0000755\0") + END, tmp_path / "t")
    assert describe(tmp_path / "t")["d"]["xattrs"] == {}
    assert [text for text in result.warnings if "trusted.overlay.opaque" in text and "1 more" in text]


def test_an_attribute_of_a_symlink_that_the_kernel_refuses_is_one_warning(tmp_path) -> None:
    body = pax({b"SCHILY.xattr.user.a": b"1"})
    data = b"".join(body + header(b"l%d" % number, kind=b"2", link=b"x") for number in range(3))
    result = unpack(data + END, tmp_path / "t")
    assert len(result.warnings) == 1
    assert "user.a" in result.warnings[0]
    assert "2 more" in result.warnings[0]


def test_the_later_of_two_wins_with_its_type(tmp_path) -> None:
    unpack(layer(file("a", b"1"), directory("a"), file("a/x"), symlink("a", "t"), file("a", b"last"),
                 directory("d", mode=0o700), file("d/keep"), directory("d", mode=0o711),
                 file("h", b"one"), hard_link("i", "h"), file("h", b"two")), tmp_path / "t")  # fmt: skip
    told = describe(tmp_path / "t")
    assert (tmp_path / "t" / "a").read_bytes() == b"last"
    assert told["d"]["mode"] == "0o40711"
    assert "d/keep" in told
    assert ((tmp_path / "t" / "i").read_bytes(), (tmp_path / "t" / "h").read_bytes()) == (b"one", b"two")


def test_parents_of_the_layers_own(tmp_path) -> None:
    """A symlink of the layer's own is followed inside the root, another name makes room, a missing one is made."""
    result = unpack(layer(directory("usr/bin"), symlink("bin", "usr/bin"), file("bin/sh"), file("plain"), file("plain/under"),
                          symlink("up", "../../usr/new"), file("up/deep")), tmp_path / "t")  # fmt: skip
    told = describe(tmp_path / "t")
    assert {"usr/bin/sh", "plain/under", "usr/new/deep"} <= told.keys()
    assert implied_paths(result) == [b"", b"plain", b"usr", b"usr/new"]
    assert told["usr/new"]["mode"] == "0o40755"


def test_times_of_directories_are_set_last(tmp_path) -> None:
    unpack(layer(directory("d", mtime=5), file("d/f"), directory("d/e", mtime=6), file("d/e/f"), file("d/g")), tmp_path / "t")
    told = describe(tmp_path / "t")
    assert (told["d"]["mtime"], told["d/e"]["mtime"]) == (5 * 10**9, 6 * 10**9)


def test_hard_links(tmp_path) -> None:
    unpack(layer(directory("usr/lib"), symlink("lib", "usr/lib"), file("usr/lib/f", b"x"), hard_link("a", "/lib/f"),
                 symlink("s", "nowhere"), hard_link("b", "s"), hard_link("a", "a")), tmp_path / "t")  # fmt: skip
    told = describe(tmp_path / "t")
    assert told["usr/lib/f"]["same_as"] == told["a"]["same_as"]
    assert told["b"]["target"] == "nowhere"
    assert told["b"]["same_as"] == told["s"]["same_as"]


def test_a_hard_link_that_takes_the_place_of_its_targets_directory(tmp_path) -> None:
    for name in ("a/b/f", "a/f"):
        with pytest.raises(UnpackError, match=r"hard link to .* which is not there|No such file"):
            unpack(layer(file(name), hard_link("a", name)), tmp_path / "t" / name)


def test_a_hard_link_has_no_data_whatever_its_size(tmp_path) -> None:
    unpack(header(b"f") + header(b"l", kind=b"1", link=b"f", size=99) + header(b"g") + END, tmp_path / "t")
    assert sorted(os.listdir(tmp_path / "t")) == ["f", "g", "l"]


@pytest.mark.parametrize("end", [b"", bytes(512), END, END + b"junk" * 1000, bytes(512) + b"j" * 512], ids=len)
def test_the_end_of_an_archive(tmp_path, end) -> None:
    data = header(b"f", size=3) + padded(b"abc") + end
    result = unpack(data, tmp_path / "t")
    assert (tmp_path / "t" / "f").read_bytes() == b"abc"
    assert result.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert bool(result.warnings) == (end[512:513] == b"j")


def test_the_last_content_may_stand_without_its_padding(tmp_path) -> None:
    unpack(header(b"first") + header(b"f", size=30) + b"x" * 30, tmp_path / "t")
    assert (tmp_path / "t" / "f").read_bytes() == b"x" * 30


def test_vendor_types_are_skipped_with_a_warning(tmp_path) -> None:
    result = unpack(header(b"label", kind=b"V") + header(b"dump", kind=b"D", size=600) + padded(b"f" * 600) + header(b"f") + END,
                    tmp_path / "t")  # fmt: skip
    assert os.listdir(tmp_path / "t") == ["f"]
    assert len(result.warnings) == 1


def test_an_empty_layer(tmp_path) -> None:
    assert unpack(b"", tmp_path / "a").entries == 0
    assert unpack(END, tmp_path / "b").entries == 0


BAD = {
    "short data": (header(b"f", size=600) + b"x" * 100, "ends inside"),
    "short header": (header(b"f")[:100], "ends inside"),
    "no file after pax": (pax({b"path": b"x"}), "ends inside"),
    "not a tar": (b"#!/bin/sh\n" * 100, "no tar archive"),
    "bad checksum": (header(b"f")[:-1] + b"x", "no tar archive"),
    "negative size": (header(b"f", size=b"\xff" * 12), "number"),
    "huge size": (header(b"f", size=b"\x80" + b"\x7f" * 11), "number"),
    "letters in a size": (header(b"f", size=b"12345678x00\0"), "number"),
    "id over 32 bits": (pax({b"uid": b"4294967295"}) + header(b"f"), "number"),
    "negative id": (header(b"f", uid=b"\xff" * 8), "number"),
    "pax length 0": (trees.raw_pax(b"0 a=b\n") + header(b"f"), "PAX"),
    "pax length too long": (trees.raw_pax(b"99 path=x\n") + header(b"f"), "PAX"),
    "pax length without end": (trees.raw_pax(b"9" * 40) + header(b"f"), "PAX"),
    "pax without equals": (trees.raw_pax(b"7 abcd\n") + header(b"f"), "PAX"),
    "pax without newline": (trees.raw_pax(record(b"path", b"x")[:-1] + b"y") + header(b"f"), "PAX"),
    "pax negative size": (pax({b"size": b"-1"}) + header(b"f"), "PAX|number"),
    "pax over 1 MiB": (header(b"p", kind=b"x", size=(1 << 20) + 1), "PAX"),
    "long name over 8 KiB": (header(b"L", kind=b"L", size=1 << 30), "255"),
    "NUL in a PAX name": (pax({b"path": b"a\0b"}) + header(b"f"), "NUL"),
    "unknown type": (header(b"f", kind=b"9"), "unknown type"),
    "device 0:0": (header(b"w", kind=b"3"), "0:0"),
    "empty symlink": (header(b"l", kind=b"2"), "without a target"),
    "empty hard link": (header(b"l", kind=b"1"), "without a target"),
    "link to a directory": (header(b"d", kind=b"5") + header(b"l", kind=b"1", link=b"d"), "directory"),
    "overlapping sparse map": (pax({b"GNU.sparse.major": b"0", b"GNU.sparse.size": b"100", b"GNU.sparse.map": b"0,5,3,5"})
                               + header(b"f", size=10) + padded(b"x" * 10), "sparse"),
    "sparse map of other size": (pax({b"GNU.sparse.size": b"100", b"GNU.sparse.map": b"0,5"}) + header(b"f", size=10), "sparse"),
    "sparse map past the end": (pax({b"GNU.sparse.size": b"4", b"GNU.sparse.map": b"0,5"}) + header(b"f", size=5), "sparse"),
    "half a sparse pair": (pax({b"GNU.sparse.size": b"9", b"GNU.sparse.offset": b"0"}) + header(b"f", size=5), "sparse"),
    "sparse 1.0 without numbers": (pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"})
                                   + header(b"f", size=512) + b"x" * 512, "sparse"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_are_refused_and_leave_nothing(tmp_path, name) -> None:
    data, told = BAD[name]
    with pytest.raises(UnpackError, match=told):
        unpack(header(b"first") + data + (b"" if "short" in name or "after" in name else END), tmp_path / "t")
    assert os.listdir(tmp_path / "t") == []


def test_members_that_python_writes(tmp_path) -> None:
    entries = [directory("d"), file("d/f", b"x" * 5000), symlink("l", "d"), hard_link("h", "d/f"), directory("n" * 150)]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = layer(*entries, form=form)
        unpack(data, tmp_path / str(form))
        assert differences(describe(tmp_path / str(form)),
                           describe(by_tar(data, tmp_path / f"tar{form}"), skip_times=frozenset(["."]))) == []  # fmt: skip
