"""What setup.cfg cannot say: the cffi extension, container-init, and the compiled launcher as a script.

`build_init` runs csrc/Makefile and leaves the static container-init in pyruntime/native/ as package data, beside the
image of our modules (tools/image.py). `build_scripts` compiles the launcher; a wheel carries it under scripts/, which
pip installs unchanged because it is no Python script. The launcher gets an interpreter of its own (launcher_embed.c)
when this Python has a static library that links and passes a test; PYRUNTIME_EMBED=0 forbids it.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py

try:
    from setuptools.command.build_scripts import build_scripts  # setuptools 70 on
except ImportError:
    from distutils.command.build_scripts import build_scripts

HERE = Path(__file__).resolve().parent
IMAGE = "pyruntime/native/modules.image"
LAUNCHER, PLAIN, EMBED = "csrc/launcher.c", "csrc/launcher_plain.c", "csrc/launcher_embed.c"
MATH, SNAPSHOT = "csrc/launcher_math.c", ("csrc/launcher_snapshot.c", "csrc/launcher_zones.c")
SNAPSHOT_VERSIONS = ("3.11",)  # whose internal structures it knows
NATIVE = ["csrc/launcher_native.c", "csrc/ext.c", "csrc/ext_spawn.c"]
COMMIT = "pyruntime/COMMIT"
VERSION = sysconfig.get_python_version()
WARNINGS = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror"]


def run(command: list[str]) -> None:
    """Runs a build step in the source folder. Raises CalledProcessError."""
    subprocess.run(command, check=True, cwd=HERE)


def cc() -> list[str]:
    """The words of $CC, or cc."""
    return shlex.split(os.environ.get("CC", "cc"))


def compiler() -> list[str]:
    """The C compiler's words, with the interpreter of this build as the launcher's last resort."""
    interpreter = Path(sysconfig.get_config_var("BINDIR")) / f"python{VERSION}"
    defines = {"BUILD_PYTHON": interpreter, "BUILD_VERSION": VERSION, "BUILD_PREFIX": sys.base_prefix,
               "BUILD_STDLIB": os.path.dirname(os.__file__)}  # fmt: skip
    return [*cc(), *WARNINGS, *[f'-D{key}="{text}"' for key, text in defines.items()]]


def compile_plain(target: Path) -> None:
    """The launcher that starts python3."""
    run([*compiler(), "-o", str(target), LAUNCHER, PLAIN])


def compile_embedded(target: Path, folder: Path, *, trimmed: bool, snapshot: bool) -> None:
    """The launcher with an interpreter inside. Raises CalledProcessError or OSError when it does not link.

    `trimmed` leaves out the built-in modules that need further libraries, and the interning of deep-frozen modules.
    `snapshot` sets the interpreter's memory apart so that it can be saved (csrc/launcher_snapshot.c).
    """
    library = Path(sysconfig.get_config_var("LIBPL"))
    archive, sources = library / f"libpython{VERSION}.a", [LAUNCHER, EMBED, *NATIVE]
    lines = (library / "config.c").read_text(encoding="utf-8").splitlines(keepends=True)
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER, "little")
    flags = [f"-DPYC_MAGIC={magic}U", "-no-pie", "-fno-pie", f"-I{sysconfig.get_path('include')}"]
    linked = ["-ldl", "-lpthread", "-lutil"]
    if trimmed:
        lines = [line for line in lines if not any(name in line for name in ("zlib", "pyexpat", "_elementtree"))]
        flags += ["-DWITHOUT_INTERNING", "-DOWN_CRC32", "-Wl,--wrap=_Py_Deepfreeze_Init"]
        sources.append(MATH)
        flags.append("-fno-builtin")
    else:
        linked += ["-lm", "-lz", "-lexpat"]
    if snapshot:
        renamed = []
        for name, fresh in ((".data", "pydata"), (".PyRuntime", "pydata"), (".bss", "pybss")):
            renamed += ["--rename-section", f"{name}={fresh}"]
        for name in ("malloc", "calloc", "realloc", "free"):
            renamed += ["--redefine-sym", f"{name}=pr_{name}"]
        run(["objcopy", *renamed, str(archive), str(folder / "python.a")])
        archive = folder / "python.a"
        sources += SNAPSHOT
        flags.append("-DSNAPSHOT")
    config = folder / "config.c"
    config.write_text("".join(lines), encoding="utf-8")
    config_object = folder / "config.o"
    include = sysconfig.get_path("include")
    headers = [f"-I{include}", f"-I{include}/internal"]
    run([*cc(), "-O2", "-fno-pie", *headers, "-c", "-o", str(config_object), str(config)])
    linked = ["-Wl,--as-needed", "-Wl,--export-dynamic", "-Wl,-z,noseparate-code", "-s",
              str(archive), *linked]  # fmt: skip
    run([*compiler(), *flags, "-o", str(target), *sources, str(config_object), *linked])


def works(launcher: Path, folder: Path) -> bool:
    """Whether a launcher runs commands, one with the core alone and one that needs the whole interpreter."""
    packages = folder / f"lib/python{VERSION}/site-packages"
    packages.parent.mkdir(parents=True, exist_ok=True)
    if not packages.is_symlink():
        packages.symlink_to(HERE)
    program = folder / "bin" / "pyruntime"
    program.parent.mkdir(exist_ok=True)
    program.write_bytes(launcher.read_bytes())
    program.chmod(0o755)
    # The dependencies need not be here yet, so these are words that come no further than our own modules.
    for words, told in ((["--version"], "pyruntime version"), (["state", "a/b"], "invalid container ID format"),
                        (["kill", "--regex", "("], "invalid regular expression")):  # fmt: skip
        result = subprocess.run([program, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if told not in result.stdout + result.stderr:
            print(f"    not used: {' '.join(words)}: {result.returncode} {result.stderr.strip()}")
            return False
    return True


def compile_launcher(target: Path) -> None:
    """Builds the `pyruntime` program at `target`, the fastest kind that works here."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image()
    if os.environ.get("PYRUNTIME_EMBED") != "0" and (
        Path(sysconfig.get_config_var("LIBPL") or "") / f"libpython{VERSION}.a").exists():  # fmt: skip
        for trimmed, snapshot in ((True, VERSION in SNAPSHOT_VERSIONS), (True, False), (False, False)):
            with tempfile.TemporaryDirectory(dir=target.parent) as name:
                candidate = Path(name) / "candidate"
                try:
                    compile_embedded(candidate, Path(name), trimmed=trimmed, snapshot=snapshot)
                except (subprocess.CalledProcessError, OSError):
                    continue
                if works(candidate, Path(name)):
                    candidate.replace(target)
                    return
    target.unlink(missing_ok=True)
    compile_plain(target)


def write_image() -> None:
    """The image of our modules, for the interpreter of this build."""
    run([sys.executable, "tools/image.py", IMAGE])


def write_commit() -> None:
    """pyruntime/COMMIT holds the checkout's commit for `--version`; without git an existing file stays."""
    if (HERE / ".git").exists():
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE)
        if result.returncode == 0:
            (HERE / COMMIT).write_text(result.stdout.strip() + "\n", encoding="ascii")


class BuildInit(Command):
    """Static container-init, by csrc/Makefile (musl-gcc), and the image, into the package."""

    description = "build container-init and the module image"
    user_options: list[tuple[str, str | None, str]] = []

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        """Leaves both in pyruntime/native/."""
        write_commit()
        write_image()
        run(["make", "-C", "csrc", "container-init"])


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
        return [LAUNCHER, PLAIN, EMBED, MATH, *SNAPSHOT, *NATIVE, "csrc/launcher.h", "csrc/launcher_embed.h"]

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
    cffi_modules=["pyruntime/native/build_ext.py:ffi", "pyruntime/native/build_unpack.py:ffi"],
    scripts=[LAUNCHER],
    cmdclass={"build": Build, "build_init": BuildInit, "build_py": BuildPy, "build_scripts": BuildScripts},
)
