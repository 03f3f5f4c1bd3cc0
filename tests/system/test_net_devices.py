"""linux.netDevices for real: devices of a network namespace that stands for the host's, seen from inside (contract 4.11)."""

from __future__ import annotations

import ctypes
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import NAMESPACES, namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

CLONE_NEWNET = 0x40000000
LOOK = "ip -o addr show; ip -o link show"


class Host:
    """A network namespace in which the runtime is called."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["sleep", "300"], preexec_fn=lambda: ctypes.CDLL(None).unshare(CLONE_NEWNET))
        self.fd = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY)

    def enter(self) -> None:
        if ctypes.CDLL(None).setns(self.fd, CLONE_NEWNET):
            raise OSError("setns")

    def ip(self, words: str) -> str:
        call = subprocess.run(["ip", *words.split()], preexec_fn=self.enter, capture_output=True, text=True, check=False)
        assert call.returncode == 0, (words, call.stderr)
        return call.stdout

    def make(self, name: str) -> None:
        """A device that can move: one end of a pair, whose other end stays."""
        self.ip(f"link add {name} type veth peer name {name}-peer")
        self.ip(f"link set {name}-peer up")


@pytest.fixture
def host() -> Iterator[Host]:
    found = Host()
    yield found
    os.close(found.fd)
    found.holder.kill()
    found.holder.wait()


def moving(devices: dict[str, Any]) -> dict[str, Any]:
    return {"linux.namespaces": namespaces("network"), "linux.netDevices": devices}


def test_a_device_moves_with_its_addresses(runtime: Runtime, make_bundle: MakeBundle, host: Host) -> None:
    host.make("given")
    host.ip("link set given mtu 1400 address 02:00:00:00:00:07 up")
    host.ip("addr add 10.9.8.7/24 brd 10.9.8.255 dev given")
    host.ip("addr add fd00::7/64 dev given nodad")
    host.ip("addr add 169.254.3.3/16 scope link dev given")
    out = runtime.look(make_bundle(LOOK, moving({"given": {"name": "inner"}})), preexec_fn=host.enter)
    assert "inner" in out
    assert "given" not in out.replace("given-peer", "")
    assert "inet 10.9.8.7/24 brd 10.9.8.255 scope global inner" in out
    assert "inet6 fd00::7/64 scope global" in out
    assert "169.254.3.3" not in out  # not global
    line = next(line for line in out.splitlines() if "inner" in line and "link/ether" in line)
    assert "mtu 1400" in line
    assert "02:00:00:00:00:07" in line
    assert ",UP" in line
    assert "given@" not in host.ip("-o link show")


def test_a_template_takes_the_first_free_name(runtime: Runtime, make_bundle: MakeBundle, host: Host) -> None:
    host.make("one")
    host.make("two")
    devices = {"one": {"name": "net%d"}, "two": {"name": "net%d"}}
    out = runtime.look(make_bundle("ip -o link", moving(devices)), preexec_fn=host.enter)
    assert {"net0", "net1"} <= {line.split()[1].partition("@")[0] for line in out.splitlines()}


def test_into_a_joined_namespace(runtime: Runtime, make_bundle: MakeBundle, host: Host) -> None:
    """Its indexes are taken by others, and stay theirs."""
    target = Host()
    try:
        for number in range(3):
            target.make(f"other{number}")
        host.make("given")
        host.ip("addr add 10.9.8.7/24 dev given")
        changes = {
            "linux.namespaces": namespaces(network=f"/proc/{target.holder.pid}/ns/net"),
            "linux.netDevices": {"given": {"name": "in%d"}},
        }
        runtime.look(make_bundle("true", changes), preexec_fn=host.enter)
        out = target.ip("-o addr show")
        assert "inet 10.9.8.7/24 scope global in0" in out
        assert "given@" not in host.ip("-o link show")
    finally:
        os.close(target.fd)
        target.holder.kill()
        target.holder.wait()


def test_hooks_see_it(runtime: Runtime, make_bundle: MakeBundle, host: Host, tmp_path: Any) -> None:
    host.make("given")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"nsenter -t $(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/') -n ip -o link >{tmp_path}/seen"]}
    changes = {**moving({"given": {}}), "hooks": {"createRuntime": [{**hook, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]}}
    runtime.look(make_bundle("true", changes), preexec_fn=host.enter)
    assert "given" in (tmp_path / "seen").read_text()


@pytest.mark.parametrize(
    ("devices", "text", "field"),
    [
        ({"missing": {}}, "move netDevice missing to namespace: link not found", "/linux/netDevices/missing"),
        ({"given": {"name": "lo"}}, "move netDevice given to namespace: file exists", "/linux/netDevices/given"),
        ({"given": {"name": "a/b"}}, "invalid network device name", "/linux/netDevices/given/name"),
        ({"lo": {"name": "lo2"}}, "move netDevice lo to namespace: ", "/linux/netDevices/lo"),
    ],
)
def test_refused(
    runtime: Runtime, make_bundle: MakeBundle, host: Host, devices: dict[str, Any], text: str, field: str
) -> None:
    host.make("given")
    result = runtime.run(make_bundle("true", moving(devices)), preexec_fn=host.enter)
    assert (result.code, result.field) == (1, field), result
    assert text in result.message
    assert runtime.ids() == []
    assert "given@" in host.ip("-o link show")


def test_without_a_network_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    changes = {"linux.namespaces": [{"type": kind} for kind in NAMESPACES if kind != "network"], "linux.netDevices": {"x": {}}}
    result = runtime.run(make_bundle("true", changes))
    assert (result.code, result.field) == (1, "/linux/netDevices"), result
