"""Bad input, failing steps, the runtime killed at any instant: one clear line, and nothing left (R1-R4)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, namespaces
from tests.system.runtime import finish, reap, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Result, Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

KILLS = int(os.environ.get("PYRUNTIME_KILLS", "24"))
SEED = int(os.environ.get("PYRUNTIME_SEED", "1"))
LIMIT = 8192
GOOD = json.dumps(
    {"ociVersion": "1.3.0", "root": {"path": "rootfs"}, "process": {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"]}}
)

DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \n\t ",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "array": b"[]",
    "truncated": GOOD.encode()[:60],
    "trailing data": GOOD.encode() + b"{}",
    "trailing comma": GOOD.encode()[:-1] + b",}",
    "comment": b"// x\n" + GOOD.encode(),
    "single quotes": GOOD.encode().replace(b'"', b"'"),
    "not UTF-8": GOOD.encode().replace(b"true", b"tr\xff\xfeue"),
    "UTF-16": GOOD.encode("utf-16"),
    "NUL byte": GOOD.encode().replace(b"true", b"tr\0ue"),
    "escaped NUL in args": GOOD.encode().replace(b"true", b"tr\\u0000ue"),
    "escaped NUL in root": GOOD.encode().replace(b"rootfs", b"root\\u0000fs"),
    "NaN": GOOD.encode().replace(b'"cwd"', b'"oomScoreAdj": NaN, "cwd"'),
    "Infinity": GOOD.encode().replace(b'"cwd"', b'"oomScoreAdj": Infinity, "cwd"'),
    "hexadecimal": GOOD.encode().replace(b'"cwd"', b'"oomScoreAdj": 0x10, "cwd"'),
    "huge number": GOOD.encode().replace(b'"cwd"', b'"oomScoreAdj": ' + b"9" * 5000 + b', "cwd"'),
    "huge exponent": GOOD.encode().replace(b'"cwd"', b'"oomScoreAdj": 1e999999, "cwd"'),
    "fraction": GOOD.encode().replace(b'"cwd"', b'"oomScoreAdj": 1.5, "cwd"'),
    "deep arrays": b"[" * 200000,
    "deep objects": b'{"a":' * 200000,
    "deep below a known key": GOOD.encode()[:-1] + b', "annotations": ' + b"[" * 100000 + b"]" * 100000 + b"}",
    "long string": GOOD.encode().replace(b'"true"', b'"' + b"x" * (1 << 20) + b'"'),
    "long key": GOOD.encode()[:-1] + b', "linux": {"namespaces": [{"type": "' + b"n" * 100000 + b'"}]}}',
}


def check_refusal(result: Result, runtime: Runtime) -> None:
    """Exit ≠ 0, no traceback, a first line of at most 8 KiB, nothing left."""
    assert result.code == 1, result
    assert "Traceback" not in result.err
    assert "internal error" not in result.message, result
    assert result.message
    assert len(result.err.splitlines()[0].encode()) <= LIMIT
    assert runtime.ids() == []


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_bad_document(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """Any bytes as config.json (R1)."""
    bundle = make_bundle()
    (bundle.path / "config.json").write_bytes(DOCUMENTS[kind])
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    check_refusal(runtime.run(bundle), runtime)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime - begun.ru_utime + used.ru_stime - begun.ru_stime < 2  # of computing: waiting is the machine's


WRONG: list[tuple[str, Any]] = [
    (pointer, value)
    for pointer in (
        "/ociVersion",
        "/root",
        "/root/path",
        "/process",
        "/process/args",
        "/process/args/0",
        "/process/cwd",
        "/process/env",
        "/process/user",
        "/process/user/uid",
        "/process/capabilities",
        "/process/rlimits",
        "/mounts",
        "/mounts/0",
        "/mounts/0/options",
        "/linux",
        "/linux/namespaces",
        "/linux/namespaces/0",
        "/linux/resources",
        "/linux/seccomp",
        "/linux/sysctl",
        "/linux/maskedPaths",
        "/hooks",
        "/annotations",
    )
    for value in (7, "text", [1], {"a": 1}, True)
]
FITS = {
    "str": ("/ociVersion", "/root/path", "/process/args/0", "/process/cwd"),
    "list": (),
    "dict": (
        "/root",
        "/process",
        "/process/user",
        "/process/capabilities",
        "/linux",
        "/linux/resources",
        "/linux/seccomp",
        "/linux/sysctl",
        "/hooks",
        "/annotations",
        "/mounts/0",
        "/linux/namespaces/0",
    ),
    "int": ("/process/user/uid",),
    "bool": (),
}


@pytest.mark.parametrize(
    ("pointer", "value"), [row for row in WRONG if row[0] not in FITS[type(row[1]).__name__]], ids=str
)
def test_wrong_type(runtime: Runtime, make_bundle: MakeBundle, pointer: str, value: Any) -> None:
    """Every key with every other type: an error that names it (R1)."""
    bundle = make_bundle()
    bundle.config["process"] |= {"rlimits": [], "capabilities": {}}
    place = bundle.config
    *parents, last = pointer.split("/")[1:]
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
    place[int(last) if isinstance(place, list) else last] = value
    bundle.save()
    result = runtime.run(bundle)
    check_refusal(result, runtime)
    assert result.field.startswith(pointer), result


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "unreadable folder"])
def test_config_that_is_no_file(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """No wait on a FIFO, no endless device (R15)."""
    bundle = make_bundle()
    path = bundle.path / "config.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    result = runtime.run(bundle) if "unreadable" not in kind else runtime("run", "-b", "/nope/at/all", runtime.new_id())
    check_refusal(result, runtime)
    if kind == "missing":
        assert "JSON specification file config.json not found" in result.message


ROOTS: dict[str, Callable[[Bundle], Any]] = {
    "missing": lambda bundle: bundle.change({"root.path": "nowhere"}),
    "a file": lambda bundle: bundle.change({"root.path": "config.json"}),
    "a link": lambda bundle: (os.symlink("rootfs", bundle.path / "link"), bundle.change({"root.path": "link"})),
    "empty": lambda bundle: bundle.change({"root.path": ""}),
    "above": lambda bundle: bundle.change({"root.path": "../" * 30 + "nope"}),
    "too long": lambda bundle: bundle.change({"root.path": "x/" * 5000}),
}


@pytest.mark.parametrize("kind", ROOTS)
def test_bad_rootfs(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """Named, with its field, and nothing made."""
    bundle = make_bundle()
    ROOTS[kind](bundle)
    result = runtime.run(bundle)
    check_refusal(result, runtime)
    assert result.field == "/root/path", result


# --- a failure at every kind of step (R2) ---------------------------------------------------------------------------
MAPS = [{"containerID": 0, "hostID": 100000, "size": 10}]
STEPS: dict[str, dict[str, Any]] = {
    "bind source": {"mounts": [{"destination": "/mnt", "source": "/nope", "options": ["bind"]}]},
    "namespace path": {"linux.namespaces": namespaces(network="/nope")},
    "id map": {"linux.namespaces": namespaces("user"), "linux.uidMappings": [*MAPS, *MAPS], "linux.gidMappings": MAPS},
    "cgroup limit": {"linux.resources": {"cpu": {"cpus": "4000"}}},
    "cgroup value": {"linux.resources": {"memory": {"limit": 1}}},
    "hugepages": {"linux.resources": {"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}},
    "sysctl": {"linux.sysctl": {"kernel.msgmax": "not a number"}},
    "mount": {"mounts": [{"destination": "/mnt", "type": "nofs", "source": "x"}]},
    "mount option": {"mounts": [{"destination": "/mnt", "type": "tmpfs", "source": "x", "options": ["size=nonsense"]}]},
    "device": {"linux.devices": [{"path": "/bin/busybox", "type": "c", "major": 1, "minor": 3}]},
    "hook": {"hooks": {"createContainer": [{"path": "/bin/false"}]}},
    "cwd": {"process.cwd": "/bin/busybox/x"},
    "program": {"process.args": ["/nope"]},
    "hostname": {"hostname": "h" * 65},
    "capability beyond permitted": {"process.capabilities": {"effective": ["CAP_CHOWN"]}},
    "oom score": {"process.oomScoreAdj": 2000},
    "oom score refused by the kernel": {"process.oomScoreAdj": -1001},
}


@pytest.mark.parametrize("verb", ["create", "run"])
@pytest.mark.parametrize("step", STEPS)
def test_failing_step(runtime: Runtime, make_bundle: MakeBundle, step: str, verb: str) -> None:
    """Whatever step fails, create leaves nothing: the leak check follows; the error names the field."""
    result = runtime(verb, "-b", make_bundle("true", STEPS[step]).path, runtime.new_id())
    check_refusal(result, runtime)
    assert result.field, result


def test_a_full_disk_under_the_state(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The state root's file system is full: an error, nothing left (R2)."""
    runtime.root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "full", runtime.root], check=True)
    try:
        with contextlib.suppress(OSError), (runtime.root / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                continue
        result = runtime.run(make_bundle())
        assert result.code == 1
        assert "no space left on device" in result.message
        assert runtime.ids() == ["filler"]
        (runtime.root / "filler").unlink()
    finally:
        subprocess.run(["umount", runtime.root], check=True)


def test_a_readonly_state_root(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The same for one that cannot be written."""
    runtime.root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "readonly", runtime.root], check=True)
    try:
        result = runtime.run(make_bundle())
        assert (result.code, "read-only file system" in result.message) == (1, True), result
    finally:
        subprocess.run(["umount", runtime.root], check=True)


@pytest.mark.parametrize("broken", ["closed stdout", "few descriptors"])
def test_poor_surroundings(runtime: Runtime, make_bundle: MakeBundle, broken: str) -> None:
    """What the caller leaves us with may be little."""
    words = {"closed stdout": 'exec "$@" >&-', "few descriptors": 'ulimit -n 40; exec "$@"'}
    argv = runtime.argv("run", "-b", make_bundle("exit 5").path, runtime.new_id())
    assert (
        subprocess.run(["sh", "-c", words[broken], "sh", *argv], check=False, stdin=subprocess.DEVNULL).returncode == 5
    )


# --- SIGKILL of the runtime (R3) ------------------------------------------------------------------------------------
def killed_at(runtime: Runtime, delay_s: float, *args: Any) -> None:
    """Start a call and kill it after a while."""
    call = runtime.popen(*args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(delay_s)
    call.kill()
    finish(call)


@pytest.mark.parametrize("verb", ["create", "run", "start", "exec", "delete"])
def test_sigkill_at_any_instant(runtime: Runtime, make_bundle: MakeBundle, verb: str) -> None:
    """Then `delete --force` removes everything, each time (a seeded sample; PYRUNTIME_KILLS gives more)."""
    chance = random.Random(f"{SEED} {verb}")
    maps = {"linux.maskedPaths": ["/proc/keys"], "linux.resources": {"pids": {"limit": 100}}}
    bundle = make_bundle("sleep 600", maps)
    for _ in range(KILLS):
        name, delay_s = runtime.new_id(), chance.uniform(0, 0.06)
        if verb in ("create", "run"):
            killed_at(runtime, delay_s, verb, "-b", bundle.path, name)
        else:
            assert runtime("create", "-b", bundle.path, name).code == 0
            if verb != "start":
                assert runtime("start", name).code == 0
            killed_at(
                runtime,
                delay_s,
                *{
                    "start": ("start", name),
                    "exec": ("exec", name, "sleep", "60"),
                    "delete": ("delete", "--force", name),
                }[verb],
            )
        result = runtime("delete", "--force", name)
        reap()
        assert result.code == 0, result
        assert runtime.ids() == []


def test_sigkill_and_the_id_again(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """After a kill the id is taken until delete --force, then free."""
    bundle = make_bundle("exit 3")
    name = runtime.new_id()
    chance = random.Random(SEED)
    for _ in range(6):
        killed_at(runtime, chance.uniform(0.01, 0.05), "create", "-b", bundle.path, name)
        assert runtime("delete", "--force", name).code == 0
        assert runtime("run", "-b", bundle.path, name).code == 3


def test_sigkill_while_a_hook_runs(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The hook is in the container's cgroup and goes with it (DESIGN, runtime 6)."""
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "sleep 600"]}]}
    name = runtime.new_id()
    killed_at(runtime, 0.3, "create", "-b", make_bundle("true", {"hooks": hooks}).path, name)
    assert runtime("delete", "--force", name).code == 0
    wait_until(lambda: not inside(name), "it ends, and is reaped")


def inside(name: str) -> list[Path]:
    """Processes in a cgroup of that name; those of ours that have ended are reaped."""
    reap()
    return [path.parent for path in Path("/proc").glob("[0-9]*/cgroup") if name in read(path)]


def read(path: Path) -> str:
    """A file of /proc whose process may be gone."""
    try:
        return path.read_text()
    except OSError:
        return ""
