"""The process: capabilities, ids, environment, limits, and the places of the filter."""

from __future__ import annotations

import resource

import pytest

from pyruntime.host.facts import HostFacts
from pyruntime.plan.kernel import CAPABILITIES, EACCES, EPERM, RLIM_INFINITY, RLIMITS
from pyruntime.plan.opcodes import OP_FLAGS
from pyruntime.plan.process import RLIMIT_NUMBERS
from tests.plan_samples import SECCOMP, only, ops, plan, steps, user_ns, where

CHOWN, KILL, NET_ADMIN = 1 << 0, 1 << 5, 1 << 12


def sets(**names):
    """process.capabilities with these lists."""
    return {"process.capabilities": {kind: [f"CAP_{name}" for name in listed] for kind, listed in names.items()}}


def test_forty_one_capabilities_in_the_kernels_order():
    assert len(CAPABILITIES) == len(set(CAPABILITIES)) == 41
    assert [CAPABILITIES.index(name) for name in ("CHOWN", "KILL", "NET_ADMIN", "SYS_ADMIN", "CHECKPOINT_RESTORE")] == [
        0, 5, 12, 21, 40]  # fmt: skip


@pytest.mark.parametrize("name", RLIMITS)
def test_limit_numbers_are_the_kernels(name):
    if not hasattr(resource, f"RLIMIT_{name}"):
        assert name == "LOCKS"  # the one Python does not name
    else:
        assert RLIMIT_NUMBERS[f"RLIMIT_{name}"] == getattr(resource, f"RLIMIT_{name}")


@pytest.mark.parametrize(("names", "bounding", "capset", "ambient"), [
    ({}, 0, (0, 0, 0), None),
    ({"bounding": ["KILL"]}, KILL, (0, 0, 0), None),
    ({"bounding": ["KILL", "CHOWN"], "effective": ["KILL"], "permitted": ["KILL", "CHOWN"]},
     KILL | CHOWN, (KILL, KILL | CHOWN, 0), None),
    ({"bounding": ["KILL"], "permitted": ["KILL"], "inheritable": ["KILL"], "ambient": ["KILL"]},
     KILL, (0, KILL, KILL), KILL),
    ({"inheritable": ["KILL"]}, 0, (0, 0, KILL), 0),  # what the caller had raised is cleared
], ids=str)  # fmt: skip
def test_exactly_the_configs_sets(names, bounding, capset, ambient):
    found = plan(sets(**names))
    assert only(found, "bounding").args == (bounding, 40)
    assert only(found, "capset").args == capset
    assert [step.args for step in steps(found, "ambient")] == ([] if ambient is None else [(ambient,)])


def test_no_capabilities_object_keeps_the_full_set():
    found = ops(plan({"process.capabilities": None, "process.user": {"uid": 5, "gid": 5}}))
    assert not {"bounding", "keepcaps", "capset", "ambient"} & set(found)


@pytest.mark.parametrize(
    ("host", "changes", "names", "warned"),
    [
        (HostFacts(), {}, ["KILL", "FOO"], "[CAP_FOO]"),
        (HostFacts(), {}, ["ZZ", "FOO", "FOO"], "[CAP_FOO CAP_ZZ]"),
        (HostFacts(last_cap=4), {}, ["KILL", "CHOWN"], "[CAP_KILL]"),  # a kernel without it
        (HostFacts(capabilities=CHOWN), {}, ["KILL", "CHOWN"], "[CAP_KILL]"),  # a caller without it
        (HostFacts(capabilities=CHOWN), user_ns(), ["KILL", "CHOWN"], ""),  # a user namespace has them all
    ],
    ids=str,
)
def test_grants_that_cannot_be_given_warn(host, changes, names, warned):
    found = plan(changes | sets(bounding=names, effective=names, permitted=names), host=host)
    expected = f"ignoring unknown or unavailable capabilities: {warned}"
    assert found.warnings == ((("/process/capabilities", expected),) if warned else ())


@pytest.mark.parametrize(("uid", "kept"), [(0, False), (1000, True)])
def test_capabilities_survive_a_change_of_uid(uid, kept):
    found = plan({"process.user": {"uid": uid, "gid": 0}})
    assert ("keepcaps" in ops(found)) == kept
    assert only(found, "setuid").args == (uid,)


@pytest.mark.parametrize(("gids", "blob"), [([], b""), ([5, 70000], b"\x05\0\0\0\x70\x11\x01\0")], ids=str)
def test_groups_are_exactly_those(gids, blob):
    found = plan({"process.user": {"uid": 1, "gid": 2, "additionalGids": gids}})
    assert only(found, "setgroups").args == (blob,)
    assert only(found, "setgroups").tolerate == ()


@pytest.mark.parametrize(("gids", "tolerate"), [([], (EPERM,)), ([5], ())], ids=str)
def test_an_outer_user_namespace_may_refuse_to_clear_groups(gids, tolerate):
    found = plan({"process.user": {"uid": 1, "gid": 2, "additionalGids": gids}}, host=HostFacts(in_user_ns=True))
    assert only(found, "setgroups").tolerate == tolerate


def test_chdir_as_root_then_as_the_user():
    first, second = steps(plan({"process.cwd": "/w"}), "chdir")
    assert (first.args, first.tolerate) == (("/w", 0), (EACCES,))
    assert (second.args, second.tolerate) == (("/w", OP_FLAGS["NEW_ONLY"]), ())


@pytest.mark.parametrize(("cwd", "made"), [("/", []), ("/a/b", [("/a/b", 0o755, 0, -1)])])
def test_the_working_directory_is_made(cwd, made):
    assert [step.args for step in steps(plan({"process.cwd": cwd}), "make_path")] == made


@pytest.mark.parametrize(
    ("env", "options", "expected", "home"),
    [
        (["A=1", "HOME=/h"], {}, ("A=1", "HOME=/h"), False),
        (["A=1"], {}, ("A=1",), True),
        (["HOME=", "A=1"], {}, ("A=1",), True),  # empty counts as absent
        (["HOMER=/h"], {}, ("HOMER=/h",), True),
        (["HOME=/h"], {"listen_fds": 2}, ("HOME=/h", "LISTEN_FDS=2", "LISTEN_PID=1"), False),
        (["HOME=/h"], {"notify_dir": "/n"}, ("HOME=/h", "NOTIFY_SOCKET=/run/notify/notify.sock"), False),
    ],
    ids=str,
)
def test_environment(env, options, expected, home):
    found = plan({"process.env": env}, **options)
    assert only(found, "execve").args == (("sh",), expected)
    assert only(found, "find_program").args == ("sh", expected)
    assert ("home" in ops(found)) == home


@pytest.mark.parametrize(("umask", "value"), [(None, 0o022), (0, 0), (0o77, 0o77)])
def test_umask(umask, value):
    user = {"uid": 0, "gid": 0} | ({} if umask is None else {"umask": umask})
    assert only(plan({"process.user": user}), "umask").args == (value,)


@pytest.mark.parametrize(
    ("listen", "preserve", "numbers"), [(0, 0, []), (2, 0, [3, 4]), (0, 2, [3, 4]), (1, 2, [3, 4, 5])]
)
def test_descriptors_keep_their_numbers(listen, preserve, numbers):
    found = plan(listen_fds=listen, preserve_fds=preserve)
    slots = {step.args[0]: step.args[1] for step in steps(found, "keep_fd")}
    assert list(slots) == numbers
    assert [step.args for step in steps(found, "place_fd")] == [(slots[number], number) for number in numbers]
    assert only(found, "close_from").args == (3 + len(numbers),)
    assert found.fd_base == 3 + len(numbers)


def test_limits_are_the_hosts_to_set():
    rlimits = [
        {"type": "RLIMIT_NOFILE", "soft": 1, "hard": RLIM_INFINITY},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    found = plan({"process.rlimits": rlimits})
    assert [(step.args, step.origin) for step in steps(found, "rlimit")] == [
        ((7, 1, RLIM_INFINITY), "/process/rlimits/0"), ((4, 0, 0), "/process/rlimits/1")]  # fmt: skip
    assert where(found, "barrier", 5) < where(found, "rlimit") < where(found, "save_state")


@pytest.mark.parametrize(("size", "expected"), [(None, (0, 0)), ({"height": 24, "width": 80}, (24, 80))], ids=str)
def test_console(size, expected):
    changes = {"process.terminal": True} | ({} if size is None else {"process.consoleSize": size})
    found = plan(changes, console=True)
    slot = only(found, "connect").args[1]
    assert only(found, "console").args == (slot, *expected, OP_FLAGS["MOUNT_CONSOLE"])
    assert "setsid" not in ops(found)


def test_without_a_console_a_session_of_its_own():
    assert "setsid" in ops(plan())


@pytest.mark.parametrize(("domain", "value"), [("LINUX", 0), ("LINUX32", 8)])
def test_personality(domain, value):
    assert only(plan({"linux.personality": {"domain": domain}}), "personality").args == (value,)


@pytest.mark.parametrize(
    ("cpus", "mask"), [(1, b"\x01" + b"\0" * 7), (64, b"\xff" * 8), (65, b"\xff" * 8 + b"\x01" + b"\0" * 7)]
)
def test_affinity_covers_every_cpu_in_whole_longs(cpus, mask):
    assert only(plan(host=HostFacts(cpu_count=cpus)), "affinity").args == (mask,)


# --- security ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seccomp", "flags"),
    [
        (SECCOMP, 4),
        (SECCOMP | {"flags": []}, 0),
        (SECCOMP | {"flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}, 6),
    ],
    ids=str,
)
def test_filter_flags(seccomp, flags):
    assert only(plan({"linux.seccomp": seccomp}), "seccomp").args[1:] == (flags, -1)


@pytest.mark.parametrize(("key", "path", "origin"), [
    ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward", "/linux/sysctl/net.ipv4.ip_forward"),
    ("net/ipv4/conf/eth0.1/forwarding", "sys/net/ipv4/conf/eth0.1/forwarding",
     "/linux/sysctl/net~1ipv4~1conf~1eth0.1~1forwarding"),
    ("net.ipv4.conf.eth0/1.forwarding", "sys/net/ipv4/conf/eth0.1/forwarding",
     "/linux/sysctl/net.ipv4.conf.eth0~11.forwarding"),
], ids=str)  # fmt: skip
def test_sysctl(key, path, origin):
    changes = {"linux.namespaces": [{"type": "network"}, {"type": "mount"}], "linux.sysctl": {key: "1"}}
    found = plan(changes)
    write = only(found, "write_proc")
    assert (write.args, write.origin) == ((path, b"1"), origin)
    assert where(found, "clone") < where(found, "open_proc") < where(found, "write_proc") < where(found, "close_slot")
    assert only(found, "open_proc").args == (1,)
    (verified,) = only(found, "open_proc").alternatives
    assert (verified.args, verified.on_errno) == ((0,), EPERM)


def test_masks_and_read_only_paths_once_each():
    found = plan({"linux.maskedPaths": ["/a", "/b", "/a"], "linux.readonlyPaths": ["/c", "/c"]})
    assert [(step.args, step.origin) for step in steps(found, "mask")] == [
        (("/a",), "/linux/maskedPaths/0"), (("/b",), "/linux/maskedPaths/1")]  # fmt: skip
    assert [step.args for step in steps(found, "readonly")] == [("/c",)]
    assert all(step.tolerate == (2, 20) for step in steps(found, "mask") + steps(found, "readonly"))
