"""explain: details in words, the table, the JSON, and a few whole plans held against spec-fixtures/plans.

`python -m tests.unit.test_explain` writes the expected files anew, to be read in review.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from pyruntime.host.facts import HostFacts
from pyruntime.plan.describe import arg_names, attr_names, capability_names, describe, propagation_name
from pyruntime.plan.explain import explain_document, explain_json, explain_text
from pyruntime.plan.kernel import CAPABILITIES, MS_BIND, MS_REC, MS_SLAVE
from pyruntime.plan.opcodes import OPS
from pyruntime.plan.order import compile_plan
from pyruntime.plan.step import HOST_OPS, Deferred, HostStep, Options, Plan, Step
from pyruntime.spec.parse import parse_spec
from tests.plan_samples import BUNDLE, CGROUPS, HYBRID, ROOTLESS, documents, hosts

PLANS = Path(__file__).resolve().parent.parent.parent / "spec-fixtures" / "plans"
# name: (facts of the host, cgroups, options); the config lies in the folder of that name
GOLDEN = {
    "minimal": (HostFacts(cgroup=HYBRID), None, Options("c1")),
    "confined": (HostFacts(cgroup=HYBRID, cpu_count=2), CGROUPS, Options("c1", preserve_fds=1, keyring_token="t")),
    "rootless": (ROOTLESS, None, Options("c1", console=True)),
    "joined": (HostFacts(cgroup=HYBRID), None, Options("c1", no_new_keyring=True)),
}


def golden_plan(name: str) -> Plan:
    host, cgroup, options = GOLDEN[name]
    config = json.loads((PLANS / name / "config.json").read_text())
    bundle = BUNDLE.replace(root_mount="/" if config["linux"].get("rootfsPropagation") else "")
    return compile_plan(parse_spec(config), bundle, host, options, *([cgroup] if cgroup else []))


@pytest.mark.parametrize("name", GOLDEN)
def test_whole_plan_as_json(name):
    assert explain_json(golden_plan(name)) == (PLANS / name / "explain.json").read_text()


@pytest.mark.parametrize("name", GOLDEN)
def test_whole_plan_as_table(name):
    assert explain_text(golden_plan(name)) == (PLANS / name / "explain.txt").read_text()


# --- details ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "detail"), [
    (Step("barrier", (2,)), "mapped"),
    (Step("setns", (3, 0x40000000)), "slot 3, network"),
    (Step("unshare", (0x10000000,)), "user"),
    (Step("clone", (0x8000 | 0x20020000,)), "new mount,pid"),
    (Step("clone", (0x8000,)), ""),
    (Step("write_proc", ("sys/net/x", b"1\n")), "/proc/sys/net/x 1"),
    (Step("mount", ("tmpfs", "tmpfs", "/dev", ("mode=755",), 2 | 0x20, 2)),
     "tmpfs on /dev [nosuid,strictatime] mode=755 (inherit mode)"),
    (Step("mount", ("cgroup", "systemd", "/c", (), 0, 0)), "cgroup systemd on /c"),
    (Step("mount", ("proc", "proc", "/proc", (), 15, 1)), "proc on /proc [ro,nosuid,nodev,noexec] (target no symlink)"),
    (Step("move_mount", (4, "/data", 256)), "slot 4 on /data (target no follow)"),
    (Step("mount_setattr", ("/d", 1, 0, 0, 0)), "/d [ro]"),
    (Step("mount_setattr", ("/d", 1 | 0x10, 0x70 | 2, 0, 4)), "/d [rro,rnoatime,rsuid]"),
    (Step("mount_setattr", ("/d", 0, 0x70, 0, 0)), "/d [relatime]"),
    (Step("mount_setattr", ("/d", 0, 0, 1 << 20, 4)), "/d [rshared]"),
    (Step("remount", ("/d", MS_BIND | 1, "")), "/d [MS_RDONLY|MS_REMOUNT|MS_BIND]"),
    (Step("mknod", ("/dev/fuse", 0o020600, 2789, 3, 4)), "/dev/fuse c 10:229 0600 3:4"),
    (Step("mknod", ("/p", 0o010644, 0, 0, 0)), "/p p 0644 0:0"),
    (Step("symlink", ("pts/ptmx", "/dev/ptmx", 8)), "/dev/ptmx -> pts/ptmx (replace)"),
    (Step("hook", ("/h", ("/h",), (), 0, ("", ""), "")), "/h"),
    (Step("hook", ("/h", ("h", "a b"), ("K=v",), 1500, ("", ""), ".")),
     "/h: h 'a b' in the root within 1500 ms (env K)"),
    (Step("setgroups", (b"\5\0\0\0\6\0\0\0",)), "5 6"),
    (Step("setgroups", (b"",)), "none"),
    (Step("capset", (32, 32, 0)), "effective KILL; permitted KILL; inheritable none"),
    (Step("bounding", ((1 << 41) - 1, 40)), "all"),
    (Step("seccomp", (Deferred("seccomp"), 12, 5)), "filter [SPEC_ALLOW,NEW_LISTENER] -> slot 5"),
    (Step("console", (3, 24, 80, 128)), "to slot 3, 80x24, on /dev/console"),
    (Step("affinity", (b"\xff\x01" + b"\0" * 6,)), "9 CPUs"),
    (Step("execve", (("sh", "-c", "a; b"), ("A=1", "B=2"))), "sh -c 'a; b' (env A B)"),
    (Step("pivot_root", ()), ""),
    (HostStep("open_tree", ("/s", 2, 1, MS_SLAVE | MS_REC, 0)), "/s -> slot 2 [rbind,rslave,nofollow]"),
    (HostStep("id_map", ("uid", ((0, 5, 1), (1, 9, 3)), "")), "uid 0 5 1, 1 9 3"),
    (HostStep("id_map", ("uid", ((0, 5, 9),), "newuidmap")), "uid 0 5 9 [newuidmap]"),
    (Step("clone_tree", (2, "/s", 4 | 256, MS_SLAVE | MS_REC, 0, 0)), "/s -> slot 2 [rbind,rslave,nofollow]"),
    (Step("clone_tree", (2, "/dev/fuse", 256, MS_SLAVE, 0o020600, 2789)), "/dev/fuse c 10:229 -> slot 2"),
    (HostStep("rlimit", (7, 5, (1 << 64) - 1)), "RLIMIT_NOFILE 5 unlimited"),
    (HostStep("cg_write", ("/c/pids.max", "7")), "/c/pids.max 7"),
    (HostStep("release", ("ready",)), "ready"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_describe(step, detail):
    assert describe(step) == detail


def test_env_values_are_shown_only_when_asked_for():
    step = Step("execve", (("sh",), ("TOKEN=s3cret",)))
    assert describe(step, show_env=True) == "sh (env TOKEN=s3cret)"
    assert "s3cret" not in describe(step)


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, []),
        (0x10, ["noatime"]),
        (0x20, ["strictatime"]),
        (0x80, ["nodiratime"]),
        (0x200001, ["ro", "nosymfollow"]),
    ],
    ids=str,
)
def test_attr_names(bits, names):
    assert attr_names(bits) == names


@pytest.mark.parametrize(
    ("mask", "text"), [(0, "none"), (1, "CHOWN"), ((1 << len(CAPABILITIES)) - 1, "all"), ((1 << 64) - 1, "all")]
)
def test_capability_names(mask, text):
    assert capability_names(mask) == text


def test_propagation_name():
    assert [propagation_name(flags) for flags in (0, MS_SLAVE, MS_SLAVE | MS_REC)] == ["", "slave", "rslave"]


# --- the table and the JSON -------------------------------------------------------------------------------------------


def test_alternatives_stand_below_their_step():
    other = Step("attach_root", (2, "/"), on_errno=13)
    again = Step("make_path", ("/a", 0o755, 0, -1), on_errno=2, retry=True)
    text = explain_text(Plan((Step("attach_root", (2, "/b"), "/root/path", (), (other, again)),), slots=3))
    assert text.splitlines()[1:] == [
        "1  init  attach_root  slot 2 on /b                                 /root/path",
        "                      or on EACCES: attach_root slot 2 on /",
        "                      or on ENOENT: make_path /a 0755, then again",
    ]


def test_a_narrow_terminal_cuts_nothing_but_gives_details_less_room():
    steps = tuple(Step("chdir", (f"/{'x' * length}", 0), "/process/cwd") for length in (30, 60))
    lines = explain_text(Plan(steps, slots=2), columns=70).splitlines()
    assert lines[1] == f"1  init  chdir  /{'x' * 30}           /process/cwd"
    assert lines[2] == f"2  init  chdir  /{'x' * 60}  /process/cwd"
    assert explain_text(Plan(steps, slots=2), columns=200) == explain_text(Plan(steps, slots=2))


def test_warnings_follow_the_table():
    text = explain_text(Plan((), slots=2, warnings=(("/a", "careful"), ("", "really"))))
    assert text.endswith("warning: careful (/a)\nwarning: really\n")


def test_nothing_reaches_the_terminal_raw():
    text = explain_text(Plan((Step("chdir", ("/\x1b[2J\udcff\n", 0), "/process/cwd"),), slots=2))
    assert "/\\x1b[2J\\udcff\\n" in text
    assert "\x1b" not in text


def test_json_has_the_arguments_by_name():
    other = Step("make_path", ("/a", 0o755, 0, -1), on_errno=2, retry=True)
    found = explain_document(Plan((Step("mask", ("/x",), "/linux/maskedPaths/0", (2,), (other,)),), slots=2))
    assert found == {
        "version": 1,
        "slots": 2,
        "steps": [{
            "number": 1, "lane": "init", "step": "mask", "args": {"path": "/x"}, "detail": "/x",
            "tolerates": ["ENOENT"],
            "alternatives": [{"on": "ENOENT", "again": True, "step": "make_path", "detail": "/a 0755",
                              "args": {"path": "/a", "mode": 493, "flags": 0, "slot": -1}}],
            "from": "/linux/maskedPaths/0",
        }],
        "warnings": [],
    }  # fmt: skip


@pytest.mark.parametrize("op", [*HOST_OPS, *OPS])
def test_every_op_names_its_arguments(op):
    step = HostStep(op, ()) if op in HOST_OPS else Step(op, ())
    assert len(arg_names(step)) == len(set(arg_names(step)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), hosts())
def test_every_plan_can_be_explained_without_its_secrets(config, host):
    config["process"]["env"] = ["PATH=/bin", "TOKEN=s3cret"]
    for hooks in config["hooks"].values():
        hooks[0] = hooks[0] | {"env": ["KEY=s3cret"]}
    plan = compile_plan(parse_spec(config), BUNDLE, host, Options("c1"), CGROUPS)
    text, document = explain_text(plan), json.loads(explain_json(plan))
    assert "s3cret" not in text + json.dumps(document)
    assert "s3cret" in explain_text(plan, show_env=True)
    assert "s3cret" in explain_json(plan, show_env=True)
    assert [step["number"] for step in document["steps"]] == list(range(1, len(plan.steps) + 1))
    numbers = [line.split()[0] for line in text.splitlines()[1:] if line[:4].strip().isdigit()]
    assert numbers == [str(number) for number in range(1, len(plan.steps) + 1)]


def write_expected() -> None:
    """Write what the plans look like now."""
    for name in GOLDEN:
        plan = golden_plan(name)
        (PLANS / name / "explain.json").write_text(explain_json(plan))
        (PLANS / name / "explain.txt").write_text(explain_text(plan))


if __name__ == "__main__":
    write_expected()
