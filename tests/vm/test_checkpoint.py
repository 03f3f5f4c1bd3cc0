"""checkpoint and restore with criu, on the kernel that Debian's criu was made for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.runtime import finish, wait_until
from tests.vm.counter import (
    COUNTER,
    SLOW_S,
    Console,
    checkpoint,
    count,
    logs,
    passes,
    read_until,
    restored,
    started,
    state,
)

pytestmark = pytest.mark.system


@pytest.mark.representative
def test_counter_survives(runtime, make_bundle, tmp_path):
    data, images, out = tmp_path / "data", tmp_path / "images", tmp_path / "out"
    data.mkdir()
    (data / "word").write_text("bound")
    bundle = make_bundle(f"echo one; {COUNTER}; echo end", {
        "linux.resources": {"pids": {"limit": 31}}, "linux.maskedPaths": ["/proc/keys", "/etc/group", "/sys"],
        "linux.readonlyPaths": ["/proc/sys"]})  # fmt: skip
    bundle.add_mounts({"destination": "/mnt/data", "source": str(data), "options": ["rbind", "ro"]})
    with started(runtime, bundle, out) as first:
        passes(bundle, 2)
        checkpoint(runtime, first, images)
        assert "does not exist" in runtime("state", first).err
    before = count(bundle)
    (bundle.rootfs / "mnt/data").rmdir()  # made again by restore
    with restored(runtime, bundle, images, out, "--pid-file", str(tmp_path / "pid")) as name:
        after = passes(bundle, before)
        assert after < before + 1000
        found = state(runtime, name)
        assert found["status"] == "running"
        assert (tmp_path / "pid").read_text() == str(found["pid"])
        script = "cat /mnt/data/word; cat /etc/group; ls /sys; touch /mnt/data/x 2>/dev/null || echo read-only"
        seen = runtime("exec", name, "sh", "-c", script, timeout_s=SLOW_S)
        assert seen.out == "boundread-only\n", seen
        cgroup = Path(f"/proc/{found['pid']}/cgroup").read_text().strip().partition("::")[2]
        assert cgroup.endswith(name)
        assert Path(f"/sys/fs/cgroup{cgroup}/pids.max").read_text() == "31\n"
        runtime("kill", name, "KILL")
    assert out.read_text() == "one\n"


def test_pre_dump_leave_running_and_parent(runtime, make_bundle, tmp_path):
    bundle, out = make_bundle(COUNTER), tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        checkpoint(runtime, first, tmp_path / "pre", "--pre-dump")
        assert state(runtime, first)["status"] == "running"
        passes(bundle, count(bundle))
        checkpoint(runtime, first, tmp_path / "full", "--parent-path", "../pre", "--leave-running", "--work-path",
                   str(tmp_path / "work"))  # fmt: skip
        assert (tmp_path / "work/dump.log").exists()
        assert state(runtime, first)["status"] == "running"
        passes(bundle, count(bundle))
    before = count(bundle)
    with restored(runtime, bundle, tmp_path / "full", out):
        passes(bundle, 1)
        wait_until(lambda: count(bundle) not in (0, before), "the restored counter writes", SLOW_S)


def test_a_paused_container(runtime, make_bundle, tmp_path):
    """It stays paused when it is left running, and runs when it is restored: as containerd does it."""
    bundle, images, out = make_bundle(COUNTER), tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        assert runtime("pause", first, timeout_s=SLOW_S).code == 0
        checkpoint(runtime, first, images, "--leave-running")
        assert state(runtime, first)["status"] == "paused"
        assert runtime("resume", first, timeout_s=SLOW_S).code == 0
        passes(bundle, count(bundle))
    before = count(bundle)
    with restored(runtime, bundle, images, out) as name:
        assert state(runtime, name)["status"] == "running"
        wait_until(lambda: count(bundle) not in (0, before), "the restored counter writes", SLOW_S)


def test_foreground_restore_has_the_exit_code(runtime, make_bundle, tmp_path):
    bundle, images, out = make_bundle("while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 7"), tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        checkpoint(runtime, first, images)
    name = runtime.new_id()
    with out.open("ab") as file:
        call = runtime.popen("restore", "-b", bundle.path, "--image-path", images, name, stdout=file, stderr=file)
        wait_until(lambda: name in runtime.ids() and runtime("state", name).code == 0, "restored", SLOW_S)
        (bundle.rootfs / "tmp/go").touch()
        assert finish(call, SLOW_S) == 7, logs(images)
    assert runtime.ids() == []


def test_failures_leave_what_was(runtime, make_bundle, tmp_path):
    bundle, images, out = make_bundle(COUNTER), tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        failed = runtime("checkpoint", "--image-path", images, "--parent-path", "../none", first, timeout_s=SLOW_S)
        assert failed.code == 1
        assert "--parent-path ../none" in failed.message
        assert state(runtime, first)["status"] == "running"
        checkpoint(runtime, first, images)
    for image in images.glob("core-*.img"):
        image.write_bytes(b"damaged")
    name = runtime.new_id()
    with out.open("ab") as file:
        call = runtime.popen("restore", "-b", bundle.path, "--image-path", images, name, stdout=file, stderr=file)
        assert finish(call, SLOW_S) == 1
    assert "criu failed: type RESTORE" in out.read_text()
    assert runtime.ids() == []


def test_terminal(runtime, make_bundle, tmp_path):
    bundle = make_bundle("while read line; do echo got $line; done", {"process.terminal": True})
    images, out = tmp_path / "images", tmp_path / "out"
    with Console(tmp_path) as console:
        with started(runtime, bundle, out, "--console-socket", console.path) as first:
            master = console.master()
            os.write(master, b"a\n")
            read_until(master, b"got a")
            checkpoint(runtime, first, images)
            os.close(master)
        with restored(runtime, bundle, images, out, "--console-socket", console.path):
            master = console.master()
            os.write(master, b"b\n")
            read_until(master, b"got b")
            os.close(master)
