"""The plan of an exec."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.plan.encode import encode
from pyruntime.plan.exec_plan import ExecOptions, compile_exec
from pyruntime.plan.kernel import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_PARENT
from tests.plan_samples import SECCOMP, only, ops, spec, steps, user_ns, where

ENTERED = CLONE_NEWPID | CLONE_NEWNS


def enter(saved=None, process=None, *, host=None, **options):
    """The plan of an exec in a container made with the changes `saved`, of its process with the changes `process`."""
    config = spec(saved)
    wanted = spec((saved or {}) | (process or {})).process
    found = {"id": "c1", "nstypes": ENTERED, "cgroups": ("/sys/fs/cgroup/a", "/sys/fs/cgroup/b")} | options
    return compile_exec(wanted, config, host or HostFacts(), ExecOptions(**found))


def test_in_order():
    assert ops(enter()) == [
        "open_pidfd", "spawn", "cg_join", "cg_join", "barrier", "release", "affinity", "set_dumpable", "setns",
        "close_slot", "clone", "record_pid", "barrier", "release", "keyring", "use_root", "reopen_null", "setsid",
        "umask", "close_from", "chdir", "bounding", "chown_stdio", "setgroups", "setgid", "setuid", "chdir", "capset",
        "find_program", "barrier", "release", "execve",
    ]  # fmt: skip


def test_one_setns_on_inits_pidfd():
    found = enter()
    slot = only(found, "open_pidfd").args[0]
    assert only(found, "setns").args == (slot, ENTERED)
    assert only(found, "close_slot").args == (slot,)  # nothing of the host is open in there
    assert only(found, "clone").args == (CLONE_PARENT,)
    assert only(found, "use_root").args == ("/",)


def test_a_container_without_namespaces_is_entered_without_setns():
    assert "setns" not in ops(enter(nstypes=0))


@pytest.mark.parametrize(("nstypes", "becomes_root"), [(ENTERED, False), (ENTERED | CLONE_NEWUSER, True)])
def test_root_of_the_user_namespace(nstypes, becomes_root):
    found = enter(user_ns(), nstypes=nstypes)
    assert ("set_ids" in ops(found)) == becomes_root
    assert only(found, "keyring").args[2] == 0x08


@pytest.mark.parametrize(
    ("saved", "process", "umask"),
    [
        ({}, {}, 0o022),
        ({"process.user": {"uid": 0, "gid": 0, "umask": 0o77}}, {"process.user": {"uid": 0, "gid": 0}}, 0o77),
        ({"process.user": {"uid": 0, "gid": 0, "umask": 0o77}}, {"process.user": {"uid": 0, "gid": 0, "umask": 0}}, 0),
    ],
    ids=str,
)
def test_umask(saved, process, umask):
    assert only(enter(saved, process), "umask").args == (umask,)


@pytest.mark.parametrize(("nnp", "late"), [(False, False), (True, True)])
def test_the_containers_filter_holds(nnp, late):
    found = enter({"linux.seccomp": SECCOMP}, {"process.noNewPrivileges": nnp})
    assert (where(found, "seccomp") > where(found, "capset")) == late


def test_limits_console_and_descriptors():
    found = enter({}, {"process.rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "process.terminal": True},
                  console=True, preserve_fds=1)  # fmt: skip
    assert only(found, "rlimit").args == (4, 0, 0)
    assert only(found, "console").args[3] == 0  # /dev/console stays what it is
    assert where(found, "setns") < where(found, "console") < where(found, "setuid")
    assert only(found, "place_fd").args[1] == 3


def test_oom_score_is_written_outside():
    found = enter({}, {"process.oomScoreAdj": 7})
    assert where(found, "oom_score_adj") < where(found, "setns")
    assert only(found, "oom_score_adj").args == (7,)


def test_no_step_of_a_container_alone():
    found = set(ops(enter({"linux.maskedPaths": ["/a"], "hooks": {"startContainer": [{"path": "/h"}]}})))
    assert not found & {"mount", "mask", "pivot_root", "wait_start", "save_state", "hook", "make_path", "mknod"}


@pytest.mark.parametrize(
    ("process", "said", "field"),
    [
        ({"process.apparmorProfile": "p"}, "apparmor profile is specified in config, but apparmor is disabled or not supported", "/process/apparmorProfile"),
        (
            {"process.user": {"uid": 70000, "gid": 0}},
            "cannot setuid to unmapped uid 70000 in user namespace",
            "/process/user/uid",
        ),
    ],
    ids=str,
)
def test_refused(process, said, field):
    with pytest.raises(SpecError) as caught:
        enter(user_ns(), process)
    assert (str(caught.value), caught.value.field) == (said, field)


def test_no_new_keyring():
    assert steps(enter(no_new_keyring=True), "keyring") == []


def test_encodes():
    assert encode(enter({"linux.seccomp": SECCOMP}), blobs={"seccomp": bytes(8)})
