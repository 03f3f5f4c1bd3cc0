"""Places where a daemon cannot be: each is refused with one line that names it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.engine.stand import PYCTRD

pytestmark = pytest.mark.system


def refused(tmp_path: Path, *, socket: str = "api.sock", root: str = "data") -> str:
    """The one line of a daemon that does not start."""
    (tmp_path / "daemon.json").write_text("{}")
    words = [PYCTRD, "--host", f"unix://{tmp_path / socket}", "--data-root", str(tmp_path / root), "--config-file", str(tmp_path / "daemon.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    return line.partition('msg="')[2].rstrip('"')


def test_a_data_root_that_is_a_file(tmp_path):
    (tmp_path / "data").touch()
    assert refused(tmp_path) == f"can't use the data root {tmp_path}/data: file exists"


def test_a_data_root_that_is_read_only(tmp_path):
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "small", tmp_path / "small"], check=True)
    try:
        assert refused(tmp_path, root="small") == f"can't use the data root {tmp_path}/small: read-only file system"
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def test_a_socket_whose_name_is_too_long(tmp_path):
    name = "s" * 120
    assert refused(tmp_path, socket=name) == f"can't create unix socket {tmp_path}/{name}: af_unix path too long"
    assert not os.path.exists(tmp_path / name)
