"""What runc does in cases that the contract's rows do not spell out: found by running both side by side."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle
from tests.system.runtime import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

DENY_EXIT = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1}


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_filter_that_refuses_everything_ends_the_container(
    runtime: Runtime, make_bundle: MakeBundle, *, no_new_privileges: bool
) -> None:
    """Even exit_group is refused: init ends by a fault instead of trying for ever."""
    changes = {"linux.seccomp": DENY_EXIT, "process.noNewPrivileges": no_new_privileges}
    begun = time.monotonic()
    result = runtime.run(make_bundle("true", changes))
    assert result.code == 1, result
    assert time.monotonic() - begun < 60
    assert runtime.ids() == []


@pytest.mark.parametrize("resources", [None, {}, {"devices": []}, {"pids": {"limit": 50}}], ids=str)
def test_without_device_rules_only_the_usual_devices_may_be_used(
    runtime: Runtime, make_bundle: MakeBundle, resources: dict[str, Any] | None
) -> None:
    """No rule allows the disks: a container without rules has no more than one that denies all."""
    script = "mknod /tmp/disk b 7 0 && cat /tmp/disk 2>&1 | grep -c 'not permitted'; echo x >/dev/null; head -c1 /dev/zero | wc -c"
    assert runtime.look(make_bundle(script, {"linux.resources": resources})) == "1\n1"


@pytest.mark.parametrize("signal", ["TERM", "INT", "HUP", "USR1"])
def test_a_created_container_ends_by_a_signal(runtime: Runtime, make_bundle: MakeBundle, signal: str) -> None:
    """Its init waits as pid 1, which would not hear what nobody handles."""
    with runtime.container(make_bundle("sleep 60"), start=False) as container:
        container.ok("kill", signal)
        wait_until(lambda: container.status == "stopped", f"ended by {signal}", 20)
        assert container("start").message == "cannot start a container that has stopped"


def test_the_program_has_the_default_signals(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """What init handles while it waits, the program does not inherit."""
    found = runtime.look(make_bundle(["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]))
    assert found.split()[1::2] == ["0" * 16] * 3


@pytest.mark.parametrize("value", ["", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"])
def test_a_rootfs_that_is_a_shared_mount(runtime: Runtime, make_bundle: MakeBundle, value: str) -> None:
    """As on every systemd host: the container runs, and none of its mounts appears on the host."""
    script = "grep '[^ ]* [^ ]* [^ ]* [^ ]* / ' /proc/self/mountinfo | cut -d' ' -f7- | cut -d- -f1"
    bundle = make_bundle(script, {"linux.rootfsPropagation": value})
    subprocess.run(["mount", "--bind", bundle.rootfs, bundle.rootfs], check=True)
    try:
        subprocess.run(["mount", "--make-shared", bundle.rootfs], check=True)
        found = {word.split(":")[0] for word in runtime.look(bundle).split()}
        assert Path("/proc/self/mountinfo").read_text().count(f"{bundle.rootfs} rw") == 1
        wanted = value.removeprefix("r")
        if wanted in ("shared", "unbindable"):
            assert wanted in found
        else:
            assert found == (set() if wanted == "private" else {"master"})
    finally:
        subprocess.run(["umount", "-R", bundle.rootfs], check=True)


PROGRAMS = [
    ("", 'exec: "": executable file not found in $PATH'),
    ("plain", 'exec: "plain": executable file not found in $PATH'),
]


@pytest.mark.parametrize(("name", "text"), PROGRAMS, ids=str)
def test_programs_that_are_none(runtime: Runtime, make_bundle: MakeBundle, name: str, text: str) -> None:
    """No name, and a name in PATH that may not be executed: docker makes 127 of both, as of runc's."""
    bundle = make_bundle([name])
    bundle.file("bin/plain", "#!/bin/sh\n", mode=0o644)
    result = runtime.run(bundle)
    assert (result.code, result.message) == (
        1, f"pyruntime run failed: unable to start container process: error during container init: {text}")  # fmt: skip


def test_a_mount_without_a_type(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """It names the field."""
    result = runtime.run(make_bundle("true").add_mounts({"destination": "/mnt"}))
    assert (result.code, result.field) == (1, "/mounts/3/type"), result


def test_a_late_hook_says_how_long_it_had(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """startContainer too, whose failure reaches `start` another way."""
    slow = {"path": "/bin/sh", "args": ["sh", "-c", "echo here; sleep 60"], "timeout": 1}
    result = runtime.run(make_bundle("true", {"hooks": {"startContainer": [slow]}}))
    assert result.code == 255
    assert (
        result.message
        == "pyruntime run failed: error running startContainer hook #0: hook ran past specified timeout of 1.0s"
    )


def test_null_in_a_process_file_is_absent(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Above all null capabilities: they are the container's, not all there are."""
    caps = {name: ["CAP_CHOWN"] for name in ("bounding", "effective", "permitted")}
    process = {
        "args": ["grep", "CapBnd", "/proc/self/status"],
        "cwd": "/",
        "capabilities": None,
        "rlimits": None,
        "user": None,
    }
    (tmp_path / "process.json").write_text(json.dumps(process))
    with runtime.container(make_bundle("sleep 60", {"process.capabilities": caps})) as container:
        result = runtime("exec", "-p", tmp_path / "process.json", container.id)
        assert result.out.split() == ["CapBnd:", "0000000000000001"], result


@pytest.mark.parametrize("flags", [("--pids-limit", "-5"), ("--blkio-weight", "5")], ids=str)
def test_a_refused_limit_is_not_saved(runtime: Runtime, make_bundle: MakeBundle, flags: tuple[str, str]) -> None:
    """What a flag gives is judged as a document's value is, before anything reads it again."""
    with runtime.container(make_bundle("sleep 60")) as container:
        saved = container.saved()["config"]
        assert "invalid" in container("update", *flags).message
        assert container.saved()["config"] == saved
        container.ok("update", "--pids-limit", "50")


def test_words_of_exec_and_kill(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A process file that is missing, a number of descriptors that is none, and an empty signal, which is TERM."""
    with runtime.container(make_bundle("sleep 60")) as container:
        result = runtime("exec", "-p", "/no/such.json", container.id)
        assert (result.code, result.message) == (255, "exec failed: open /no/such.json: no such file or directory")
        result = runtime("exec", "--preserve-fds", "-1", container.id, "true")
        assert (result.code, result.message) == (255, "exec failed: invalid --preserve-fds -1")
        container.ok("kill", "")
