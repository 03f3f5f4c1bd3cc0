"""`user[:group]` looked up in an image's own files, and paths that try to leave the root on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyruntime.errors import InvalidImage, UsageError
from pyruntime.image.inroot import make_directories, open_in_root, read_in_root
from pyruntime.image.users import User, resolve_user

PASSWD = b"""# comment
root:x:0:0:root:/root:/bin/sh
web:x:33:33::/srv:/bin/false

odd:x:notanumber:1::/:/
short:x:5
7:x:70:71::/seven:
caf\xe9:x:80:80::/cafe:
"""
GROUP = b"root:x:0:\nadm:x:4:web,root\ndisk:x:6:web\nwww:x:33:\nbad:x:y:web\n9:x:90:\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_bytes(PASSWD)
    (tmp_path / "root/etc/group").write_bytes(GROUP)
    return tmp_path / "root"


@pytest.fixture
def root_fd(root: Path):
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("text", "user"), [
    ("", User(0, 0, (0, 4), "/root")),
    ("web", User(33, 33, (33, 4, 6), "/srv")),
    ("33", User(33, 33, (33, 4, 6), "/srv")),  # a number with an entry has the entry's groups
    ("web:www", User(33, 33, (33,), "/srv")),
    ("web:4", User(33, 4, (4,), "/srv")),
    ("33:adm", User(33, 4, (4,), "/srv")),
    ("1000", User(1000, 0, (0,))),
    ("1000:1000", User(1000, 1000, (1000,))),
    ("1000:disk", User(1000, 6, (6,))),
    ("7", User(70, 71, (71,), "/seven")),  # a name that is a number is a name first
    ("web:9", User(33, 90, (90,), "/srv")),
    ("caf\udce9", User(80, 80, (80,), "/cafe")),
    (":4", User(0, 4, (4,), "/root")),
], ids=ascii)
def test_forms(root_fd, text, user):
    assert resolve_user(root_fd, text) == user


@pytest.mark.parametrize(("text", "message"), [
    ("nobody", "unable to find user nobody: no matching entries in passwd file"),
    ("web:none", "unable to find group none: no matching entries in group file"),
    ("4294967296", "uids and gids must be in range 0-2147483647"),
    ("0:2147483648", "uids and gids must be in range 0-2147483647"),
    ("-1", "unable to find user -1: no matching entries in passwd file"),
    ("short", "unable to find user short: no matching entries in passwd file"),
])
def test_refused(root_fd, text, message):
    with pytest.raises(UsageError, match=f"^{message}$") as caught:
        resolve_user(root_fd, text)
    assert caught.value.field == "user"


def test_added_groups(root_fd):
    assert resolve_user(root_fd, "web", ("disk", "5000")).additional_gids == (33, 4, 6, 5000)


def test_without_files(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    assert resolve_user(fd, "") == User(0, 0, (0,))
    assert resolve_user(fd, "12:13") == User(12, 13, (13,))
    os.close(fd)


@pytest.mark.parametrize("link", ["/outside", "../../outside", "../../../outside", "/../outside"])
def test_a_link_out_of_the_root_ends_inside(root, root_fd, link):
    (root.parent / "outside").write_text("web:x:1:1::/:\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(link)
    with pytest.raises(UsageError):
        resolve_user(root_fd, "web")
    (root / "outside").write_text("web:x:2:2::/in:\n")  # now there is such a file inside
    assert resolve_user(root_fd, "web").uid == 2


def test_a_directory_that_is_a_link_out_of_the_root(root, root_fd):
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "passwd").write_text("web:x:1:1::/:\n")
    (root / "etc").rename(root / "real")
    (root / "etc").symlink_to(elsewhere)
    with pytest.raises(UsageError):
        resolve_user(root_fd, "web")
    (root / "etc").unlink()
    (root / "etc").symlink_to("/real")
    assert resolve_user(root_fd, "web").uid == 33


def test_what_is_no_file_is_not_waited_for(root, root_fd):
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    assert read_in_root(root_fd, "etc/passwd", 100) is None
    (root / "etc/group").unlink()
    (root / "etc/group").mkdir()
    assert resolve_user(root_fd, "5:5") == User(5, 5, (5,))
    (root / "loop").symlink_to("loop")
    assert read_in_root(root_fd, "loop", 100) is None


def test_the_limit_of_a_file(root, root_fd):
    with pytest.raises(OSError, match="File too large"):
        read_in_root(root_fd, "etc/passwd", 10)


def test_account_files_of_absurd_size(root, root_fd, monkeypatch):
    monkeypatch.setattr("pyruntime.image.users.MAX_FILE_BYTES", 20)
    with pytest.raises(InvalidImage, match="/etc/passwd of the image cannot be read: File too large"):
        resolve_user(root_fd, "web")


def test_open_in_root(root, root_fd):
    (root / "a/b").mkdir(parents=True)
    (root / "a/up").symlink_to("../../../a/b")
    for path in ("a/up", "/a/up/", "a/./up/.", "../a/b", b"a/b"):
        fd = open_in_root(root_fd, path, os.O_PATH)
        assert os.fstat(fd).st_ino == (root / "a/b").stat().st_ino
        os.close(fd)
    fd = open_in_root(root_fd, "..", os.O_RDONLY | os.O_DIRECTORY)
    assert sorted(os.listdir(fd)) == ["a", "etc"]
    os.close(fd)
    with pytest.raises(NotADirectoryError):
        open_in_root(root_fd, "etc/passwd/x", os.O_RDONLY)
    with pytest.raises(OSError, match="File name too long"):
        make_directories(root_fd, "d/" * 300)


def test_directories_are_made_inside(root, root_fd):
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "out").symlink_to("../../outside")
    (root / "dangling").symlink_to("/made/here")
    os.close(make_directories(root_fd, "/out/vol", mode=0o700))
    os.close(make_directories(root_fd, "dangling/x"))
    os.close(make_directories(root_fd, "/"))
    assert list(outside.iterdir()) == []
    assert (root / "outside/vol").stat().st_mode & 0o7777 == 0o700
    assert (root / "made/here/x").is_dir()
    with pytest.raises(NotADirectoryError):
        make_directories(root_fd, "etc/passwd/x")
