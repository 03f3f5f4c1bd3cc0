"""The snapshot that root's calls start from (csrc/launcher_snapshot.c): when it is used, remade, and left alone."""

from __future__ import annotations

import calendar
import json
import os
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FOLDER = Path("/run/pyruntime-cache")


class Installed:
    """A copy of launcher and package in a folder of its own, with a snapshot of its own."""

    def __init__(self, place: Path, program: str) -> None:
        self.place = place
        self.program = place / "bin" / "pyruntime"
        self.package = place / f"lib/python{sysconfig.get_python_version()}/site-packages/pyruntime"
        self.program.parent.mkdir()
        shutil.copy2(program, self.program)
        shutil.copytree(REPOSITORY / "pyruntime", self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.build_image()

    def build_image(self) -> None:
        """The image of the copy as it is."""
        target, root = self.package / "native/modules.image", self.package.parent
        script = (f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tools')!r}); import image; from pathlib import Path; "
                  f"Path({str(target)!r}).write_bytes(image.build(Path({str(root)!r})))")  # fmt: skip
        subprocess.run([REPOSITORY / ".venv/bin/python", "-c", script], check=True)

    @property
    def snapshot(self) -> Path:
        """Its file: FNV-1a of the program's path."""
        value = 0xCBF29CE484222325
        for byte in os.fsencode(self.program):
            value = (value ^ byte) * 0x100000001B3 & ((1 << 64) - 1)
        return FOLDER / f"start-{value:016x}.snapshot"

    def call(self, *words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """One call, with an empty environment unless one is given."""
        return subprocess.run([self.program, *map(str, words)], capture_output=True, text=True, env=env or {}, check=False,
                              stdin=subprocess.DEVNULL, timeout=60)  # fmt: skip

    def opened(self, *words: object) -> str:
        """What strace sees of files opened and mapped in one call."""
        if shutil.which("strace") is None:
            pytest.skip("needs strace")
        command = ["strace", "-e", "trace=openat,mmap,execve", self.program, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    def is_used(self) -> bool:
        """Whether a call maps the snapshot and loads nothing from the image."""
        seen = self.opened("state", "x")
        return "0x2000000000" in seen and "modules.image" not in seen


@pytest.fixture
def installed(tmp_path: Path, program: str, own_host: None) -> Iterator[Installed]:
    made = Installed(tmp_path, program)
    made.call("--version")
    if not made.snapshot.exists() or made.snapshot.stat().st_size < 1 << 20:
        pytest.skip("needs a launcher that makes snapshots (Debian: python3-dev at build time, CPython 3.11)")
    yield made
    made.snapshot.unlink(missing_ok=True)


def test_the_first_call_makes_it_and_later_ones_use_it(installed: Installed) -> None:
    state = installed.snapshot.stat()
    assert (state.st_uid, state.st_mode & 0o777) == (0, 0o600)
    assert FOLDER.stat().st_mode & 0o777 == 0o700
    before = installed.snapshot.stat().st_ino
    assert installed.is_used()
    assert installed.snapshot.stat().st_ino == before


def test_a_container_runs_from_it(installed: Installed, make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle("echo inside; exit 7")
    for _ in range(3):
        result = installed.call("--root", tmp_path / "root", "run", f"{bundle.path}/")
        assert (result.returncode, result.stdout, result.stderr) == (7, "inside\n", "")


def test_a_changed_source_is_run(installed: Installed) -> None:
    version = installed.package / "version.py"
    version.write_text(version.read_text().replace('VERSION = "', 'VERSION = "9', 1))
    assert installed.call("--version").stdout.startswith("pyruntime version 9")
    installed.build_image()
    assert installed.call("--version").stdout.startswith("pyruntime version 9")
    assert installed.is_used()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_file_that_others_may_reach_is_replaced(mode: int, installed: Installed) -> None:
    with installed.snapshot.open("rb") as before:  # open, so that its inode is not used again
        installed.snapshot.chmod(mode)
        assert installed.call("--version").returncode == 0
        assert not os.path.samestat(os.fstat(before.fileno()), installed.snapshot.stat())
    assert installed.snapshot.stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_user_is_replaced(installed: Installed) -> None:
    os.chown(installed.snapshot, 1234, 0)
    assert installed.call("--version").returncode == 0
    assert installed.snapshot.stat().st_uid == 0


@pytest.mark.parametrize("damage", ["empty", "cut", "magic", "link"])
def test_damage_is_replaced(damage: str, installed: Installed, tmp_path: Path) -> None:
    data = installed.snapshot.read_bytes()
    installed.snapshot.unlink()
    if damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        installed.snapshot.symlink_to(tmp_path / "elsewhere")
    else:
        changed = {"empty": b"", "cut": data[: len(data) // 2], "magic": b"X" + data[1:]}[damage]
        installed.snapshot.touch(mode=0o600)
        installed.snapshot.write_bytes(changed)
    assert installed.call("--version").stdout.startswith("pyruntime version")
    assert not installed.snapshot.is_symlink()
    assert installed.is_used()


def test_a_new_program_makes_a_new_one(installed: Installed) -> None:
    with installed.snapshot.open("rb") as before:
        shutil.copy2(installed.program, installed.program.with_name("new"))
        installed.program.with_name("new").rename(installed.program)
        assert installed.call("--version").returncode == 0
        assert not os.path.samestat(os.fstat(before.fileno()), installed.snapshot.stat())


def test_what_cannot_be_made_is_remembered_and_does_no_harm(installed: Installed) -> None:
    module = installed.package / "cli/paths.py"
    module.write_text(module.read_text() + "\nimport does_not_exist_anywhere\n")
    installed.build_image()
    result = installed.call("state", "x")
    assert result.returncode == 1
    assert installed.snapshot.stat().st_size < 1 << 17
    before = installed.snapshot.stat().st_mtime_ns
    installed.call("state", "x")
    assert installed.snapshot.stat().st_mtime_ns == before


def test_environment_and_ids_are_the_call_s(installed: Installed, tmp_path: Path) -> None:
    installed.call("--version", env={"XDG_RUNTIME_DIR": "/nowhere", "LISTEN_PID": "1", "HOME": "/x"})
    before = int(time.time())
    result = installed.call("--log", tmp_path / "log", "--log-format", "json", "state", "x")
    assert result.returncode == 1
    recorded = time.strptime(json.loads((tmp_path / "log").read_text())["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert before <= calendar.timegm(recorded) <= time.time()


def test_everything_can_still_be_imported(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert installed.call("--root", tmp_path / "root", "kill", "--regex", "x").returncode == 0
    assert "invalid regular expression" in installed.call("kill", "--regex", "(").stderr


def test_no_descriptor_stays_open(installed: Installed) -> None:
    """A number that the caller did not give must not be found open by --preserve-fds."""
    result = installed.call("create", "--bundle", "/nonexistent", "--preserve-fds", "1", "x")
    assert "unable to stat preserved-fd 0 (of 1)" in result.stderr


def test_many_first_calls_at_once(installed: Installed) -> None:
    installed.snapshot.unlink()
    calls = [subprocess.Popen([installed.program, "--version"], stdout=subprocess.PIPE, text=True) for _ in range(12)]
    assert all(call.communicate(timeout=60)[0].startswith("pyruntime version") for call in calls)
    assert installed.is_used()
    assert not (FOLDER / f".{installed.snapshot.name}.new").exists()


def test_files_of_programs_that_are_gone_are_removed(installed: Installed, tmp_path: Path, program: str) -> None:
    (tmp_path / "other").mkdir()
    other = Installed(tmp_path / "other", program)
    other.call("--version")
    assert other.snapshot.exists()
    other.program.unlink()
    installed.snapshot.unlink()
    installed.call("--version")
    assert not other.snapshot.exists()


def test_hashes_differ_between_snapshots(installed: Installed) -> None:
    """The hash secret is drawn when a snapshot is made: two of the same program are not alike."""
    first = installed.snapshot.read_bytes()
    installed.snapshot.unlink()
    installed.call("--version")
    assert installed.snapshot.read_bytes() != first


def test_users_without_root_s_rights_start_without(installed: Installed) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (Debian: util-linux)")
    for folder in (installed.place, *installed.place.parents):
        if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", installed.program, "--version"]
    result = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
    assert result.stdout.startswith("pyruntime version"), result.stderr
