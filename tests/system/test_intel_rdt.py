"""linux.intelRdt against a tree that stands for resctrl, which takes a processor that few machines have.

The stand-in is a folder with a group in it: what the kernel would do with the files is not shown here, but what is
written where and when is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pyruntime.errors import HostError, RuntimeFailure, SpecError, UsageError
from pyruntime.host import probe
from pyruntime.lifecycle import state, store
from pyruntime.lifecycle.create import create
from pyruntime.lifecycle.delete import delete
from pyruntime.lifecycle.exec_ import rdt_paths
from pyruntime.lifecycle.process import reap
from pyruntime.lifecycle.settings import Settings
from pyruntime.lifecycle.update import update

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.system.bundle import Bundle

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system


@pytest.fixture
def resctrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "resctrl"
    (folder / "gold").mkdir(parents=True)
    (folder / "gold/schemata").write_text("    L3:0=00ff;1=00ff\n    MB:0=100\n")
    (folder / "gold/tasks").touch()
    monkeypatch.setattr(probe, "resctrl_mount", lambda: str(folder))
    return folder


def settings(tmp_path: Path) -> Settings:
    return Settings(root=str(tmp_path / "root"), cache=str(tmp_path / "cache"))


def test_the_container_is_in_the_group(own_host: None, make_bundle: MakeBundle, resctrl: Path, tmp_path: Path) -> None:
    bundle = make_bundle("sleep 600", {"linux.intelRdt": {"closID": "gold", "l3CacheSchema": "L3:0=ff", "schemata": ["MB:0=50"]}})
    pidfd = create(settings(tmp_path), "rdt", str(bundle.path))
    try:
        with store.lookup(str(tmp_path / "root"), "rdt") as entry:
            found = state.load(entry)
        assert found["intel_rdt_path"] == str(resctrl / "gold")
        assert rdt_paths(found) == (str(resctrl / "gold"),)
        # stage 0, whose child init is, has joined before it cloned
        assert int((resctrl / "gold/tasks").read_text()) != found["init_process_pid"]
        assert (resctrl / "gold/schemata").read_text().startswith("MB:0=50\n")  # the last that was written
    finally:
        delete(settings(tmp_path), "rdt", force=True)
        reap(pidfd)
        os.close(pidfd)
    assert (resctrl / "gold").is_dir()  # not ours


def refusal(make_bundle: MakeBundle, tmp_path: Path, value: dict[str, object]) -> RuntimeFailure:
    bundle = make_bundle("true", {"linux.intelRdt": value})
    with pytest.raises(RuntimeFailure) as caught:
        create(settings(tmp_path), "rdt", str(bundle.path))
    assert not (tmp_path / "root/rdt").exists()
    return caught.value


def test_another_schema_than_the_groups(own_host: None, make_bundle: MakeBundle, resctrl: Path, tmp_path: Path) -> None:
    failure = refusal(make_bundle, tmp_path, {"closID": "gold", "l3CacheSchema": "L3:0=f"})
    assert isinstance(failure, HostError)
    assert "do not match: L3 of 0" in failure.message
    assert failure.field == "/linux/intelRdt"
    assert (resctrl / "gold/tasks").read_text() == ""


def test_a_group_that_cannot_be_filled_is_removed(
    own_host: None, make_bundle: MakeBundle, resctrl: Path, tmp_path: Path
) -> None:
    """A folder has no schemata by itself: the write fails, and the group that was made is gone."""
    failure = refusal(make_bundle, tmp_path, {"memBwSchema": "MB:0=50"})
    assert "unable to set Intel RDT schemata" in failure.message
    assert sorted(os.listdir(resctrl)) == ["gold"]


def test_no_resctrl(own_host: None, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "resctrl_mount", lambda: "")
    failure = refusal(make_bundle, tmp_path, {"closID": "gold"})
    assert isinstance(failure, SpecError)
    assert "intelRdt is specified in config, but Intel RDT is not enabled" in failure.message


@pytest.mark.parametrize("in_group", [True, False])
def test_update(own_host: None, make_bundle: MakeBundle, resctrl: Path, tmp_path: Path, in_group: bool) -> None:
    """The schema is written, and kept in the configuration; a container without a group is told that it has none."""
    bundle = make_bundle("sleep 60", {"linux.intelRdt": {"closID": "gold"}} if in_group else {})
    pidfd = create(settings(tmp_path), "rdt", str(bundle.path))
    try:
        if in_group:
            update(settings(tmp_path), "rdt", flags={"l3-cache-schema": "L3:0=f"})
            assert (resctrl / "gold/schemata").read_text().startswith("L3:0=f\n")
            with store.lookup(str(tmp_path / "root"), "rdt") as entry:
                assert state.load(entry)["config"]["linux"]["intelRdt"] == {"closID": "gold", "l3CacheSchema": "L3:0=f"}
        else:
            with pytest.raises(UsageError, match="Intel RDT is not enabled for this container"):
                update(settings(tmp_path), "rdt", flags={"mem-bw-schema": "MB:0=50"})
    finally:
        delete(settings(tmp_path), "rdt", force=True)
        reap(pidfd)
        os.close(pidfd)
