"""The order of a container's plan: fixed cases, and rules that hold for every valid config."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.plan.kernel import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_PARENT
from pyruntime.plan.opcodes import BARRIERS, OPS
from pyruntime.plan.order import compile_plan
from pyruntime.plan.step import HOST_OPS, Options
from pyruntime.spec.parse import parse_spec
from tests.plan_samples import (
    BUNDLE,
    CGROUPS,
    HOOK,
    HYBRID,
    ROOTLESS,
    SECCOMP,
    documents,
    every_step,
    hosts,
    namespaces,
    only,
    ops,
    plan,
    resolve,
    steps,
    user_ns,
    where,
)

NAMES = {number: name for name, number in BARRIERS.items()}
RANDOM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_the_smallest_container_in_order():
    found = plan({"mounts": None, "linux.namespaces": namespaces("mount")}, host=HostFacts(has_kcore=False))
    assert ops(found) == [
        "open_root", "fifos", "spawn", "barrier", "release", "affinity", "clone", "record_pid", "barrier", "release",
        "keyring", "propagation", "attach_root", *["mknod"] * 6, *["symlink"] * 5, "pivot_root", "reopen_null",
        "setsid", "umask", "close_from", "chdir", "bounding", "chown_stdio", "setgroups", "setgid", "setuid", "chdir",
        "capset", "find_program", "barrier", "save_state", "release", "wait_start", "execve",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "options", "order"),
    [
        ({}, {}, ["barrier", "clone", "record_pid", "save_state", "wait_start", "execve"]),
        ({"root.readonly": True, "process.cwd": "/w"}, {}, ["make_path", "mount_setattr", "pivot_root"]),
        ({"linux.maskedPaths": ["/a"], "linux.readonlyPaths": ["/b"]}, {}, ["readonly", "mask", "pivot_root"]),
        ({"hooks": {"createContainer": [HOOK]}}, {}, ["mount", "mknod", "hook", "pivot_root", "reopen_null"]),
        ({"hooks": {"startContainer": [HOOK]}}, {}, ["capset", "find_program", "wait_start", "hook", "execve"]),
        (
            {"process.terminal": True},
            {"console": True},
            ["connect", "spawn", "mount", "console", "pivot_root", "umask"],
        ),
        ({"linux.seccomp": SECCOMP}, {}, ["pivot_root", "close_from", "seccomp", "bounding", "setuid"]),
        (
            {"linux.seccomp": SECCOMP, "process.noNewPrivileges": True},
            {},
            ["close_from", "no_new_privs", "setuid", "capset", "find_program", "seccomp", "wait_start"],
        ),
        (
            {"process.user": {"uid": 5, "gid": 6}},
            {},
            ["bounding", "keepcaps", "setgroups", "setgid", "setuid", "capset"],
        ),
        ({"process.oomScoreAdj": 5}, {}, ["affinity", "open_proc", "oom_score_adj", "close_slot", "clone"]),
        ({"process.env": ["A=b"]}, {}, ["umask", "home", "bounding"]),
        (
            {"linux.namespaces": namespaces("mount", "uts"), "hostname": "h", "domainname": "d"},
            {},
            ["pivot_root", "sethostname", "setdomainname", "bounding"],
        ),
        ({}, {"no_pivot": True}, ["mount", "move_root", "execve"]),
        ({}, {"preserve_fds": 1}, ["keep_fd", "spawn", "place_fd", "close_from"]),
    ],
    ids=str,
)
def test_order_of(changes, options, order):
    found = ops(plan(changes, **options))
    assert [found.index(op) for op in order] == sorted(found.index(op) for op in order), found


def test_without_a_mount_namespace_the_root_is_used_where_it_is():
    found = plan({"linux.namespaces": namespaces("pid"), "mounts": None})
    assert only(found, "use_root").args == ("/b/rootfs",)
    assert "chroot" in ops(found)
    assert not {"open_root", "attach_root", "pivot_root", "propagation"} & set(ops(found))


def test_clone_makes_what_is_left():
    found = plan({"linux.namespaces": namespaces("pid", "mount", "network", "cgroup")})
    assert only(found, "clone").args == (CLONE_PARENT | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET,)


@pytest.mark.parametrize("wanted", ["shared", "rshared"])
def test_a_shared_rootfs_has_a_private_parent_and_is_shared_at_the_end(wanted):
    found = plan({"linux.rootfsPropagation": wanted}, bundle=BUNDLE.replace(root_mount="/b"))
    before_first, before_second, after = steps(found, "propagation")
    recursive = 0x4000 if wanted == "rshared" else 0
    assert before_first.args == ("/", 1 << 20 | recursive)
    assert before_second.args == ("/b", 1 << 18)
    assert after.args == ("/", 1 << 20 | recursive)
    order = [op for op in ops(found) if op in ("propagation", "attach_root", "pivot_root")]
    assert order == ["propagation", "propagation", "attach_root", "pivot_root", "propagation"]


@pytest.mark.parametrize(("wanted", "parent", "after"), [
    ("private", 1 << 18, [1 << 18]), ("slave", 1 << 19, []), ("unbindable", 1 << 18, [1 << 17]),
    ("rprivate", None, [1 << 18]), ("rslave", None, []), ("runbindable", None, [1 << 17 | 0x4000]),
])  # fmt: skip
def test_the_mount_of_the_rootfs_is_not_shared_when_it_is_attached(wanted, parent, after):
    """Names without r change "/" alone: what is attached on a mount that is shared still appears on the host."""
    found = steps(plan({"linux.rootfsPropagation": wanted}, bundle=BUNDLE.replace(root_mount="/b")), "propagation")
    made = [step.args for step in found[1:]]
    assert made == ([("/b", parent)] if parent else []) + [("/", flags) for flags in after]


@pytest.mark.parametrize("maps", [[(0, 100, 10)], [(0, 100, 9), (9, 200, 1)]], ids=str)
def test_maps_beside_a_joined_user_namespace_are_its_own(maps):
    given = [{"containerID": inner, "hostID": outer, "size": size} for inner, outer, size in reversed(maps)]
    changes = {"linux.namespaces": namespaces("mount", user="/proc/5/ns/user"), "linux.uidMappings": given,
               "linux.gidMappings": given}  # fmt: skip
    bundle = BUNDLE.replace(joined_uid_map=tuple(maps), joined_gid_map=tuple(maps))
    plan(changes, bundle=bundle)
    with pytest.raises(SpecError, match="non-matching mapping"):
        plan(changes, bundle=bundle.replace(joined_gid_map=((0, 5, 10),)))


def test_host_hooks_run_between_the_mounts_and_the_rest():
    found = plan({"hooks": {"prestart": [HOOK], "createRuntime": [HOOK], "createContainer": [HOOK]}})
    at = where(found, "barrier", BARRIERS["mounted"])
    assert [step.op for step in found.steps[at : at + 5]] == ["barrier", "hooks", "hooks", "release", "hook"]
    assert [step.args[0] for step in steps(found, "hooks")] == ["prestart", "createRuntime"]


def test_no_host_hooks_no_barrier():
    assert BARRIERS["mounted"] not in [step.args[0] for step in steps(plan(), "barrier")]


def test_device_rules_are_written_before_init_makes_nodes_and_limits_beside_it():
    found = plan(cgroup=CGROUPS, host=HostFacts(cgroup=HYBRID))
    release = where(found, "release", "recorded")
    assert where(found, "cg_write", "/sys/fs/cgroup/devices/c1/devices.deny") < release
    assert where(found, "cg_write", "/sys/fs/cgroup/memory/c1/memory.limit_in_bytes") > release
    assert where(found, "cg_write", "/sys/fs/cgroup/cpuset/c1/cpuset.cpus") < where(found, "cg_join")
    assert where(found, "cg_make") < where(found, "cg_join") < where(found, "release", "joined")


def test_the_hooks_of_the_container_know_their_state_and_place():
    hooks = {"createContainer": [{"path": "/h"}], "startContainer": [{"path": "/s"}]}
    found = plan({"hooks": hooks}, hook_state_prefix="{1", hook_state_suffix="2}", start_state_prefix="{3")
    create, start = steps(found, "hook")
    assert create.args == ("/h", ("/h",), (), 0, ("{1", "2}"), ".")
    assert start.args == ("/s", ("/s",), ("PATH=/bin", "HOME=/root"), 0, ("{3", "2}"), "")


def test_notify_socket_is_mounted_last_and_named():
    found = plan({"mounts+": [{"destination": "/run", "type": "tmpfs"}]}, notify_dir="/run/pyruntime/c1/notify")
    assert steps(found, "move_mount")[-1].args[1] == "/run/notify"
    assert where(found, "move_mount") > where(found, "mount", "tmpfs")
    assert "NOTIFY_SOCKET=/run/notify/notify.sock" in only(found, "execve").args[1]


@pytest.mark.parametrize(("token", "name"), [("", "_ses.c1"), ("t0", "_ses.c1.t0")])
def test_keyring_name(token, name):
    assert only(plan(keyring_token=token), "keyring").args == (name, 0xFFFFFFFF, 0x80000)
    assert only(plan(user_ns(), keyring_token=token), "keyring").args == (name, 0xFFFFFFFF, 0x08)


def test_no_new_keyring():
    assert "keyring" not in ops(plan(no_new_keyring=True))


def test_a_notifying_filter_hands_its_listener_over_at_once():
    rules = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/l.sock",
        "listenerMetadata": "m",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }
    found = plan({"linux.seccomp": rules})
    at = where(found, "seccomp")
    assert [step.op for step in found.steps[at : at + 3]] == ["seccomp", "send_listener", "release"]
    assert found.steps[at + 1].args == ("/run/l.sock", "m")
    assert found.steps[at].args[1] & 8  # NEW_LISTENER


@pytest.mark.parametrize(("changes", "host", "options", "said", "field"), [
    ({"process.apparmorProfile": "p"}, HostFacts(), {}, "apparmor profile is specified in config, but apparmor is disabled or not supported",
     "/process/apparmorProfile"),
    ({"process.selinuxLabel": "l"}, HostFacts(), {},
     "selinux label is specified in config, but selinux is disabled or not supported", "/process/selinuxLabel"),
    ({}, ROOTLESS, {}, "rootless container requires user namespaces", "/linux/namespaces"),
    (user_ns() | {"process.user": {"uid": 0, "gid": 0, "additionalGids": [5]}}, ROOTLESS, {},
     "cannot set any additional groups in a rootless container", "/process/user/additionalGids"),
    ({"linux.rootfsPropagation": "private"}, HostFacts(), {"no_pivot": True},
     "rootfsPropagation cannot be private when pivot_root is not used", "/linux/rootfsPropagation"),
    (user_ns() | {"process.user": {"uid": 70000, "gid": 0}}, HostFacts(), {},
     "cannot setuid to unmapped uid 70000 in user namespace", "/process/user/uid"),
    (user_ns() | {"process.user": {"uid": 0, "gid": 70000}}, HostFacts(), {},
     "cannot setgid to unmapped gid 70000 in user namespace", "/process/user/gid"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_refused(changes, host, options, said, field):
    with pytest.raises(SpecError) as caught:
        plan(changes, host=host, **options)
    assert (str(caught.value), caught.value.field) == (said, field)


def test_mount_label_is_dropped_with_a_warning():
    found = plan({"linux.mountLabel": "system_u:object_r:x_t:s0"})
    assert [field for field, _ in found.warnings] == ["/linux/mountLabel"]


def test_unconfined_is_no_profile():
    plan({"process.apparmorProfile": "unconfined"})


# --- rules for every config -------------------------------------------------------------------------------------------


@RANDOM
@given(documents(), hosts(), st.booleans(), st.integers(0, 3))
def test_every_plan_keeps_the_rules(config, host, no_pivot, preserved):
    no_pivot = no_pivot and config["linux"]["rootfsPropagation"] != "private"
    found = compile_plan(
        parse_spec(config), BUNDLE, host, Options("c1", no_pivot=no_pivot, preserve_fds=preserved), CGROUPS
    )
    check_origins(found, config)
    check_arguments(found)
    check_barriers(found)
    check_slots(found)
    check_order(found)


def check_origins(found, config):
    """Every origin resolves in the config it came from."""
    for step in every_step(found):
        if step.origin:
            resolve(step.origin, config)


def check_arguments(found):
    for step in every_step(found):
        table = OPS[step.op][1] if step.lane == "init" else HOST_OPS[step.op]
        assert len(step.args) == len(table), step


def check_barriers(found):
    """Init stops at each barrier once, and the host lets it go on before the next one."""
    waiting = ""
    seen = []
    for step in found.steps:
        if step.op == "barrier":
            assert not waiting, f"{waiting} is not released"
            waiting = NAMES[step.args[0]]
            seen.append(waiting)
        elif step.op == "release":
            assert step.args[0] == waiting
            waiting = ""
        elif step.lane == "init":
            assert not waiting, f"{step.op} while waiting at {waiting}"
    assert not waiting
    assert seen == [name for name in BARRIERS if name in seen]
    assert {"joined", "recorded", "ready"} <= set(seen)


def check_slots(found):
    """A slot is filled by the host before spawn, once; init uses no other than those, the root and procfs."""
    filled = [step.args[HOST_OPS[step.op].index(name)] for step in found.steps if step.lane == "host"
              for name in HOST_OPS[step.op] if name.endswith("slot")]  # fmt: skip
    assert len(filled) == len(set(filled))
    assert all(2 <= slot < found.slots for slot in filled)
    for step in every_step(found):
        if step.lane == "host":
            continue
        for value, (_, kind) in zip(step.args, OPS[step.op][1], strict=True):
            assert kind != "slot" or value in (-1, 0, 1) or value in filled, step
    spawn = where(found, "spawn")
    for index, step in enumerate(found.steps):
        if step.op.startswith("open_") and step.lane == "host":
            assert index < spawn, step


ROOT_CHANGES = ("pivot_root", "move_root", "chroot")
BEFORE_ROOT = ("mount", "move_mount", "mount_setattr", "remount", "mask", "readonly", "mknod", "symlink", "attach_root",
               "make_path", "console", "umount")  # fmt: skip
IN_STAGE0 = ("setns", "oom_score_adj", "affinity", "set_ids", "set_dumpable")


def check_order(found):
    place = {}
    for index, step in enumerate(found.steps):
        place.setdefault(step.op, []).append(index)
    root = next(place[op][0] for op in ROOT_CHANGES if op in place)
    assert all(index < root for op in BEFORE_ROOT for index in place.get(op, ()))
    (clone,) = place["clone"]
    assert all(index < clone for op in IN_STAGE0 for index in place.get(op, ()))
    assert place["execve"] == [len(found.steps) - 1]
    (start,) = place["wait_start"]
    assert all(step.op in ("hook", "execve") for step in found.steps[start + 1 :])
    for first, then in (("setgroups", "setgid"), ("setgid", "setuid"), ("bounding", "setuid"), ("setuid", "capset"),
                        ("setuid", "find_program"), ("close_from", "seccomp"), ("place_fd", "close_from"),
                        ("sethostname", "bounding"), ("find_program", "wait_start")):  # fmt: skip
        if first in place and then in place:
            assert max(place[first]) < min(place[then]), (first, then)
    if "seccomp" in place:
        late = "no_new_privs" in place
        assert (place["seccomp"][0] > place["setuid"][0]) == late
    if "setns" in place:
        assert place["set_dumpable"][0] < place["setns"][0]


@RANDOM
@given(documents(), hosts())
def test_same_input_same_plan(config, host):
    first, second = (compile_plan(parse_spec(config), BUNDLE, host, Options("c1"), CGROUPS) for _ in range(2))
    assert first == second
