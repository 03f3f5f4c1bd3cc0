"""cgroup/stats.py, manager.py and subtree.py on plain files that look like cgroupfs: what this kernel cannot show."""

from __future__ import annotations

import time

import pytest

from pyruntime.cgroup import manager
from pyruntime.cgroup.change import change
from pyruntime.cgroup.stats import NO_LIMIT, parse_list, stats
from pyruntime.cgroup.subtree import processes_below
from pyruntime.errors import HostError
from pyruntime.plan.step import HostStep

pytestmark = pytest.mark.unit

V2_FILES = {
    "cpu.stat": "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "cpuset.cpus.effective": "0-2,5\n",
    "cpuset.mems.effective": "0\n",
    "memory.current": "100\n", "memory.max": "1000\n", "memory.peak": "150\n",
    "memory.swap.current": "7\n", "memory.swap.max": "50\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.stat": "anon 5\nfile 6\n",
    "pids.current": "3\n", "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=6\n253:1 rbytes=9\n",
    "hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.max": "max\n", "hugetlb.2MB.events": "max 5\n",
    "hugetlb.2MB.rsvd.current": "0\n",
}
V2_STATS = {
    "cpu": {"usage": {"total": 30000, "kernel": 20000, "user": 10000},
            "throttling": {"periods": 4, "throttledPeriods": 3, "throttledTime": 2000},
            "psi": {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.25, "total": 77},
                    "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0}}},
    "cpuset": {"cpus": [0, 1, 2, 5], "mems": [0], "cpu_exclusive": 0, "mem_hardwall": 0, "mem_exclusive": 0,
               "memory_migrate": 0, "memory_spread_page": 0, "memory_spread_slab": 0, "memory_pressure": 0,
               "sched_load_balance": 0, "sched_relax_domain_level": 0},
    "memory": {"cache": 6, "usage": {"limit": 1000, "usage": 100, "max": 150, "failcnt": 9},
               "swap": {"limit": 1050, "usage": 107, "failcnt": 0}, "kernel": {"limit": 0, "failcnt": 0},
               "kernelTCP": {"limit": 0, "failcnt": 0}, "raw": {"anon": 5, "file": 6}},
    "pids": {"current": 3},
    "blkio": {"ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 1},
                                          {"major": 8, "op": "Write", "value": 2}, {"major": 8, "op": "Discard"},
                                          {"major": 253, "minor": 1, "op": "Read", "value": 9}],
              "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 3}, {"major": 8, "op": "Write", "value": 4},
                                      {"major": 8, "op": "Discard", "value": 6}]},
    "hugetlb": {"2MB": {"usage": 2097152, "failcnt": 5}},
    "intel_rdt": {},
    "network_interfaces": None,
}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def test_stats_v2(tmp_path):
    assert stats((("", fill(tmp_path, V2_FILES)),)) == V2_STATS


@pytest.mark.parametrize(("limit", "swap", "both"), [("max", "5", NO_LIMIT), ("5", "max", NO_LIMIT), ("5", "6", 11)])
def test_swap_counts_memory_and_swap_together(tmp_path, limit, swap, both):
    path = fill(tmp_path, {"memory.max": limit, "memory.swap.max": swap})
    assert stats((("", path),))["memory"]["swap"]["limit"] == both


BFQ = "8:0 Read 1\n8:0 Write 0\n8:0 Total 1\nTotal 1\n"
ONE_READ = [{"major": 8, "op": "Read", "value": 1}, {"major": 8, "op": "Write"},
            {"major": 8, "op": "Total", "value": 1}]


@pytest.mark.parametrize(("files", "expected"), [
    ({}, {}),
    ({"blkio.bfq.io_serviced_recursive": "Total 0\n", "blkio.throttle.io_serviced_recursive": BFQ},
     {"ioServicedRecursive": ONE_READ}),
    ({"blkio.bfq.io_serviced_recursive": BFQ, "blkio.throttle.io_serviced_recursive": "9:9 Read 7\n"},
     {"ioServicedRecursive": ONE_READ}),
    ({"blkio.bfq.time_recursive": "8:16 44\n"}, {"ioTimeRecursive": [{"major": 8, "minor": 16, "value": 44}]}),
], ids=["none", "throttle", "bfq", "no operation"])
def test_blkio_v1(tmp_path, files, expected):
    assert stats((("blkio", fill(tmp_path, files)),))["blkio"] == expected


@pytest.mark.parametrize(("text", "numbers"), [("", []), ("\n", []), ("0", [0]), ("0-3,7\n", [0, 1, 2, 3, 7])])
def test_parse_list(text, numbers):
    assert parse_list(text) == numbers


# -- writes that may be passed over, and those that may not

@pytest.mark.parametrize(("file", "data", "passes"), [
    ("memory.memsw.limit_in_bytes", "-1", True),
    ("memory.memsw.limit_in_bytes", "5", False),
    ("memory.swap.max", "max", True),
    ("memory.swap.max", "0", True),
    ("memory.swap.max", "5", False),
    ("cpu.cfs_burst_us", "5", True),
    ("cpu.max.burst", "5", False),
    ("hugetlb.2MB.rsvd.max", "5", True),
    ("hugetlb.2MB.rsvd.limit_in_bytes", "5", True),
    ("hugetlb.2MB.max", "5", False),
    ("pids.max", "max", False),
])
def test_missing_file(tmp_path, file, data, passes):
    path = f"{tmp_path}/{file}"
    if passes:
        manager.write(path, data)
        return
    with pytest.raises(HostError) as caught:
        manager.write(path, data, "/linux/resources/x")
    assert str(caught.value) == f"open {path}: no such file or directory"
    assert caught.value.field == "/linux/resources/x"


@pytest.mark.parametrize(("data", "written"), [("500", "default 4950"), ("8:0 10", "8:0 1")])
def test_io_weight_where_bfq_is_not(tmp_path, data, written):
    (tmp_path / "io.weight").write_text("")
    manager.write(f"{tmp_path}/io.bfq.weight", data)
    assert (tmp_path / "io.weight").read_text() == written


# -- undoing, without a kernel that would refuse

@pytest.mark.parametrize(("file", "old", "data", "undone"), [
    ("pids.max", "max\n", "5", "max"),
    ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", "1", "0"),
    ("blkio.throttle.read_bps_device", "8:0 100\n8:16 200\n", "8:16 5", "8:16 200"),
    ("blkio.throttle.read_bps_device", "8:0 100\n", "8:16 5", "8:16 0"),
    ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n", "8:0 rbps=9", "8:0 rbps=1 wbps=max riops=max wiops=max"),
    ("io.max", "", "8:0 rbps=9", "8:0 rbps=max wbps=max riops=max wiops=max"),
    ("rdma.max", "mlx5 hca_handle=2 hca_object=max\n", "x hca_handle=1", "x hca_handle=max hca_object=max"),
])
def test_undo(tmp_path, monkeypatch, file, old, data, undone):
    (tmp_path / file).write_text(old)
    written = []

    def write(path, text, origin=""):
        if path.endswith("bad"):
            raise HostError("refused")
        written.append((path, text))

    monkeypatch.setattr("pyruntime.cgroup.change.write", write)
    path = f"{tmp_path}/{file}"
    with pytest.raises(HostError, match="refused"):
        change((HostStep("cg_write", (path, data)), HostStep("cg_write", (f"{tmp_path}/bad", "x"))))
    assert written == [(path, data), (path, undone)]


@pytest.mark.parametrize(("current", "limit", "fits"), [("50\n", "50", True), ("51\n", "50", False)])
def test_check_before_update(tmp_path, current, limit, fits):
    fill(tmp_path, {"memory.current": current, "memory.max": "max\n"})
    steps = (HostStep("cg_check", (f"{tmp_path}/memory.current", limit), "/linux/resources/memory/limit"),
             HostStep("cg_write", (f"{tmp_path}/memory.max", limit)))
    if fits:
        change(steps)
        assert (tmp_path / "memory.max").read_text().startswith(limit)
        return
    with pytest.raises(HostError, match=r"^unable to set memory limit to 50 \(current usage: 51\)$"):
        change(steps)
    assert (tmp_path / "memory.max").read_text() == "max\n"


# -- looking

def test_foreign_pids_are_left_out(tmp_path):
    (tmp_path / "cgroup.procs").write_text("7\n0\n9\n0\n")
    assert processes_below(str(tmp_path), time.monotonic() + 5) == {7, 9}


@pytest.mark.parametrize(("controller", "file", "text", "frozen"), [
    ("freezer", "freezer.state", "THAWED\n", False),
    ("freezer", "freezer.state", "FREEZING\n", True),
    ("freezer", "freezer.state", "FROZEN\n", True),
    ("", "cgroup.freeze", "0\n", False),
    ("", "cgroup.freeze", "1\n", True),
    ("pids", "pids.max", "1\n", False),
    ("freezer", "other", "", False),
])
def test_frozen(tmp_path, controller, file, text, frozen):
    assert manager.frozen(((controller, fill(tmp_path, {file: text})),)) is frozen


def test_missing_stops_at_the_mount(tmp_path):
    (tmp_path / "there").mkdir()
    top = str(tmp_path)
    assert manager.missing((("a", f"{top}/there/x/y"), ("b", f"{top}/there/x/z"), ("c", f"{top}/there"))) == (
        f"{top}/there/x/y", f"{top}/there/x", f"{top}/there/x/z")
