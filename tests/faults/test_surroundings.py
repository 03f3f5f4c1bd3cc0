"""Disk full at every file, inodes gone, cgroups that cannot be written, hooks that hang, callers that vanish (R2, R15)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import sweep, tally
from tests.system.leaks import Watch
from tests.system.runtime import finish, reap, track, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system
WAIT_S = 60
HOOKS = ("prestart", "createContainer", "startContainer", "poststart")


def slow(value: Any) -> Any:
    """A parameter for `make test-all` alone."""
    return pytest.param(value, marks=pytest.mark.slow)


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """A small tmpfs."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def create_and_remove(runtime: Runtime, bundle: Bundle) -> bool:
    """Whether create succeeded; if not, it left nothing and said why. Either way nothing is left in the end."""
    watch = Watch()
    name = runtime.new_id()
    result = runtime("create", "-b", bundle.path, name)
    sweep.check_words(sweep.Struck(result, -1))
    if result.code != 0:
        assert not (left := sweep.settle(watch, runtime)), left
    assert runtime("delete", "--force", name).code == 0
    assert not (left := sweep.settle(watch, runtime)), left
    return result.code == 0


@pytest.mark.parametrize("limit", ["nr_inodes", slow("nr_blocks")])
def test_a_state_root_that_fills_up(runtime: Runtime, make_bundle: MakeBundle, limit: str) -> None:
    """One inode or page more each time, until create succeeds: it fails at every file that it makes."""
    bundle = make_bundle("sleep 600", sweep.RICH)
    for number in range(1, 30):
        with mounted(runtime.root, f"{limit}={number}"):
            made = create_and_remove(runtime, bundle)
        tally.add(f"create, {limit} of the state root used up", cases=1, failed=0)
        if made:
            break
    assert made


@pytest.mark.parametrize("controller", ["pids", *map(slow, ("memory", "devices", "systemd"))])
def test_a_cgroup_tree_that_cannot_be_written(runtime: Runtime, make_bundle: MakeBundle, controller: str) -> None:
    """Read-only under our feet: refused in one line, and what was made in other trees is gone."""
    top = Path("/sys/fs/cgroup") / controller
    if not top.is_dir():
        pytest.skip(f"needs the cgroup v1 tree of {controller}")
    bundle = make_bundle("sleep 600", sweep.RICH)
    subprocess.run(["mount", "--bind", top, top], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", top], check=True)
        assert not create_and_remove(runtime, bundle)
    finally:
        subprocess.run(["umount", top], check=True)
    tally.add("create, a cgroup tree read-only", cases=1, failed=0)
    assert create_and_remove(runtime, bundle)


@pytest.mark.parametrize("kind", ["createRuntime", *map(slow, HOOKS)])
def test_a_hook_that_hangs_and_a_runtime_that_dies(runtime: Runtime, make_bundle: MakeBundle, kind: str) -> None:
    """The runtime is killed while the hook hangs: delete --force ends hook and container."""
    name = runtime.new_id()
    args = ["sleep", f"599.{zlib.crc32(name.encode())}"]  # by which it is found
    bundle = make_bundle("sleep 600", {"hooks": {kind: [{"path": "/bin/sleep", "args": args}]}})
    watch = Watch()
    verb = ("create", "-b", bundle.path) if kind in ("prestart", "createRuntime", "createContainer") else ("start",)
    if verb == ("start",):
        assert runtime("create", "-b", bundle.path, name).code == 0
    call = runtime.popen(*verb, name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: hanging(args), "the hook", WAIT_S)
    call.kill()
    finish(call)
    assert runtime("delete", "--force", name, timeout_s=WAIT_S).code == 0
    reap()
    left = sweep.settle(watch, runtime, WAIT_S)
    tally.add("SIGKILL while a hook hangs", cases=1, failed=len(left))
    assert not left, left
    assert not hanging(args)


def hanging(args: list[str]) -> bool:
    """Whether a process with these arguments is there."""
    wanted = "".join(f"{word}\0" for word in args).encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "cmdline").read_bytes() == wanted:
                return True
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, *(slow(one) for one in (signal.SIGHUP, signal.SIGTERM))])
def test_a_caller_that_vanishes(runtime: Runtime, make_bundle: MakeBundle, number: int) -> None:
    """The caller dies while a hook of create runs, its pipes with it: create ends by itself, whole or not at all."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo; exec sleep 1"]}
    bundle = make_bundle("sleep 600", {"hooks": {"createRuntime": [hook]}})
    watch = Watch()
    name = runtime.new_id()
    script = '"$@" & wait'
    caller = track(
        subprocess.Popen(
            ["sh", "-c", script, "sh", *runtime.argv("create", "-b", bundle.path, name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    wait_until(lambda: name in runtime.ids(), "the state", WAIT_S)
    caller.send_signal(number)
    finish(caller)
    for pipe in (caller.stdin, caller.stdout, caller.stderr):
        if pipe is not None:
            pipe.close()
    wait_until(lambda: name not in runtime.ids() or is_made(runtime, name), "the end of create", WAIT_S)
    assert runtime("delete", "--force", name, timeout_s=WAIT_S).code == 0
    left = sweep.settle(watch, runtime, WAIT_S)
    tally.add("the caller dies during create", cases=1, failed=len(left))
    assert not left, left


def is_made(runtime: Runtime, name: str) -> bool:
    """Whether it has come to an end of its creation, a good one or not."""
    result = runtime("state", name)
    return result.code == 0 and '"status": "creating"' not in result.out


def test_a_console_peer_that_vanishes(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Whoever listens on the console socket closes at once, or never takes the connection: create does not wait."""
    bundle = make_bundle("sleep 600", {"process.terminal": True})
    for closes in (True, False):
        path = f"{tmp_path}/c{closes}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            if closes:
                listener.shutdown(socket.SHUT_RDWR)
            watch = Watch()
            name = runtime.new_id()
            result = runtime("create", "-b", bundle.path, "--console-socket", path, name, timeout_s=WAIT_S)
            sweep.check_words(sweep.Struck(result, -1))
            assert runtime("delete", "--force", name).code == 0
            left = sweep.settle(watch, runtime)
            assert not left, left
        os.unlink(path)
