"""The cgroup room against this kernel: v1 and hybrid. Everything is made below one cgroup of our own and removed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pyruntime.cgroup import manager
from pyruntime.cgroup.change import change
from pyruntime.cgroup.events import OomWatch
from pyruntime.cgroup.plan import compile_cgroup
from pyruntime.cgroup.stats import stats
from pyruntime.cgroup.update import compile_update
from pyruntime.errors import HostError
from pyruntime.host.cgroup_probe import probe_cgroup
from pyruntime.host.facts import HostFacts
from pyruntime.native import kernel
from pyruntime.plan.step import HostStep, Options
from pyruntime.spec.config import Spec
from pyruntime.spec.linux import CPU, DeviceRule, HugepageLimit, Linux, Memory, Resources

FACTS = probe_cgroup()
V1_NAMES = {name for hierarchy in FACTS.hierarchies for name in hierarchy.controllers}
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not {"pids", "freezer", "memory", "cpu", "cpuset", "devices"} <= V1_NAMES,
                       reason="needs the v1 controllers pids, freezer, memory, cpu, cpuset and devices"),
]
needs_unified = pytest.mark.skipif(FACTS.layout != "hybrid", reason="needs a unified tree beside v1")
WAIT_S = 60  # what a busy machine does not need
TOP = f"pyruntime-test-{os.getpid()}"
BOMB = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n"
EAT = "import time\nheld = bytearray(64 << 20)\nprint(1, flush=True)\ntime.sleep(60)\n"


class Box:
    """A container's cgroups without the container."""

    def __init__(self, name, **resources):
        spec = Spec("1.3.0", linux=Linux(cgroups_path=f"{TOP}/{name}", resources=Resources(**resources)))
        self.resources = spec.linux.resources
        self.plan = compile_cgroup(spec, HostFacts(cgroup=FACTS), Options(id=name))
        self.paths, self.dirs, self.children = self.plan.paths, dict(self.plan.paths), []
        self.created = manager.missing(self.paths, FACTS)

    def make(self):
        manager.apply((*self.plan.make, *self.plan.early))
        return self

    def limit(self):
        manager.apply(self.plan.limits)
        return self

    def run(self, *argv, before=lambda: None, **options):
        """A process that is in every cgroup before it executes `argv`; `before` is called in between."""
        gate, release = os.pipe()
        child = subprocess.Popen(["/bin/sh", "-c", 'read x; exec "$@"', "sh", *argv], stdin=gate, **options)
        os.close(gate)
        self.children.append(child)
        for step in self.plan.join:
            manager.join(step.args[0], child.pid)
        before()
        os.write(release, b"\n")
        os.close(release)
        return child

    def read(self, controller, file):
        with open(f"{self.dirs[controller]}/{file}") as text:
            return text.read().strip()

    def end(self):
        manager.kill_all(self.paths, 9)
        for child in self.children:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
        manager.remove(self.paths, self.created)


@pytest.fixture
def box():
    boxes = []

    def new(name="box", **resources):
        boxes.append(Box(name, **resources))
        return boxes[-1]

    yield new
    for one in reversed(boxes):
        one.end()
    assert not [path for path in {path for one in boxes for path in one.created} if os.path.exists(path)]


def wait_until(condition, seconds=WAIT_S):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# -- limits

def test_limits_stand_in_the_files(box):
    one = box(memory=Memory(limit=64 << 20, reservation=32 << 20, swappiness=10), pids_limit=20,
              cpu=CPU(shares=512, quota=50000, period=100000, cpus="0", mems="0"),
              devices=(DeviceRule(False, "a", None, None, "rwm"), DeviceRule(True, "c", 1, 11, "r"))).make()
    child = one.run("sleep", "60")
    one.limit()
    assert one.read("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert one.read("memory", "memory.soft_limit_in_bytes") == str(32 << 20)
    assert one.read("memory", "memory.swappiness") == "10"
    assert one.read("pids", "pids.max") == "20"
    assert (one.read("cpu", "cpu.shares"), one.read("cpu", "cpu.cfs_quota_us")) == ("512", "50000")
    assert one.read("cpuset", "cpuset.cpus") == "0"
    devices = one.read("devices", "devices.list").splitlines()
    assert "c 1:11 r" in devices
    assert "a *:* rwm" not in devices
    with open(f"/proc/{child.pid}/cgroup") as text:
        lines = [line.strip().split(":", 2) for line in text]
    mounted = V1_NAMES | ({""} if FACTS.layout == "hybrid" else set())
    places = [place for _, names, place in lines if names.split(",")[0] in mounted]
    assert len(places) == len(FACTS.hierarchies)
    assert all(place.endswith(f"/{TOP}/box") for place in places)


@needs_unified
def test_a_controller_of_the_unified_tree(box):
    if "hugetlb" not in FACTS.hierarchies[-1].v2_controllers:
        pytest.skip("the unified tree has no hugetlb controller")
    one = box(hugepage_limits=(HugepageLimit("2MB", 4 << 20),)).make()
    one.run("sleep", "60")
    one.limit()
    assert one.read("", "hugetlb.2MB.max") == str(4 << 20)
    assert one.read("", "hugetlb.2MB.rsvd.max") == str(4 << 20)


@needs_unified
def test_a_wrong_page_size_names_the_file(box):
    if "hugetlb" not in FACTS.hierarchies[-1].v2_controllers:
        pytest.skip("the unified tree has no hugetlb controller")
    one = box(hugepage_limits=(HugepageLimit("3MB", 0),)).make()
    with pytest.raises(HostError, match=r"^open .*/hugetlb.3MB.max: no such file or directory$") as caught:
        one.limit()
    assert caught.value.field == "/linux/resources/hugepageLimits/0"


def test_memory_below_usage(box):
    one = box().make()
    child = one.run(sys.executable, "-c", EAT, stdout=subprocess.PIPE)
    child.stdout.readline()
    step = HostStep("cg_write", (f"{one.dirs['memory']}/memory.limit_in_bytes", "4096"))
    message = r"^unable to set memory limit to 4096 \(current usage: \d+, peak usage: \d+\)$"
    with pytest.raises(HostError, match=message):
        manager.apply((step,))


def test_no_cpuset_is_left_empty(box):
    one = box("a/b/c").make()
    parent = one.dirs["cpuset"]
    for _ in range(3):
        with open(f"{parent}/cpuset.cpus") as cpus, open(f"{parent}/cpuset.mems") as mems:
            assert cpus.read().strip()
            assert mems.read().strip()
        parent = os.path.dirname(parent)


def test_values_of_an_older_owner_do_not_stand_in_the_way(box):
    one = box(memory=Memory(limit=64 << 20), cpu=CPU(period=100000, quota=1000)).make()
    manager.write(f"{one.dirs['memory']}/memory.limit_in_bytes", str(1 << 20))
    manager.write(f"{one.dirs['memory']}/memory.memsw.limit_in_bytes", str(2 << 20))
    one.limit()
    assert one.read("memory", "memory.limit_in_bytes") == str(64 << 20)


def test_the_kernel_refuses(box):
    one = box().make()
    with pytest.raises(HostError, match=r'^failed to write "many": write .*/pids.max: invalid argument$') as caught:
        manager.write(f"{one.dirs['pids']}/pids.max", "many", "/linux/resources/pids/limit")
    assert (caught.value.errno, caught.value.field, caught.value.value) == (22, "/linux/resources/pids/limit", "many")


def test_joining_a_dead_process(box):
    one = box().make()
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(HostError, match="unable to apply cgroup configuration: failed to write .*: no such process"):
        manager.join(one.dirs["pids"], child.pid)


# -- born in cgroups

def busybox():
    """A descriptor of a static program that needs nothing but its own file."""
    where = shutil.which("busybox")
    if where is None:
        pytest.skip("needs busybox-static")
    return os.open(where, os.O_RDONLY | os.O_CLOEXEC)


class Born:
    """`sleep`, started by kernel.spawn with a socket of its own."""

    def __init__(self, **places):
        program, null, (ours, theirs) = busybox(), os.open("/dev/null", os.O_RDWR), kernel.socketpair()
        try:
            self.pid, self.pidfd, self.left = kernel.spawn(program, theirs, (null, null, null), ("sleep", "600"), **places)
        finally:
            for fd in (program, null, ours, theirs):
                os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)

    def cgroups(self):
        """The paths of all of its cgroups."""
        return [line.split(":", 2)[2] for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()]


def test_a_process_is_born_in_its_cgroups(box):
    one = box().make()
    unified, places = manager.open_places([path for _, path in one.paths])
    held = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        with Born(cgroup=unified, tasks=[fd for fd in places if fd != unified]) as born:
            for _, path in one.paths:
                assert str(born.pid) in Path(path, "cgroup.procs").read_text().split()
            assert sum(f"/{TOP}/box" in path for path in born.cgroups()) >= len({path for _, path in one.paths})
            wait_until(lambda: sorted(map(int, os.listdir(f"/proc/{born.pid}/fd"))) == [0, 1, 2, 3])  # execve closes last
    finally:
        for fd in (held, *places):
            os.close(fd)
    assert born.left == ([] if os.uname().machine == "x86_64" or unified < 0 else [unified])
    assert len(places) == len({path for _, path in one.paths})


def test_where_it_cannot_be_born_is_left(box):
    """A file that does not take the write, and a descriptor that is no cgroup: the process runs all the same."""
    one = box().make()
    deaf = os.open(f"{one.dirs['pids']}/tasks", os.O_RDONLY)
    good = os.open(f"{one.dirs['memory']}/tasks", os.O_WRONLY)
    other = os.open("/tmp", os.O_RDONLY)
    try:
        with Born(cgroup=other, tasks=[deaf, good]) as born:
            assert born.left == [other, deaf]
            assert str(born.pid) in Path(one.dirs["memory"], "cgroup.procs").read_text().split()
            assert str(born.pid) not in Path(one.dirs["pids"], "cgroup.procs").read_text().split()
    finally:
        for fd in (deaf, good, other):
            os.close(fd)


def test_what_cannot_be_opened_is_not_among_the_places(box, tmp_path, monkeypatch):
    one = box().make()
    assert manager.open_places([str(tmp_path), f"{one.dirs['pids']}/absent"]) == (-1, {})

    def full(*_, **__):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(manager, "open", full)
    assert manager.open_places([path for _, path in one.paths]) == (-1, {})


# -- looking, freezing, killing

def test_check_empty(box):
    one = box()
    manager.check_empty(one.paths)  # nothing there yet
    one.make()
    manager.check_empty(one.paths)
    child = one.run("sleep", "60")
    with pytest.raises(HostError, match=r"^container's cgroup is not empty: 1 process\(es\) found$"):
        manager.check_empty(one.paths)
    child.kill()
    child.wait()
    manager.freeze(one.paths)
    with pytest.raises(HostError, match="^container's cgroup unexpectedly frozen$"):
        manager.check_empty(one.paths)
    manager.thaw(one.paths)


def test_check_empty_sees_one_hierarchy_and_sub_cgroups(box):
    one = box().make()
    child = subprocess.Popen(["sleep", "60"])
    one.children.append(child)
    sub = f"{one.dirs['pids']}/sub"
    manager.make(sub)
    manager.join(sub, child.pid)
    with pytest.raises(HostError, match="not empty: 1 process"):
        manager.check_empty(one.paths)


def test_freeze_and_thaw(box):
    one = box().make()
    child = one.run("sh", "-c", "while :; do :; done")
    assert not manager.frozen(one.paths)
    manager.freeze(one.paths)
    assert manager.frozen(one.paths)
    used = cpu_ticks(child.pid)
    time.sleep(0.05)
    assert cpu_ticks(child.pid) == used
    manager.thaw(one.paths)
    wait_until(lambda: cpu_ticks(child.pid) > used)
    assert not manager.frozen(one.paths)


def test_a_cgroup_that_goes_while_it_is_thawed(box):
    """systemd removes a scope as soon as its last process has died, which is when `kill` thaws it."""
    place = Path(box().make().dirs["freezer"]) / "gone"
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            place.mkdir()
            place.rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(5000):
            manager.thaw((("freezer", str(place)),))
    finally:
        ended.set()
        other.join()


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as text:
        return int(text.read().rpartition(") ")[2].split()[11])


@needs_unified
def test_a_frozen_unified_tree_is_refused_and_nobody_is_born_there(box):
    """A parent that waits for a child which freezes at its first instruction could not be interrupted."""
    one = box().make()
    unified = (("", one.dirs[""]),)
    manager.freeze(unified)
    try:
        assert not manager.frozen(one.paths)  # by the other freezer
        with pytest.raises(HostError, match="^container's cgroup unexpectedly frozen$"):
            manager.check_empty(one.paths)
        assert manager.open_places([one.dirs[""]]) == (-1, {})
    finally:
        manager.thaw(unified)


@needs_unified
def test_freeze_on_the_unified_tree(box):
    """What a pure v2 host does, on the tree that a hybrid host has."""
    one = box().make()
    one.run("sleep", "60")
    unified = (("", one.dirs[""]),)
    manager.freeze(unified)
    assert manager.frozen(unified)
    manager.thaw(unified)
    assert not manager.frozen(unified)


def without_unified(paths):
    return tuple(pair for pair in paths if pair[0])


@pytest.mark.parametrize("only_v1", [False, True], ids=["unified", "v1"])
def test_a_fork_bomb_dies(box, only_v1):
    """R10: a fork bomb is gone within 10 s, with cgroup.kill and without."""
    one = box(pids_limit=60).make().limit()
    one.run(sys.executable, "-c", BOMB)
    wait_until(lambda: len(manager.processes(one.paths)) > 50)
    begin = time.monotonic()
    manager.kill_all(without_unified(one.paths) if only_v1 else one.paths, 9)
    assert time.monotonic() - begin < 10
    assert manager.processes(one.paths) == []


@pytest.mark.parametrize("only_v1", [False, True], ids=["unified", "v1"])
def test_a_sub_cgroup_that_froze_itself_dies(box, only_v1):
    one = box().make()
    child = one.run("sleep", "60")
    sub = f"{one.dirs['freezer']}/sub"
    manager.make(sub)
    manager.join(sub, child.pid)
    manager.write(f"{sub}/freezer.state", "FROZEN")
    manager.freeze(one.paths)
    manager.kill_all(without_unified(one.paths) if only_v1 else one.paths, 9)
    assert child.wait(WAIT_S) == -9


def test_other_signals_reach_all_and_leave_it_thawed(box):
    one = box().make()
    children = [one.run("sleep", "60") for _ in range(3)]
    manager.kill_all(one.paths, 15)
    assert [child.wait(WAIT_S) for child in children] == [-15] * 3
    assert not manager.frozen(one.paths)


def test_a_signal_to_a_paused_container_leaves_it_paused(box):
    one = box().make()
    child = one.run("sleep", "60")
    manager.freeze(one.paths)
    manager.kill_all(one.paths, 15)
    assert manager.frozen(one.paths)
    assert child.poll() is None
    manager.thaw(one.paths)
    assert child.wait(WAIT_S) == -15


def test_gone_cgroups_are_no_error(box):
    one = box()
    manager.kill_all(one.paths, 9)
    manager.kill_all(one.paths, 15)
    manager.thaw(one.paths)
    manager.remove(one.paths, one.created)
    assert manager.processes(one.paths) == []
    assert not manager.frozen(one.paths)


# -- removing

def test_processes_are_found_in_cgroups_deeper_than_a_path(box):
    one = box().make()
    child = subprocess.Popen(["sleep", "60"])
    one.children.append(child)
    fd = os.open(one.dirs["freezer"], os.O_RDONLY)
    for _ in range(30):
        os.mkdir("n" * 200, dir_fd=fd)
        deeper = os.open("n" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=fd)
    os.write(procs, str(child.pid).encode())
    os.close(procs)
    os.close(fd)
    assert manager.processes(one.paths) == [child.pid]
    manager.kill_all(without_unified(one.paths), 9)
    assert child.wait(WAIT_S) == -9
    manager.remove(one.paths, one.created)
    assert not os.path.exists(one.dirs["freezer"])


def test_many_and_odd_sub_cgroups_are_removed(box):
    one = box().make()
    for number in range(200):
        os.makedirs(f"{one.dirs['pids']}/{number}/deep")
    for name in (".hidden", "..x", "-rf", "a b", "\\x2e", "\N{SNOWMAN}", "x" * 255):
        os.mkdir(f"{one.dirs['pids']}/{name}")
    os.mkdir(os.fsencode(one.dirs["pids"]) + b"/\xff\xfe")
    manager.remove(one.paths, one.created)
    assert not os.path.exists(one.dirs["pids"])


def test_a_deadline_bounds_the_walk(box):
    one = box().make()
    for number in range(50):
        os.mkdir(f"{one.dirs['freezer']}/{number}")
    with pytest.raises(HostError, match="gave up looking through the cgroups below"):
        manager.processes(one.paths, timeout_s=-1)


def test_what_was_there_before_stays(box):
    outer = box("shared").make()
    inner = Box("shared")
    assert inner.created == ()
    inner.make()
    manager.remove(inner.paths, inner.created)
    assert os.path.exists(outer.dirs["pids"])


def test_a_parent_in_use_stays(box):
    first, second = box("pod/one"), None
    first.make()
    second = box("pod/two").make()
    manager.remove(first.paths, first.created)
    assert not os.path.exists(first.dirs["pids"])
    assert os.path.exists(second.dirs["pids"])
    parents = tuple(path for path in first.created if path not in first.dirs.values())
    second.created = (*second.created, *parents)


def test_a_busy_cgroup_is_named(box):
    one = box().make()
    one.run("sleep", "60")
    with pytest.raises(HostError, match=f"^unable to remove cgroup .*{TOP}/box: device or resource busy$"):
        manager.remove(one.paths, one.created, timeout_s=0.1)


# -- update

def test_update_all_or_none(box):
    one = box(memory=Memory(limit=64 << 20, swap=128 << 20), cpu=CPU(quota=50000, period=100000), pids_limit=9)
    one.make().limit()
    one.run("sleep", "60")
    wanted = Resources(memory=Memory(limit=256 << 20, swap=512 << 20), cpu=CPU(quota=20000), pids_limit=-1)
    merged, steps = compile_update(one.resources, wanted, one.paths, FACTS)
    bad = HostStep("cg_write", (f"{one.dirs['pids']}/pids.max", "many"), "/linux/resources/pids/limit")
    values = (("memory", "memory.limit_in_bytes"), ("memory", "memory.memsw.limit_in_bytes"),
              ("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max"))
    before = [one.read(*pair) for pair in values]
    with pytest.raises(HostError, match="many"):
        change((*steps, bad))
    assert [one.read(*pair) for pair in values] == before
    change(steps)
    assert [one.read(*pair) for pair in values] == [str(256 << 20), str(512 << 20), "20000", "max"]
    _, back = compile_update(merged, one.resources, one.paths, FACTS)
    change(back)
    assert [one.read(*pair) for pair in values] == before


# -- stats and events

def test_stats(box):
    one = box(memory=Memory(limit=64 << 20), pids_limit=9, cpu=CPU(quota=10000)).make()
    one.run("sh", "-c", "while :; do :; done")
    one.limit()
    wait_until(lambda: stats(one.paths)["cpu"].get("throttling", {}).get("throttledPeriods"))
    data = stats(one.paths)
    assert list(data) == ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"]
    usage = data["cpu"]["usage"]
    assert usage["total"] > 0
    assert usage["user"] + usage["kernel"] > 0
    assert len(usage["percpu"]) == len(usage["percpu_kernel"]) == len(usage["percpu_user"])
    assert data["pids"] == {"current": 1, "limit": 9}
    assert data["memory"]["usage"]["limit"] == 64 << 20
    assert data["memory"]["usage"]["usage"] > 0
    assert set(data["memory"]) >= {"usage", "swap", "kernel", "kernelTCP", "raw"}
    assert "total_rss" in data["memory"]["raw"]
    assert data["cpuset"]["cpus"]
    assert data["cpuset"]["sched_load_balance"] == 1
    assert data["network_interfaces"] is None


def test_stats_of_nothing():
    data = stats((("memory", "/nonexistent"), ("", "/nonexistent")))
    assert data["pids"] == {}
    assert data["memory"]["usage"] == {"limit": 0, "failcnt": 0}
    assert data["cpu"] == {"usage": {"kernel": 0, "user": 0}}


def test_out_of_memory_is_seen(box):
    one = box(memory=Memory(limit=16 << 20, swap=16 << 20)).make().limit()
    with OomWatch(one.paths) as watch:
        assert watch.take() == 0
        assert watch.emptied()
        seen = []
        child = one.run(sys.executable, "-c", EAT, before=lambda: seen.append(watch.emptied()), stdout=subprocess.DEVNULL)
        assert seen == [False]
        assert watch.wait(WAIT_S) >= 1
        assert child.wait(WAIT_S) == -9
        wait_until(watch.emptied)
        assert watch.wait(WAIT_S) == 0


def test_the_watch_ends_with_the_cgroup(box):
    one = box().make()
    child = one.run("sleep", "60")
    with OomWatch(one.paths) as watch:
        begin = time.monotonic()
        assert watch.wait(0.05) == 0
        assert time.monotonic() - begin < WAIT_S
        assert not watch.emptied()
        child.kill()
        child.wait()
        assert watch.wait(WAIT_S) == 0
        assert watch.emptied()
        manager.remove(one.paths, one.created)
        assert watch.take() == 0  # removal rings the eventfd, but is no event
        assert watch.emptied()


def test_pure_v1_notices_the_end_without_a_unified_tree(box):
    one = box().make()
    child = one.run("sleep", "60")
    paths = without_unified(one.paths)
    with OomWatch(paths) as watch:
        child.kill()
        child.wait()
        assert watch.wait(WAIT_S) == 0
        assert watch.emptied()
