"""Annotations that change what is done, seen from inside and by those who receive (contract 5)."""

from __future__ import annotations

import base64
import os
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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
        agent.join(12)


@pytest.mark.parametrize("more", [{}, profile("SCMP_ACT_KILL")], ids=["alone", "in place of a profile"])
def test_a_filter_as_it_is(runtime: Runtime, make_bundle: MakeBundle, more: dict[str, Any]) -> None:
    changes = {**more, **annotated(seccomp_bpf_data=base64.b64encode(RAW).decode())}
    with runtime.container(make_bundle(f"{TRY}; sleep 60", changes)) as container:
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
    bundle = make_bundle("sleep 60", annotated(pidfd_receiver=str(tmp_path / "sock")))
    with listening(tmp_path / "sock") as server, runtime.container(bundle) as container:
        data, pidfd = received(server)
        assert data == b"standard"
        assert f"Pid:\t{container.pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        os.close(pidfd)
