"""A real Debian tree, in every compression, is what GNU tar makes of it; and many layers in one mount."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import pytest

from pyruntime.image.unpack import overlay_options
from tests.image.trees import describe, differences, directory, file, layer, unpack
from tests.images import debian_tar

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"overlay", b"merged", b"overlay", 1, os.fsencode(sys.argv[1])) < 0:
    raise OSError(ctypes.get_errno(), "mount")
print(sorted(os.listdir("merged")).__len__(), open("merged/d/f").read())
"""


@pytest.mark.slow
def test_a_debian_tree_is_what_gnu_tar_makes_of_it(tmp_path) -> None:
    path = debian_tar()
    data = path.read_bytes()
    (tmp_path / "tar").mkdir()
    command = ["tar", "-C", tmp_path / "tar", "-xpf", path, "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run(command, check=True)
    want = describe(tmp_path / "tar")
    zstd = subprocess.run(["zstd", "-q", "-1", "-c", path], check=True, capture_output=True).stdout
    diff_ids = set()
    for name, blob in (("plain", data), ("gzip", gzip.compress(data, 1)), ("zstd", zstd)):
        result = unpack(blob, tmp_path / name)
        assert differences(want, describe(tmp_path / name)) == []
        assert (result.warnings, result.links) == ((), ())
        diff_ids.add(result.diff_id)
    assert len(diff_ids) == 1


def test_128_layers_in_one_mount(tmp_path) -> None:
    """By short names below a working directory: the options of mount(2) are a page."""
    for number in range(128):
        (tmp_path / str(number)).mkdir()
        if number in {0, 127}:
            unpack(layer(directory("d"), file("d/f", b"%d" % number)), tmp_path / str(number))
        (tmp_path / str(number) / f"f{number}").touch()
    (tmp_path / "merged").mkdir()
    options = overlay_options([str(number) for number in reversed(range(128))])
    done = subprocess.run(["unshare", "-m", sys.executable, "-c", MOUNT, options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("129 127", "")
