"""Annotations that change what is done, seen from inside and by those who receive (contract 5)."""

from __future__ import annotations

import base64
import os
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.runtime import WAIT_S
from tests.system.test_console import listening, received
from tests.system.test_seccomp import NOTIFY, TRY, Answerer, profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filters use x86-64's calls"),
]
# ld nr; jeq mkdir: errno 28; jeq mkdirat: errno 28; allow
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
RAW = b"".join(struct.pack("<HBBI", *words) for words in (
    (LOAD, 0, 0, 0), (EQUAL, 1, 0, 83), (EQUAL, 0, 1, 258), (RETURN, 0, 0, 0x50000 | 28), (RETURN, 0, 0, 0x7FFF0000),
))  # fmt: skip


def annotated(**values: str) -> dict[str, Any]:
    return {"annotations": {f"run.oci.{name.replace('__', '.')}": value for name, value in values.items()}}


def test_the_receiver_of_a_listener(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    agent = Answerer(tmp_path / "agent")
    agent.start()
    changes = {**profile(NOTIFY), **annotated(seccomp__receiver=str(tmp_path / "agent"))}
    try:
        assert runtime.look(make_bundle(TRY, changes)) == "Invalid cross-device link"
    finally:
        agent.close()
        agent.join(WAIT_S)


@pytest.mark.parametrize("more", [{}, profile("SCMP_ACT_KILL")], ids=["alone", "in place of a profile"])
def test_a_filter_as_it_is(runtime: Runtime, make_bundle: MakeBundle, more: dict[str, Any]) -> None:
    changes = {**more, **annotated(seccomp_bpf_data=base64.b64encode(RAW).decode())}
    with runtime.container(make_bundle(f"{TRY}; sleep 600", changes)) as container:
        assert container.wait_output("\n") == "No space left on device\n"
        assert container.look(TRY) == "No space left on device"  # an exec has it too


@pytest.mark.parametrize("text", ["", "!", base64.b64encode(RAW[:-1]).decode(), base64.b64encode(bytes(8 * 4097)).decode()], ids=len)
def test_a_filter_that_is_none(runtime: Runtime, make_bundle: MakeBundle, text: str) -> None:
    result = runtime.run(make_bundle("echo ran", annotated(seccomp_bpf_data=text)))
    if not text:
        assert result.out == "ran\n"  # empty asks for nothing
    else:
        assert (result.code, result.field) == (1, "/annotations/run.oci.seccomp_bpf_data"), result
        assert runtime.ids() == []


@pytest.mark.parametrize(("value", "code"), [("1", 1), ("0", 0)])
def test_names_that_are_not_known(runtime: Runtime, make_bundle: MakeBundle, value: str, code: int) -> None:
    changes = {**profile(names=("no_such_call", "mkdir")), **annotated(seccomp_fail_unknown_syscall=value)}
    result = runtime.run(make_bundle("true", changes))
    assert result.code == code, result
    if code:
        assert (result.field, "unknown system call no_such_call" in result.message) == ("/linux/seccomp/syscalls", True)


def test_the_receiver_of_a_pidfd(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("sleep 600", annotated(pidfd_receiver=str(tmp_path / "sock")))
    with listening(tmp_path / "sock") as server, runtime.container(bundle) as container:
        data, pidfd = received(server)
        assert data == b"standard"
        assert f"Pid:\t{container.pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        os.close(pidfd)


@pytest.mark.parametrize("names", [("stdout", "stderr"), ("stdout",), ("stderr",)], ids=str)
def test_output_of_hooks(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Appended to the files, by hooks of either side; what is not sent to a file is in the error."""
    files = {name: tmp_path / f"{name}.log" for name in names}
    for file in files.values():
        file.write_text("before\n")
    changes = annotated(**{f"hooks__{name}": str(file) for name, file in files.items()})
    bundle = make_bundle("true", changes)
    points = ("createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    bundle.config["hooks"] = {point: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {point}; echo {point}! >&2"]}]
                              for point in points}  # fmt: skip
    bundle.save()
    assert runtime.run(bundle).code == 0
    mark = {"stdout": "", "stderr": "!"}
    for name, file in files.items():
        assert file.read_text().split() == ["before", *(f"{point}{mark[name]}" for point in points)]
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "echo A; echo B >&2; exit 3"]}]}
    bundle.save()
    failed = runtime.run(bundle)
    assert (failed.code, failed.field) == (1, "/hooks/createContainer/0")
    assert [word in failed.message.partition("stdout: ")[2] for word in "AB"] == ["stdout" not in names, "stderr" not in names]


def test_output_of_hooks_that_has_no_place(runtime: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle("true", annotated(hooks__stdout="/no/such/folder/log"))
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/true"}]}
    bundle.save()
    result = runtime.run(bundle)
    assert (result.code, result.field) == (1, "/annotations/run.oci.hooks.stdout"), result
    assert "/no/such/folder/log" in result.message
    assert runtime.ids() == []


@pytest.mark.parametrize(("name", "value", "hint"), [
    ("delegate-cgroup", "init", "remove the annotation"),
    ("delegate-cgroup", "../init", "such as init"),
    ("systemd__subgroup", "a/b", "one name"),
    ("systemd__force_cgroup_v1", "here", "a mount point in the container"),
    ("hooks__stderr", "log", "a file of the host"),
])  # fmt: skip
def test_values_that_cannot_be(runtime: Runtime, make_bundle: MakeBundle, name: str, value: str, hint: str) -> None:
    """The field and what to do; the tree of v1 of this host cannot be given away."""
    if value == "init" and not Path("/sys/fs/cgroup/memory").exists():
        pytest.skip("needs cgroup v1")
    result = runtime.run(make_bundle("true", annotated(**{name: value})))
    assert (result.code, result.field) == (1, f"/annotations/run.oci.{name.replace('__', '.')}"), result
    assert hint in result.err
    assert runtime.ids() == []


def test_the_systemd_tree_of_v1(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Also on a hybrid host: one tree, in the place of what the configuration has there, and writable."""
    if not Path("/sys/fs/cgroup/systemd").exists():
        pytest.skip("needs a cgroup v1 tree name=systemd")
    script = "grep ' /mnt/sd ' /proc/self/mountinfo | cut -d' ' -f 4,8; mkdir /mnt/sd/below && echo made"
    bundle = make_bundle(script, annotated(systemd__force_cgroup_v1="/mnt/sd"))
    bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    bundle.add_mounts({"destination": "/mnt/sd", "type": "tmpfs", "source": "tmpfs"})
    assert runtime.look(bundle) == "/ cgroup\nmade"
