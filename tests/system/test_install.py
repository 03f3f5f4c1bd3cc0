"""A wheel, installed without a compiler into a virtual environment and a prefix, started with an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """A command with an empty environment."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, env={}, stdin=subprocess.DEVNULL,
                          check=False, **options)  # fmt: skip


def pip(*words: object) -> None:
    """pip in its own environment's terms; skips when the index cannot be reached."""
    result = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, check=False,
                            stdin=subprocess.DEVNULL)  # fmt: skip
    if result.returncode != 0 and "No matching distribution" in result.stderr:
        pytest.skip("needs a package index")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a clean copy of what git tracks here, with the tools that are installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if names.returncode != 0:
        pytest.skip("needs a git checkout")
    for name in filter(None, names.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and cffi in it, made where no compiler is found."""
    place = tmp_path_factory.mktemp("venv") / "v"
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", place], check=True)
    pip("--python", place / "bin/python", "install", "--quiet", "--no-deps", wheel)
    pip("--python", place / "bin/python", "install", "--quiet", "cffi")
    return place


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --prefix with the same."""
    place = tmp_path_factory.mktemp("prefix")
    pip("install", "--quiet", "--prefix", place, "--ignore-installed", "--no-deps", wheel)
    pip("install", "--quiet", "--prefix", place, "--ignore-installed", "cffi")
    return place


def program_of(place: Path) -> Path:
    """bin/pyruntime, wherever this Python's layout has bin."""
    return next(path for path in place.rglob("pyruntime") if path.parent.name == "bin")


def package_of(place: Path) -> Path:
    """The package's folder."""
    return next(path.parent for path in place.rglob("pyruntime/record.py"))


def test_the_wheel_serves_every_later_python(wheel: Path) -> None:
    assert "-cp311-abi3-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        scripts = [name for name in names if ".data/scripts/" in name]
        assert [Path(name).name for name in scripts] == ["pyruntime"]
        assert archive.read(scripts[0])[:4] == b"\x7fELF"
    assert {"pyruntime/native/container-init", "pyruntime/native/modules.image", "pyruntime/py.typed"} <= set(names)
    assert any(name.endswith("native/_ext.abi3.so") for name in names)


@pytest.mark.parametrize("kind", ["environment", "prefix"])
def test_it_starts(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    program = program_of(request.getfixturevalue(kind))
    version = run(program, "--version", cwd="/")
    assert (version.returncode, version.stdout.split()[0]) == (0, "pyruntime"), version.stderr
    listed = run(program, "--root", tmp_path, "list", "--format", "json")
    assert (listed.returncode, listed.stdout) == (0, "[]\n"), listed.stderr
    assert "container does not exist" in run(program, "--root", tmp_path, "state", "x").stderr


@pytest.mark.parametrize("kind", ["environment", "prefix"])
def test_it_runs_a_container(kind: str, request: pytest.FixtureRequest, make_bundle: Callable[..., Bundle], own_host: None,
                             tmp_path: Path) -> None:  # fmt: skip
    bundle = make_bundle("echo inside; exit 7")
    result = run(program_of(request.getfixturevalue(kind)), "--root", tmp_path / "root", "run", f"{bundle.path}/")
    assert (result.returncode, result.stdout, result.stderr) == (7, "inside\n", "")


def test_the_manual_and_completion_are_where_they_are_looked_for(prefix: Path) -> None:
    found = {path.name: str(path.parent).rpartition("/share/")[2] for path in prefix.rglob("py*.*") if "share" in path.parts}
    assert found == {"pyctr.1": "man/man1", "pyruntime.8": "man/man8", "pyctr.bash": "bash-completion/completions",
                     "pyruntime.bash": "bash-completion/completions"}  # fmt: skip


def test_a_link_to_the_program_works(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(program_of(environment))
    assert run(tmp_path / "link", "--version").returncode == 0


@pytest.mark.parametrize("change", ["mode", "owner"])
def test_root_refuses_a_package_that_others_may_write(change: str, prefix: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    package, program = package_of(prefix), program_of(prefix)
    before = package.stat()
    try:
        if change == "mode":
            package.chmod(0o777)
        else:
            os.chown(package, 1234, 0)
        result = run(program, "--version")
    finally:
        package.chmod(before.st_mode & 0o7777)
        os.chown(package, before.st_uid, before.st_gid)
    assert result.returncode == 1
    assert f"{package}: refused as root: " in result.stderr
    assert run(program, "--version").returncode == 0


def test_a_changed_module_is_not_taken_from_the_image(prefix: Path, tmp_path: Path) -> None:
    version = package_of(prefix) / "version.py"
    before = version.read_text()
    try:
        version.write_text(before.replace('VERSION = "', 'VERSION = "9', 1))
        assert run(program_of(prefix), "--version").stdout.startswith("pyruntime version 9")
        version.write_text(before)  # another time, the same content
        assert run(program_of(prefix), "--version").stdout.startswith("pyruntime version 0")
    finally:
        version.write_text(before)


@pytest.mark.parametrize("damage", [b"", b"PYRIMG1\n", b"\xff" * 64, None], ids=["empty", "short", "noise", "cut"])
def test_a_damaged_image_is_no_harm(damage: bytes | None, prefix: Path) -> None:
    image = package_of(prefix) / "native/modules.image"
    before = image.read_bytes()
    try:
        image.write_bytes(before[: len(before) // 100] if damage is None else damage)
        assert run(program_of(prefix), "--version").stdout.startswith("pyruntime version")
    finally:
        image.write_bytes(before)


@pytest.mark.parametrize("words", [("--version",), ("spec", "--help"), ("state", "x")], ids=" ".join)
def test_without_an_image_what_is_missing_is_told_in_a_line(prefix: Path, words: tuple[str, ...]) -> None:
    """R1: also where Python itself would show a traceback, before there is a command line of ours."""
    package = package_of(prefix)
    image, module = package / "native/modules.image", package / "errors.py"
    before = image.read_bytes()
    try:
        image.unlink()
        assert "Traceback" not in run(program_of(prefix), *words).stderr
        module.rename(package / "errors.away")
        result = run(program_of(prefix), *words)
        assert (result.returncode, result.stdout) == (1, "")
        first, *others = result.stderr.splitlines()
        assert first.startswith("pyruntime: cannot load pyruntime.cli.main: ModuleNotFoundError: ")
        assert others == ["  hint: the installation is damaged, or memory or descriptors ran out"]
    finally:
        image.write_bytes(before)
        if not module.exists():
            (package / "errors.away").rename(module)


def test_without_the_package_it_says_so(environment: Path, tmp_path: Path) -> None:
    alone = tmp_path / "bin" / "pyruntime"
    alone.parent.mkdir()
    alone.write_bytes(program_of(environment).read_bytes())
    alone.chmod(0o755)
    result = run(alone, "--version")
    assert result.returncode == 1
    assert result.stderr.startswith(f"pyruntime: {alone}: no package pyruntime")


def test_python_m_works_too(environment: Path) -> None:
    result = run(environment / "bin/python", "-m", "pyruntime", "--version", cwd="/")
    assert result.stdout.startswith("pyruntime version"), result.stderr
