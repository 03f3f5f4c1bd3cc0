"""checkpoint and restore where criu cannot: what is said, and that nothing has changed. Round trips are in tests/vm."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system
DYING = "#!/bin/sh\necho 'Error (criu/crtools.c:1): this kernel is new to me' >&2\nexit 1\n"


def environment(folder: Path) -> dict[str, str]:
    """PATH with `folder` first."""
    return os.environ | {"PATH": f"{folder}:{os.environ.get('PATH', '')}"}


@pytest.fixture
def dying(tmp_path: Path) -> dict[str, str]:
    """An environment whose criu prints an error and ends."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "criu").write_text(DYING)
    (folder / "criu").chmod(0o755)
    return environment(folder)


def test_checkpoint_that_cannot_be_made(runtime, make_bundle, dying, tmp_path):
    with runtime.container(make_bundle(["sleep", "1000"])) as container:
        result = container("checkpoint", "--image-path", tmp_path / "images", env=dying)
        assert result.code == 1
        assert result.message.startswith("cannot checkpoint: ")
        assert "value: this kernel is new to me" in result.err
        assert container.status == "running"
        assert not (tmp_path / "images").exists()


def test_restore_that_cannot_be_made(runtime, make_bundle, dying, tmp_path):
    result = runtime("restore", "-b", make_bundle("true").path, "--image-path", tmp_path, runtime.new_id(), env=dying)
    assert result.code == 1
    assert result.message.startswith("cannot restore: ")
    assert runtime.ids() == []


@pytest.mark.parametrize(("flags", "text"), [
    (("--manage-cgroups-mode", "hard"), "Invalid manage cgroups mode"),
    (("--page-server", "nowhere"), "Use --page-server ADDRESS:PORT"),
    (("--parent-path", "/tmp"), "--parent-path must be relative"),
    (("--empty-ns", "pid"), "namespace pid is not supported"),
])  # fmt: skip
def test_bad_flags(runtime, flags, text):
    result = runtime("checkpoint", *flags, "nobody")
    assert result.code == 1
    assert text in result.message


def test_only_a_running_container(runtime, make_bundle):
    with runtime.container(make_bundle("true"), start=False) as container:
        assert container("checkpoint").message == "container not running"
    assert "does not exist" in runtime("checkpoint", "nobody").message


def test_a_real_criu_that_fails_says_why(runtime, make_bundle, tmp_path):
    if shutil.which("criu") is None:
        pytest.skip("needs criu")
    with runtime.container(make_bundle(["sleep", "1000"])) as container:
        result = container("checkpoint", "--image-path", tmp_path / "images", "--leave-running", timeout_s=60)
        if result.code == 0:
            pytest.skip("criu works on this kernel; tests/vm has the round trips")
        assert "criu" in result.message
        assert "  value: " in result.err
        assert container.status == "running"
    name = runtime.new_id()
    restored = runtime("restore", "-b", container.bundle.path, "--image-path", tmp_path / "images", name, timeout_s=60)
    assert restored.code == 1
    assert runtime.ids() == []
