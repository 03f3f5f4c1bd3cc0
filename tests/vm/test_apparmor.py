"""AppArmor at work: a profile loaded into the kernel holds the container, an exec, and what it is told to deny."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system
PROFILES = """
profile pyruntime-strict flags=(attach_disconnected) {
  file, capability, network, signal, ptrace, unix, mount, umount, pivot_root,
  deny /etc/passwd r,
  deny /tmp/** w,
}
profile pyruntime-other flags=(attach_disconnected) {
  file, capability, network, signal, ptrace, unix,
  deny /etc/group r,
}
"""
LOOK = "cat /proc/self/attr/current; cat /etc/passwd >/dev/null; echo x >/tmp/made; cat /etc/group >/dev/null && echo group"


@pytest.fixture
def profiles(tmp_path: Path) -> Iterator[None]:
    """Both profiles in the kernel."""
    if Path("/sys/module/apparmor/parameters/enabled").read_text() != "Y\n":
        pytest.skip("needs a kernel with AppArmor")
    file = tmp_path / "profiles"
    file.write_text(PROFILES)
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache", file], check=True)
    yield
    subprocess.run(["apparmor_parser", "--remove", file], check=True)


@pytest.mark.representative
@pytest.mark.parametrize("no_new_privileges", [False, True], ids=["", "noNewPrivileges"])
def test_a_profile_denies(runtime: Runtime, make_bundle: MakeBundle, profiles: None, no_new_privileges: bool) -> None:
    changes = {"process.apparmorProfile": "pyruntime-strict", "process.noNewPrivileges": no_new_privileges}
    result = runtime.run(make_bundle(LOOK, changes))
    assert result.out.split("\n") == ["pyruntime-strict (enforce)", "group", ""], result
    assert "can't open '/etc/passwd': Permission denied" in result.err
    assert "can't create /tmp/made: Permission denied" in result.err


def test_an_exec_has_the_container_s_profile_or_its_own(runtime: Runtime, make_bundle: MakeBundle, profiles: None) -> None:
    with runtime.container(make_bundle(["sleep", "1000"], {"process.apparmorProfile": "pyruntime-strict"})) as container:
        assert Path(f"/proc/{container.pid}/attr/current").read_text() == "pyruntime-strict (enforce)\n"
        assert container.look("cat /proc/self/attr/current; cat /etc/passwd 2>/dev/null || echo no") == "pyruntime-strict (enforce)\nno"
        own = runtime("exec", "--apparmor", "pyruntime-other", container.id, "sh", "-c",
                      "cat /proc/self/attr/current; cat /etc/group 2>/dev/null || echo no")  # fmt: skip
        assert own.out == "pyruntime-other (enforce)\nno\n", own
        free = runtime("exec", "--apparmor", "unconfined", container.id, "cat", "/proc/self/attr/current")
        assert free.out == "unconfined\n", free


def test_a_profile_that_nobody_loaded(runtime: Runtime, make_bundle: MakeBundle, profiles: None) -> None:
    result = runtime.run(make_bundle("true", {"process.apparmorProfile": "pyruntime-none"}))
    assert (result.code, result.field) == (1, "/process/apparmorProfile"), result
    assert "pyruntime-none" in result.err
    assert "  hint: " in result.err
    assert runtime.ids() == []
