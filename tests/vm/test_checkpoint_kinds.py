"""checkpoint and restore of what makes containers differ: mounts, a user namespace, the systemd driver, a killed call."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.layouts import SYSTEMD, V1_SYSTEMD
from tests.system.bundle import namespaces
from tests.system.runtime import finish, reap, wait_until
from tests.vm.counter import COUNTER, SLOW_S, checkpoint, count, passes, restored, started, state
from tests.vm.drivers import Driven
from tests.vm.test_systemd import no_scope

pytestmark = pytest.mark.system
MAPS = [{"containerID": 0, "hostID": 70000, "size": 2000}]
V1 = Path("/sys/fs/cgroup/pids/cgroup.procs").exists()
V1_TOO = True
TREES = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options} for options in (["ro"], ["rw"])]


def there_and_back(runtime, bundle, tmp_path, look=""):
    """The counter goes on after a checkpoint and a restore; what `look` prints then in the container."""
    images, out = tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        checkpoint(runtime, first, images)
    before = count(bundle)
    with restored(runtime, bundle, images, out) as name:
        passes(bundle, before)
        return runtime("exec", name, "sh", "-c", look, timeout_s=SLOW_S).out if look else ""


def test_mounts_behind_links_and_below_others(runtime, make_bundle, tmp_path):
    """A target below a symlink of the rootfs, made anew; a recursive bind with a mount in it, and one of our own."""
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "own").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "deep"], check=True)
    (source / "deep/word").write_text("deep\n")
    bundle = make_bundle(f"echo mine > /run/data/own/word; {COUNTER}")
    (bundle.rootfs / "run").mkdir()
    (bundle.rootfs / "var/run").symlink_to("/run")
    bundle.add_mounts({"destination": "/var/run/data", "type": "bind", "source": str(source), "options": ["rbind"]},
                      {"destination": "/var/run/data/own", "type": "tmpfs", "source": "tmpfs"})  # fmt: skip
    try:
        assert there_and_back(runtime, bundle, tmp_path, "cat /run/data/deep/word /run/data/own/word") == "deep\nmine\n"
    finally:
        subprocess.run(["umount", source / "deep"], check=True)


@pytest.mark.parametrize("mount", TREES, ids=["ro", "rw"])
@pytest.mark.parametrize("own", [True, False], ids=["namespace", "no namespace"])
def test_cgroup_mounts(runtime, make_bundle, tmp_path, mount, own):
    """The restored container sees its own cgroup, which has another name than the one before."""
    bundle = make_bundle(COUNTER, {"linux.namespaces": namespaces(*(["cgroup"] if own else []))})
    bundle.add_mounts(mount)
    file = "pids/cgroup.procs" if V1 else "cgroup.procs"
    seen = there_and_back(runtime, bundle, tmp_path, f"cat /sys/fs/cgroup/{file} | grep -c .; cat /proc/self/cgroup")
    assert int(seen.split()[0]) >= (2 if own or V1 else 0), seen


def test_a_user_namespace(runtime, make_bundle, tmp_path):
    changes = {"linux.namespaces": namespaces("user"), "linux.uidMappings": MAPS, "linux.gidMappings": MAPS}
    bundle = make_bundle(COUNTER, changes)
    subprocess.run(["chown", "-R", "70000:70000", bundle.path], check=True)
    for parent in (bundle.path, *bundle.path.parents):
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o711)
    (tmp_path / "out").touch()
    (tmp_path / "out").chmod(0o666)  # criu opens a file that it inherits anew, as root of the container
    seen = there_and_back(runtime, bundle, tmp_path, "tr -s ' ' </proc/self/uid_map; echo x >/dev/null && id -u")
    assert seen == " 0 70000 2000\n0\n"


def test_the_systemd_driver(program, own_host, make_bundle, tmp_path, record_property):
    """The restored container is in a scope of its own, with its limits, and goes with it."""
    record_property("layout", V1_SYSTEMD if V1 else SYSTEMD)
    runtime = Driven(program, tmp_path / "state")
    runtime.manager = "systemd"
    bundle, images, out = make_bundle(COUNTER, {"linux.resources": {"pids": {"limit": 31}}}), tmp_path / "images", tmp_path / "out"
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        checkpoint(runtime, first, images)
    before = count(bundle)
    with restored(runtime, bundle, images, out) as name:
        passes(bundle, before)
        path = Path("/sys/fs/cgroup/pids" if V1 else "/sys/fs/cgroup") / f"system.slice/pyruntime-{name}.scope"
        assert (path / "pids.max").read_text() == "31\n"
        assert str(state(runtime, name)["pid"]) in (path / "cgroup.procs").read_text().split()
    no_scope("--all")
    assert not path.exists()


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_a_call_that_is_killed(runtime, make_bundle, tmp_path, verb):
    """SIGKILL at some instants: delete --force takes everything away, and what was there before is whole or gone."""
    bundle, images, out = make_bundle(COUNTER), tmp_path / "images", tmp_path / "out"
    chance = random.Random(7)
    with started(runtime, bundle, out) as first:
        passes(bundle, 1)
        checkpoint(runtime, first, images, "--leave-running")
    began = time.monotonic()
    with restored(runtime, bundle, images, out):
        length = time.monotonic() - began
    for number in range(3):
        name = runtime.new_id()
        with out.open("ab") as file:
            if verb == "checkpoint":
                assert finish(runtime.popen("run", "-d", "-b", bundle.path, name, stdout=file, stderr=file), SLOW_S) == 0
                words = ["checkpoint", "--image-path", tmp_path / f"images{number}", name]
            else:
                words = ["restore", "--detach", "-b", bundle.path, "--image-path", images, name]
            call = runtime.popen(*words, stdout=file, stderr=file)
            time.sleep(chance.random() * length)
            call.send_signal(signal.SIGKILL)
            finish(call, SLOW_S)
        assert runtime("delete", "--force", name, timeout_s=SLOW_S).code == 0
        wait_until(lambda: not criu_runs(), "criu has ended", SLOW_S)
        reap()
        assert runtime.ids() == []


def criu_runs():
    """Whether a criu is there."""
    return subprocess.run(["pidof", "criu"], check=False, stdout=subprocess.DEVNULL).returncode == 0
