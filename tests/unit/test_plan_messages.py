"""Failures of container-init and of host steps in words: line 1 as callers know it, field, value and hint."""

from __future__ import annotations

import errno as numbers

import pytest

from pyruntime.errors import HookError, InitError, ProgramError
from pyruntime.host.facts import HostFacts
from pyruntime.plan import messages
from pyruntime.plan.exec_plan import ExecOptions, compile_exec
from pyruntime.plan.messages import errno_text, host_error, init_error, init_warning, start_error
from pyruntime.plan.order import compile_plan
from pyruntime.plan.step import HostStep, Options, Plan, Step
from tests.plan_samples import BUNDLE, HOOK, SECCOMP, every_step, namespaces, spec, user_ns

E = numbers
PREFIX = "unable to start container process: error during container init: "

EVERYTHING = {
    "linux.namespaces": namespaces("network", "mount", "pid", "uts"),
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec"]},
        {"destination": "/data", "source": "/srv", "options": ["rbind", "suid"]},
        {"destination": "/t", "type": "tmpfs", "options": ["size=x", "ro"]},
    ],
    "process.cwd": "/w",
    "process.env": ["A=1"],
    "process.user": {"uid": 5, "gid": 6},
    "process.oomScoreAdj": -5,
    "linux.maskedPaths": ["/proc/kcore"],
    "linux.readonlyPaths": ["/proc/sys"],
    "linux.sysctl": {"net.ipv4.ip_forward": "1"},
    "linux.seccomp": SECCOMP,
    "hostname": "h",
    "root.readonly": True,
    "hooks": {"createContainer": [HOOK, HOOK], "startContainer": [HOOK]},
}
SPEC = spec(EVERYTHING)
PLAN = compile_plan(SPEC, BUNDLE, HostFacts(), Options("c1"))
EXEC = compile_exec(SPEC.process, SPEC, HostFacts(), ExecOptions("c1", 0x20000))


def index_of(op, origin="", *, plan=PLAN, nth=0):
    """Number in the init lane, alternatives counted, of the nth step of that op whose origin starts like that."""
    flat = [each for step in plan.steps if step.lane == "init" for each in (step, *step.alternatives)]
    return [i for i, step in enumerate(flat) if step.op == op and step.origin.startswith(origin)][nth]


def failed(op, error, detail="", value=0, *, origin="", nth=0, plan=PLAN, config=SPEC):
    return init_error(plan, config, index_of(op, origin, plan=plan, nth=nth), error, detail, value)


@pytest.mark.parametrize(("op", "origin", "error", "detail", "cause"), [
    ("find_program", "", E.ENOENT, "sh", 'exec: "sh": executable file not found in $PATH'),
    ("find_program", "", E.EACCES, "sh", 'exec: "sh": executable file not found in $PATH'),  # as runc says it
    ("find_program", "", E.EISDIR, "sh", 'exec: "sh": is a directory'),
    ("chdir", "", E.ENOENT, "/w", 'chdir to cwd ("/w") set in config.json failed: no such file or directory'),
    ("chdir", "", E.ENOENT, "outside of the root",
     "current working directory is outside of container mount namespace root -- possible container breakout detected"),
    ("setuid", "", E.EINVAL, "", "cannot setuid to unmapped uid 5 in user namespace"),
    ("setgid", "", E.EINVAL, "", "cannot setgid to unmapped gid 6 in user namespace"),
    ("setuid", "", E.EAGAIN, "", "setuid 5: resource temporarily unavailable"),
    ("mount", "/mounts/0", E.EPERM, "",
     'error mounting "proc" to rootfs at "/proc": mount src=proc, dst=/proc, dstFd=(closed), '
     "flags=MS_NOSUID|MS_NOEXEC: operation not permitted"),
    ("mount", "/mounts/0", E.ELOOP, "",
     'error mounting "proc" to rootfs at "/proc": filesystem "proc" must be mounted on ordinary directory'),
    ("mount", "/mounts/2", E.EINVAL, "e tmpfs: Bad value for 'size'",
     'error mounting "tmpfs" to rootfs at "/t": mount src=tmpfs, dst=/t, dstFd=(closed), data=size=x: '
     "invalid argument"),
    ("move_mount", "/mounts/1", E.EINVAL, "",
     'error mounting "/srv" to rootfs at "/data": mount src=/srv, dst=/data, dstFd=(closed), flags=MS_BIND: '
     "invalid argument"),
    ("mount_setattr", "/mounts/1", E.EPERM, "",
     'error mounting "/srv" to rootfs at "/data": cannot clear locked flags nosuid: operation not permitted'),
    ("make_path", "/mounts/1", E.EROFS, "",
     'error mounting "/srv" to rootfs at "/data": create mountpoint for /data mount: make mountpoint "/data": '
     "read-only file system"),
    ("make_path", "/process", E.ENOTDIR, "", "mkdir /w: not a directory"),
    ("mask", "", E.ENODEV, "", 'can\'t mask path "/proc/kcore": no such device'),
    ("readonly", "", E.EPERM, "", 'can\'t make "/proc/sys" read-only: operation not permitted'),
    ("write_proc", "", E.ENOENT, "", "write sysctl key net.ipv4.ip_forward: open /proc/sys/net/ipv4/ip_forward: "
     "no such file or directory"),
    ("oom_score_adj", "", E.EACCES, "", "failed to set oom score: write /proc/self/oom_score_adj: permission denied"),
    ("keyring", "", E.EDQUOT, "", "unable to join session keyring: disk quota exceeded"),
    ("seccomp", "", E.EINVAL, "", "unable to init seccomp: error loading seccomp filter: invalid argument"),
    ("clone", "", E.EPERM, "", "failed to create new namespaces mount,network,pid,uts: operation not permitted"),
    ("pivot_root", "", E.EINVAL, "", "error jailing process inside rootfs: pivot_root .: invalid argument"),
    ("mknod", "", E.EEXIST, "", "error creating device nodes: mknod /dev/null: file exists"),
    ("mount_setattr", "/root", E.EINVAL, "",
     "error setting rootfs as readonly: mount_setattr / [ro]: invalid argument"),
    ("umask", "", E.EPERM, "", "umask 0022: operation not permitted"),  # no words of its own
    ("hook", "/hooks/createContainer", E.ENOENT, "/bin/true",
     "error running createContainer hook #0: fork/exec /bin/true: no such file or directory"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_line_one(op, origin, error, detail, cause):
    failure = failed(op, error, detail, origin=origin)
    assert str(failure) == PREFIX + cause


@pytest.mark.parametrize(
    ("args", "error", "cause"),
    [
        (["/x"], E.ENOENT, 'exec: "/x": stat /x: no such file or directory'),
        (["/x/y"], E.ENOTDIR, 'exec: "/x/y": stat /x/y: not a directory'),
        (["./x"], E.ENOENT, 'exec: "./x": stat ./x: no such file or directory'),
        (["/bin"], E.EISDIR, 'exec: "/bin": is a directory'),
        (["/x"], E.EACCES, 'exec: "/x": permission denied'),
        (["/x"], E.ENAMETOOLONG, 'exec: "/x": file name too long'),
    ],
    ids=str,
)
def test_programs(args, error, cause):
    config = spec({"process.args": args})
    found = compile_plan(config, BUNDLE, HostFacts(), Options("c1"))
    failure = failed("find_program", error, args[0], plan=found, config=config)
    assert isinstance(failure, ProgramError)
    assert (str(failure), failure.field, failure.value) == (PREFIX + cause, "/process/args/0", args[0])


@pytest.mark.parametrize(
    ("value", "error", "detail", "text"),
    [
        (3 << 8, E.ECHILD, "out\n\0err\n", "exit status 3, stdout: out, stderr: err"),
        (1 << 8, E.ECHILD, "\0a\n\x1b[2Jb\n", "exit status 1, stdout: , stderr: a\\n\\x1b[2Jb"),  # one line
        (9, E.ECHILD, "\0", "signal: killed, stdout: , stderr: "),
        (11 | 0x80, E.ECHILD, "", "signal: segmentation fault, stdout: , stderr: "),
        (35, E.ECHILD, "", "signal: signal 35, stdout: , stderr: "),
        (9, E.ETIMEDOUT, "\0", "hook ran past specified timeout of 2.0s"),
    ],
    ids=str,
)
def test_hooks(value, error, detail, text):
    failure = failed("hook", error, detail, value, origin="/hooks/createContainer/1")
    assert isinstance(failure, HookError)
    assert str(failure) == f"{PREFIX}error running createContainer hook #1: {text}"
    assert (failure.field, failure.value) == ("/hooks/createContainer/1", "/bin/true")


def test_a_hook_that_hangs_is_shown_with_its_last_words():
    failure = failed("hook", E.ETIMEDOUT, "\0waiting for x\n", 9, origin="/hooks/createContainer/1")
    assert failure.hint.endswith("the last it said: waiting for x")
    failure = failed("hook", E.ETIMEDOUT, "open: Permission denied\n\0", 9, origin="/hooks/createContainer/1")
    assert failure.hint == ""  # callers match that text


@pytest.mark.parametrize(("kind", "prefix"), [
    ("prestart", "error during container init: "), ("createRuntime", "error during container init: "),
    ("poststart", ""),
    ("poststop", ""),
])  # fmt: skip
def test_hooks_of_the_host_side(kind, prefix):
    plan = Plan((Step("hook", ("/h", ("/h",), (), 0, ("", ""), "/b"), f"/hooks/{kind}/2"),), slots=2)
    failure = init_error(plan, SPEC, 0, E.ECHILD, "", 1 << 8)
    assert str(failure) == f"{prefix}error running {kind} hook #2: exit status 1, stdout: , stderr: "


def test_an_exec_has_no_container_init():
    failure = failed("find_program", E.ENOENT, "sh", plan=EXEC)
    assert str(failure) == 'unable to start container process: exec: "sh": executable file not found in $PATH'


@pytest.mark.parametrize(("op", "nth"), [("mount", 0), ("mount", 1), ("find_program", 0), ("mknod", 3), ("execve", 0)])
def test_numbers_are_those_of_explain(op, nth):
    failure = failed(op, E.EPERM, nth=nth)
    wanted = [number for number, step in enumerate(PLAN.steps, 1) if step.op == op][nth]
    if isinstance(failure, InitError):
        assert failure.step == wanted
    assert failure.errno == E.EPERM


def test_a_failed_alternative_has_its_steps_number():
    failure = failed("make_path", E.EROFS, origin="/mounts/1")
    assert PLAN.steps[failure.step - 1].op == "move_mount"


def test_a_step_that_is_none():
    failure = init_error(PLAN, SPEC, -1, E.EPROTO, "layout", 0)
    assert str(failure) == PREFIX + "container-init: layout: protocol error"


def test_field_and_value_show_the_config():
    failure = failed("mount", E.EINVAL, "e tmpfs: Bad value for 'size'", origin="/mounts/2")
    assert failure.details() == [
        "  field: /mounts/2",
        "  value: tmpfs on /t [size=x,ro]",
        "  hint: the file system says: tmpfs: Bad value for 'size'",
    ]


@pytest.mark.parametrize(("kind", "hint"), [("proc", "pid"), ("sysfs", "network"), ("mqueue", "ipc")])
def test_the_hint_names_the_namespace(kind, hint):
    config = spec({"mounts": [{"destination": "/x", "type": kind}]})
    found = compile_plan(config, BUNDLE, HostFacts(), Options("c1"))
    assert f'{{"type": "{hint}"}}' in failed("mount", E.EPERM, "/x", plan=found, config=config).hint


# --- no hint brings in what callers match -----------------------------------------------------------------------------

LADDER = ("permission denied", "operation not permitted", "is a directory", "not a directory",
          "no such file or directory", "executable file not found", "open executable", "does not exist",
          "no such process",
          "process already finished")  # contract 1.7  # fmt: skip
ALL_HINTS = [
    *messages.HINTS.values(),
    *messages.MOUNT_HINTS.values(),
    *messages.HOST_HINTS.values(),
    *(messages._execve_hint(n) for n in range(1, 134)),
    *(messages._hook_hint(n, "/h") for n in range(1, 134)),
]


@pytest.mark.parametrize("hint", sorted(set(ALL_HINTS)))
def test_no_hint_of_ours_holds_a_matched_text(hint):
    assert not [text for text in LADDER if text in hint.lower()]


def test_the_file_systems_words_are_kept_out_when_they_would_match():
    failure = failed("mount", E.EINVAL, "e tmpfs: Permission denied", origin="/mounts/2")
    assert failure.hint == ""
    failure = failed("mount", E.EACCES, "e tmpfs: Permission denied", origin="/mounts/2")
    assert failure.hint == "the file system says: tmpfs: Permission denied"


@pytest.mark.parametrize("error", [E.EPERM, E.ENOENT, E.EACCES, E.EINVAL, E.EROFS, E.ENOSYS, E.ELOOP, E.ENOTDIR, 133])
def test_every_step_has_words_for_every_answer(error):
    for config in (EVERYTHING, user_ns() | {"mounts": EVERYTHING["mounts"]}):
        parsed = spec(config)
        found = compile_plan(parsed, BUNDLE, HostFacts(), Options("c1"))
        count = sum(1 + len(step.alternatives) for step in found.steps if step.lane == "init")
        for index in range(count):
            failure = init_error(found, parsed, index, error, "", 0)
            assert "\n" not in str(failure)
            assert str(failure).startswith("unable to start container process: ")
            assert "descriptor" not in failure.value
        for step in every_step(found):
            if step.lane == "host":
                assert str(host_error(step, error, "open: x"))


# --- host steps, warnings, start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "error", "text"), [
    (HostStep("open_tree", ("/nope", 2, 1, 0, 1), "/mounts/1"), E.ENOENT,
     "failed to fulfil mount request: open /nope: no such file or directory"),
    (HostStep("cg_make", ("/sys/fs/cgroup/a",)), E.EACCES,
     "unable to apply cgroup configuration: mkdir /sys/fs/cgroup/a: permission denied"),
    (HostStep("cg_write", ("/c/pids.max", "-7"), "/linux/resources/pids/limit"), E.EINVAL,
     'error setting cgroup config: failed to write "-7": write /c/pids.max: invalid argument'),
    (HostStep("rlimit", (7, 5, (1 << 64) - 1), "/process/rlimits/0"), E.EPERM,
     "error setting rlimits: RLIMIT_NOFILE 5 unlimited: operation not permitted"),
    (HostStep("id_map", ("uid", ((0, 5, 1),), ""), "/linux/uidMappings"), E.EPERM,
     "failed to write uid_map: operation not permitted"),
    (HostStep("save_state", ()), E.ENOSPC, "save_state: no space left on device"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_host_steps(step, error, text):
    failure = host_error(step, error, "")
    assert str(failure) == f"error during container init: {text}"
    assert (failure.field, failure.errno) == (step.origin, error)


def test_a_host_step_without_errno_keeps_its_text():
    assert str(host_error(HostStep("spawn", ()), 0, "what it said")).endswith(
        "unable to start container-init: what it said"
    )


def test_ambient_warning():
    found = compile_plan(
        spec({"process.capabilities": {"inheritable": ["CAP_KILL"]}}), BUNDLE, HostFacts(), Options("c1")
    )
    step = index_of("ambient", plan=found)
    assert init_warning(found, step, E.EPERM, 5) == "can't raise ambient capability CAP_KILL: operation not permitted"
    assert init_warning(found, step, E.EPERM, 63) == "can't raise ambient capability 63: operation not permitted"


@pytest.mark.parametrize(
    ("op", "origin", "subject", "error", "value", "text", "kind"),
    [
        ("execve", "/process/args", "/garb", E.ENOEXEC, 0, "exec /garb: exec format error", ProgramError),
        ("execve", "/process/args", "/x", E.ENOENT, 0, "exec /x: no such file or directory", ProgramError),
        (
            "hook",
            "/hooks/startContainer/1",
            "/h",
            E.ECHILD,
            256,
            "error running startContainer hook #1: exit status 1, stdout: , stderr: ",
            HookError,
        ),
    ],
    ids=str,
)
def test_failures_after_start(op, origin, subject, error, value, text, kind):
    failure = start_error(op, origin, subject, error, "", value)
    assert type(failure) is kind
    assert (str(failure), failure.field, failure.value) == (text, origin, subject)


@pytest.mark.parametrize(("number", "text"), [
    (E.EPERM, "operation not permitted"), (E.ENOENT, "no such file or directory"), (E.EACCES, "permission denied"),
    (E.EBUSY, "device or resource busy"), (E.ENOEXEC, "exec format error"), (E.EISDIR, "is a directory"),
    (E.EIO, "input/output error"), (E.ELOOP, "too many levels of symbolic links"), (E.EINVAL, "invalid argument"),
])  # fmt: skip
def test_errno_text_is_gos(number, text):
    assert errno_text(number) == text
