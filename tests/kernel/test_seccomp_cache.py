"""The cache of compiled filters: what it keeps, and what it does not trust (S6)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyruntime.native import seccomp as native

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not native.libseccomp_version(), reason="libseccomp.so.2 is not installed"),
]

KEY = "0123456789abcdef" * 2 + "01234567"
OTHER = KEY[::-1]
MADE = (b"\x06\0\0\0\0\0\xff\x7f" * 3, ("one warning", "another"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache that holds MADE under KEY."""
    path = tmp_path / "seccomp"
    assert native.cached_filter(str(path), KEY, lambda: MADE) == MADE
    assert os.listdir(path) == [KEY]
    return path


def made_again(folder: Path, key: str = KEY) -> bool:
    """Whether the entry had to be made."""
    calls = []

    def make() -> native.Compiled:
        calls.append(1)
        return MADE

    assert native.cached_filter(str(folder), key, make) == MADE
    return bool(calls)


def test_hit(folder):
    assert not made_again(folder)
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert (folder / KEY).stat().st_mode & 0o7777 == 0o600


def test_no_warnings_come_back_as_none(folder):
    native.cached_filter(str(folder), OTHER, lambda: (MADE[0], ()))
    assert native.cached_filter(str(folder), OTHER, pytest.fail) == (MADE[0], ())


def damage_byte(position: int):
    def damage(entry: Path) -> None:
        data = bytearray(entry.read_bytes())
        data[position] ^= 1
        entry.write_bytes(data)

    return damage


def as_symlink(entry: Path) -> None:
    entry.rename(entry.parent / "elsewhere")
    entry.symlink_to("elsewhere")


def as_fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry, 0o600)


def as_entry_of_another_key(entry: Path) -> None:
    native.cached_filter(str(entry.parent), OTHER, lambda: (MADE[0] * 2, ()))
    (entry.parent / OTHER).rename(entry)


def with_empty_program(entry: Path) -> None:
    native.cached_filter(str(entry.parent), OTHER, lambda: MADE)
    store = os.open(entry.parent, os.O_RDONLY)
    native._store(store, KEY, (b"", ()))
    os.close(store)


@pytest.mark.parametrize("damage", [
    *(damage_byte(position) for position in (0, 9, 45, 61, 70, 90, 100, -1)),
    lambda entry: entry.write_bytes(b""),
    lambda entry: entry.write_bytes(entry.read_bytes()[:-8]),
    lambda entry: entry.write_bytes(entry.read_bytes() + bytes(8)),
    lambda entry: entry.write_bytes(bytes(200_000)),
    lambda entry: entry.chmod(0o620),
    lambda entry: entry.chmod(0o602),
    lambda entry: entry.unlink(),
    as_symlink,
    as_fifo,
    as_entry_of_another_key,
    with_empty_program,
], ids=[*(f"byte {p}" for p in ("magic", "checksum", "key", "library", "size", "length", "path", "bpf")), "empty",
        "short", "long", "huge", "group writes", "others write", "missing", "symlink", "fifo", "renamed",
        "no program"])  # fmt: skip
def test_bad_entry_is_replaced(folder, damage):
    damage(folder / KEY)
    assert made_again(folder)
    assert not made_again(folder)
    assert (folder / KEY).stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_entry_of_another_user_is_replaced(folder):
    os.chown(folder / KEY, 1234, 0)
    assert made_again(folder)
    assert (folder / KEY).stat().st_uid == 0
    assert not made_again(folder)


def give_away(folder: Path) -> None:
    os.chown(folder, 1234, 0)


def as_linked_folder(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to("elsewhere")


def as_file(folder: Path) -> None:
    (folder / KEY).unlink()
    folder.rmdir()
    folder.write_bytes(b"")


@pytest.mark.parametrize("spoil", [
    lambda folder: folder.chmod(0o755),
    lambda folder: folder.chmod(0o770),
    pytest.param(give_away, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")),
    as_linked_folder,
    as_file,
], ids=["readable", "group writes", "foreign", "symlink", "file"])  # fmt: skip
def test_folder_that_others_may_use_is_left_alone(folder, spoil):
    spoil(folder)
    before = folder.lstat()
    assert made_again(folder)
    assert made_again(folder)
    assert folder.lstat() == before


def test_missing_parent_is_no_error(tmp_path):
    assert made_again(tmp_path / "no" / "seccomp")
    assert not (tmp_path / "no").exists()


def test_what_make_raises_is_passed_on_and_stores_nothing(tmp_path):
    def fails() -> native.Compiled:
        raise KeyError("x")

    with pytest.raises(KeyError):
        native.cached_filter(str(tmp_path / "seccomp"), KEY, fails)
    assert os.listdir(tmp_path / "seccomp") == []


def test_another_libseccomp_makes_the_entry_again(folder, monkeypatch, tmp_path):
    library = tmp_path / "libseccomp.so.2"
    library.write_bytes(b"old")
    monkeypatch.setattr(native, "_library", lambda: str(library).encode())
    native.cached_filter(str(folder), OTHER, lambda: MADE)
    assert not made_again(folder, OTHER)
    library.write_bytes(b"newer")
    assert made_again(folder, OTHER)
    assert not made_again(folder, OTHER)
    library.unlink()
    assert made_again(folder, OTHER)


def test_entries_are_bounded_and_the_oldest_go(folder):
    names = [f"{i:040x}" for i in range(native.MAX_ENTRIES)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (i, i))
    os.utime(folder / KEY, (0, 0))
    (folder / f"{OTHER}.12.34.56").write_bytes(b"half")
    (folder / "note").write_bytes(b"not ours to remove")
    made_again(folder, OTHER)
    left = os.listdir(folder)
    assert len(left) <= native.MAX_ENTRIES // 2 + 2
    assert {OTHER, "note", names[-1]} <= set(left)
    assert not {KEY, names[0]} & set(left)


def test_racing_writers_leave_one_whole_entry(tmp_path):
    folder = tmp_path / "seccomp"
    wrong = []

    def work(key: str) -> None:
        for _ in range(500):
            if native.cached_filter(str(folder), key, lambda: MADE) != MADE:
                wrong.append(key)
            (folder / key).unlink(missing_ok=True)

    workers = [threading.Thread(target=work, args=(key,)) for key in (KEY, KEY, OTHER)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert set(os.listdir(folder)) <= {KEY, OTHER}
    assert not made_again(folder) or not made_again(folder)
