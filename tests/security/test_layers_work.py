"""Layers made to cost much: memory and work of the real helper, and of settling, for what a hostile archive asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PROGRAM = Path(__file__).with_name("layer_work.py")
PACKAGES = ":".join([str(PROGRAM.parents[2]), *(path for path in sys.path if "site-packages" in path)])
FLOOR_KIB, ROOM_KIB = 40_000, 16_000


class Cost(NamedTuple):
    """CPU seconds of helper and settling; the helper's peak of memory."""

    cpu_s: float
    memory_kib: int


@pytest.fixture
def place(tmp_path):
    """A tmpfs: ext4 looks long for an inode after many were freed, which would be measured too."""
    made = tmp_path / "work"
    made.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "work", made], check=True)
    yield made
    subprocess.run(["umount", made], check=True)


def said(place: Path, case: str, count: int, mode: str = "overlay") -> str:
    """What the program prints."""
    folder = place / f"{case}-{count}-{mode}"
    done = subprocess.run([sys.executable, "-I", "-S", "-B", PROGRAM, PACKAGES, case, str(count), mode, folder],
                          capture_output=True, text=True, check=False, timeout=280)  # fmt: skip
    subprocess.run(["rm", "-rf", folder], check=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cost(place: Path, case: str, count: int, mode: str = "overlay") -> Cost:
    """Of a layer that is unpacked."""
    cpu_s, memory_kib = said(place, case, count, mode).split()
    return Cost(float(cpu_s), int(memory_kib))


def test_memory_stays_flat(place) -> None:
    """S51: 20,000 directories, chains of them, or 300 MB in a file take no more memory than one file."""
    floor = cost(place, "one", 1).memory_kib
    assert floor < FLOOR_KIB  # else the bound below would not be one of the helper
    for case, count in (("unlisted", 20_000), ("deep", 30_000), ("same_directory", 20_000), ("large", 300)):
        assert cost(place, case, count).memory_kib < floor + ROOM_KIB, case


@pytest.mark.parametrize(("case", "count", "mode"), [
    ("unlisted", 1500, "overlay"), ("deep", 3000, "overlay"), ("deep", 3000, "flat"), ("branches", 300, "overlay"), ("links", 300, "overlay"),
    ("whiteouts", 300, "overlay"), ("opaque_again", 700, "overlay"), ("opaque_again", 700, "flat"), ("whiteout_again", 700, "overlay"),
    ("whiteout_again", 700, "flat"), ("same_directory", 1500, "overlay"), ("xattrs", 8000, "overlay"),
])  # fmt: skip
def test_four_times_the_entries_are_not_sixteen_times_the_work(place, case, count, mode) -> None:
    """S51: a ratio of CPU time, which a slow machine does not change; what was quadratic gave 14 and more."""
    once, often = cost(place, case, count, mode), cost(place, case, 4 * count, mode)
    assert often.cpu_s < 8 * once.cpu_s


def test_a_way_through_symlinks_has_a_bound(place) -> None:
    """S51: links to links to deep directories are no way to have each entry walk for seconds."""
    assert cost(place, "up_and_down", 20).cpu_s < cost(place, "one", 1).cpu_s + 30
    assert "too long a way through symlinks" in said(place, "up_and_down", 500)


def test_directories_without_entries_have_a_bound(place) -> None:
    """S51: a short blob of long paths does not fill the disk's inodes, nor the memory of who is told of them."""
    assert "far more directories than entries" in said(place, "deep", 120_000)
