"""What setup.cfg cannot say: the cffi extension, container-init, and the compiled launcher as a script.

`build_init` runs csrc/Makefile and leaves the static container-init in pyruntime/native/ as package data.
`build_scripts` compiles csrc/launcher.c; a wheel carries it under scripts/, which pip installs unchanged because
it is no Python script. The launcher links libpython only where that is asked for (PYRUNTIME_EMBED, see launcher.c).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

try:
    from setuptools.command.build_scripts import build_scripts  # setuptools 70 on
except ImportError:
    from distutils.command.build_scripts import build_scripts

HERE = Path(__file__).resolve().parent
INIT = "pyruntime/native/container-init"
LAUNCHER = "csrc/launcher.c"
COMMIT = "pyruntime/COMMIT"


def compile_launcher(target: Path) -> None:
    """Builds the `pyruntime` program at `target`; the interpreter of this build is its last resort at run time."""
    version = sysconfig.get_python_version()
    interpreter = Path(sysconfig.get_config_var("BINDIR") or "/usr/bin") / f"python{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *shlex.split(os.environ.get("CC", "cc")), "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror",
        f'-DBUILD_PYTHON="{interpreter}"', f"-I{sysconfig.get_path('include')}",
        *shlex.split(os.environ.get("LAUNCHER_CFLAGS", "")), "-o", str(target), LAUNCHER, "-ldl",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=HERE)


def write_commit() -> None:
    """pyruntime/COMMIT holds the checkout's commit for `--version`; without git an existing file stays."""
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE)
    if result.returncode == 0 and (HERE / ".git").exists():
        (HERE / COMMIT).write_text(result.stdout.strip() + "\n", encoding="ascii")


class BuildInit(Command):
    """Static container-init, by csrc/Makefile (musl-gcc), into the package."""

    description = "build container-init"
    user_options: list[tuple[str, str | None, str]] = []

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        """Leaves the program at pyruntime/native/container-init."""
        write_commit()
        subprocess.run(["make", "-C", "csrc", "container-init"], check=True, cwd=HERE)


class Build(build):
    """The usual build, container-init first so that build_py finds it."""

    sub_commands = [("build_init", None), *build.sub_commands]


class BuildPy(build_py):
    """build_py with container-init present, also when called alone."""

    def run(self) -> None:
        """Builds container-init, then copies modules and data."""
        self.run_command("build_init")
        super().run()


class BuildScripts(build_scripts):
    """Compiles the launcher instead of copying a script with a rewritten first line."""

    def get_source_files(self) -> list[str]:
        """What a source distribution needs for this command."""
        return [LAUNCHER]

    def run(self) -> None:
        """Leaves the launcher in the folder of built scripts."""
        compile_launcher(HERE / self.build_dir / "pyruntime")


class PlatformDistribution(Distribution):
    """A wheel of this package is never pure: it holds two programs."""

    def has_ext_modules(self) -> bool:
        """True: the wheel gets a platform tag."""
        return True


setup(
    distclass=PlatformDistribution,
    cffi_modules=["pyruntime/native/build_ext.py:ffi"],
    scripts=[LAUNCHER],
    cmdclass={"build": Build, "build_init": BuildInit, "build_py": BuildPy, "build_scripts": BuildScripts},
)
