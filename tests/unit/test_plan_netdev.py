"""linux.netDevices as steps: moves while init waits, addresses as netlink messages, and what is refused."""

from __future__ import annotations

import socket
import struct

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import Address, BundleFacts, HostFacts, NetDeviceFacts
from pyruntime.plan.describe import describe
from pyruntime.plan.netdev import address_message
from tests.plan_samples import ops, plan

V4 = Address(2, 24, socket.inet_aton("10.1.2.3"), socket.inet_aton("10.1.2.3"), socket.inet_aton("10.1.2.255"), 0x280)
BUNDLE = BundleFacts("/b", "/b/rootfs", net_devices=(NetDeviceFacts("eth7", 7, (V4,)), NetDeviceFacts("eth8", 8)))
CHANGES = {"linux.namespaces+": [{"type": "network"}], "linux.netDevices": {"eth7": {"name": "inner"}, "eth8": {}}}


def test_devices_move_while_init_waits():
    found = plan(CHANGES, bundle=BUNDLE)
    moves = [step for step in found.steps if step.op == "move_device"]
    assert [(step.args, step.origin) for step in moves] == [
        (("eth7", 7, "inner", 7), "/linux/netDevices/eth7"), (("eth8", 8, "eth8", 8), "/linux/netDevices/eth8"),
    ]  # fmt: skip
    names = ops(found)
    assert names.index("record_pid") < names.index("move_device") < names.index("net_device")
    assert [step.args[0] for step in found.steps if step.op == "net_device"] == [7, 8]
    assert describe(moves[0]) == "eth7 (index 7) -> inner"


def test_in_a_joined_namespace_the_index_is_ours():
    joined = {"linux.namespaces+": [{"type": "network", "path": "/run/netns/x"}], "linux.netDevices": {"eth7": {}}}
    found = plan(joined, bundle=BUNDLE)
    assert [step.args[3] for step in found.steps if step.op == "move_device"] == [7 + (1 << 24)]
    with pytest.raises(SpecError, match=r"needs Linux 5\.13"):
        plan(joined, bundle=BUNDLE, host=HostFacts(kernel=(5, 10)))


def test_a_message_for_each_address():
    message = address_message(V4)
    size, kind, flags, _, _ = struct.unpack_from("<IHHII", message)
    assert (size, kind, flags) == (len(message), 20, 0x605)
    assert struct.unpack_from("<BBBBI", message, 16) == (2, 24, 0, 0, 0)
    attributes, at = {}, 24
    while at < len(message):
        length, name = struct.unpack_from("<HH", message, at)
        attributes[name] = message[at + 4 : at + length]
        at += (length + 3) & ~3
    assert attributes == {2: V4.local, 1: V4.peer, 4: V4.broadcast, 8: struct.pack("<I", 0x200)}


@pytest.mark.parametrize("host", [HostFacts(euid=1000), HostFacts(in_user_ns=True)])
def test_only_the_hosts_root_moves_devices(host):
    maps = [{"containerID": 0, "hostID": 1000, "size": 1}]
    changes = {**CHANGES, "linux.namespaces+": [{"type": "network"}, {"type": "user"}],
               "linux.uidMappings": maps, "linux.gidMappings": maps}  # fmt: skip
    with pytest.raises(SpecError, match="without privileges") as caught:
        plan(changes, bundle=BUNDLE, host=host)
    assert caught.value.field == "/linux/netDevices"
