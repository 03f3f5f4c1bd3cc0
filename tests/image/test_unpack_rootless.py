"""Layers unpacked in a user namespace: with maps given, with newuidmap, with one id, and by a namespace's own root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pyruntime.image.unpack import IdMaps
from tests.image.trees import Entry, describe, directory, file, layer, symlink, unpack

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
DATA = layer(directory("d", uid=1000, gid=1000, mode=0o2750), file("d/f", b"x", uid=33, gid=33, mode=0o4755), symlink("l", "d"),
             Entry("null", b"3", devmajor=1, devminor=3), Entry("fifo", b"6"), file("gone/.wh.x"), file("d/.wh..wh..opq"),
             file("d/.wh.later"))  # fmt: skip

PROGRAM = """
import sys
sys.path[:0] = {path!r}
from pyruntime.image.unpack import IdMaps, LayerUnpack
maps = {maps}
with LayerUnpack({target!r}, mode="overlay-user", id_maps=maps) as layer:
    layer.write(open({data!r}, "rb").read())
    if {bad!r}:
        sys.exit("left early")
    result = layer.finish()
print("|".join(result.warnings))
"""


@pytest.fixture
def place():
    """A folder that nobody owns and may reach, with what it needs of this checkout."""
    folder = Path(tempfile.mkdtemp(prefix="pyruntime-rootless-"))
    folder.chmod(0o755)
    shutil.copytree(REPOSITORY / "pyruntime", folder / "lib" / "pyruntime", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").write_bytes(DATA)
    (folder / "t").mkdir()
    os.chown(folder / "t", NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def run(place: Path, maps: str, *prefix: str, bad: bool = False) -> str:
    """The warnings of an unpacking by an unprivileged user."""
    packages = [path for path in sys.path if "site-packages" in path or "lib/python" in path]
    readable = [str(place / "lib"), *packages]
    for path in packages:
        if "site-packages" in path and not reachable(path):
            shutil.copytree(path, place / "site", ignore=shutil.ignore_patterns("__pycache__", "pip*", "mypy*", "ruff*"), dirs_exist_ok=True)
            readable.append(str(place / "site"))
    program = PROGRAM.format(path=readable, maps=maps, target=str(place / "t"), data=str(place / "data"), bad=bad)
    command = [*prefix, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/usr/bin/python3", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=60)
    assert (done.returncode, done.stderr.strip()) == ((1, "left early") if bad else (0, "")), done.stderr
    return done.stdout


def reachable(path: str) -> bool:
    """Whether others may go there."""
    while path != "/":
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
        path = os.path.dirname(path)
    return True


def owners(path: Path) -> dict[str, tuple[int, int]]:
    return {name: facts["owner"] for name, facts in describe(path).items()}


def check(path: Path, base: int) -> None:
    told = describe(path)
    assert (told["d"]["mode"], told["d/f"]["mode"]) == ("0o42750", "0o104755")
    assert (told["d"]["owner"], told["d/f"]["owner"], told["l"]["owner"]) == ((base + 1000,) * 2, (base + 33,) * 2, (base,) * 2)
    assert told["d"]["xattrs"] == {"user.overlay.opaque": b"y"}
    assert "d/later" not in told
    assert (told["gone/x"]["device"], stat.S_ISFIFO((path / "fifo").lstat().st_mode)) == ((0, 0), True)


def test_root_with_maps(tmp_path) -> None:
    maps = IdMaps(((0, 200000, 65536),), ((0, 200000, 65536),))
    result = unpack(DATA, tmp_path / "t", mode="overlay-user", id_maps=maps)
    check(tmp_path / "t", 200000)
    assert "null" not in describe(tmp_path / "t")
    assert len(result.warnings) == 1
    assert "devices skipped" in result.warnings[0]


def test_a_plain_user_with_one_id(place) -> None:
    told = run(place, "None")
    assert set(owners(place / "t").values()) == {(NOBODY, NOBODY)}
    assert "owners squashed" in told
    assert "devices skipped" in told


@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap (Debian: uidmap)")
def test_a_plain_user_with_subordinate_ids(place) -> None:
    prefix, rows = subordinate(place)
    run(place, rows, *prefix, bad=True)
    assert os.listdir(place / "t") == []
    told = run(place, rows, *prefix)
    assert owners(place / "t")["d/f"] == (300032, 300032)
    assert owners(place / "t")["l"] == (NOBODY, NOBODY)
    assert "squashed" not in told


def subordinate(place: Path) -> tuple[list[str], str]:
    """A command in whose mount namespace the user has ids, and the maps."""
    for name in ("subuid", "subgid"):
        (place / name).write_text("nobody:300000:65536\n")
    mounts = " && ".join(f"mount --bind {place}/{name} /etc/{name}" for name in ("subuid", "subgid"))
    touched = "; ".join(f"test -e /etc/{name} || touch /etc/{name}" for name in ("subuid", "subgid"))
    rows = f"((0, {NOBODY}, 1), (1, 300000, 65535))"
    return ["unshare", "-m", "sh", "-c", f'{touched}; {mounts} && exec "$@"', "sh"], f"IdMaps({rows}, {rows})"


def test_root_of_a_namespace(place) -> None:
    """As a library inside `podman unshare` or the like."""
    packages = [path for path in sys.path if "site-packages" in path]
    program = PROGRAM.format(path=[str(place / "lib"), *packages], maps="None", target=str(place / "t"), data=str(place / "data"), bad=False)
    os.chown(place / "t", 0, 0)
    done = subprocess.run(["unshare", "-Ur", sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    assert "owners squashed" in done.stdout
    assert set(owners(place / "t").values()) == {(0, 0)}
