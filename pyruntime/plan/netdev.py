"""Network devices of the host that move into the container (config-linux.md, Network Devices).

One RTM_NEWLINK message moves a device and renames it, while init waits in its new namespace. What the kernel drops on
the way are the addresses: those that are permanent and global are added again inside, then the device is set up. All
else (MTU, hardware address, alternative names) it keeps by itself. The kernel keeps the index too where it is free,
which it is in a new namespace; in one that is joined the device gets an index of ours, by which init finds it whatever
name a `%d` template gave it. Not moved back at delete: the namespace takes care of that, and the specification forbids it.
"""

from __future__ import annotations

from _struct import pack

from pyruntime.errors import SpecError
from pyruntime.plan.step import HostStep, Step, init_step
from pyruntime.spec.document import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import Address, BundleFacts, HostFacts
    from pyruntime.spec.config import Spec

RTM_NEWADDR = 20  # rtnetlink(7)
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x200, 0x400
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
KEPT_FLAGS = 0x02 | 0x200 | 0x400  # IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFA_F_MCAUTOJOIN (linux/if_addr.h)
JOINED_INDEX = 1 << 24  # added to the index of a device that goes into a joined namespace
INDEX_KERNEL = (5, 13)  # first with IFLA_NEW_IFINDEX


def device_steps(spec: Spec, bundle: BundleFacts, host: HostFacts) -> tuple[list[HostStep], list[Step]]:
    """(moves while init waits, what init does with the devices then). Raises SpecError where nothing can be moved."""
    space = spec.linux.namespace("network")
    if not spec.linux.net_devices or space is None:
        return [], []
    if host.euid != 0 or host.in_user_ns:
        raise SpecError("unable to move network devices without privileges over the host's network",
                        field="/linux/netDevices", hint="run as root of the host, or remove netDevices")  # fmt: skip
    if space.path and host.kernel < INDEX_KERNEL:
        raise SpecError("moving network devices into a joined namespace needs Linux 5.13", field="/linux/netDevices",
                        hint="leave out the path of the network namespace")  # fmt: skip
    moves, inside = [], []
    for device, facts in zip(spec.linux.net_devices, bundle.net_devices):
        origin = f"/linux/netDevices/{escape(device.host_name)}"
        index = facts.number + JOINED_INDEX if space.path else facts.number
        name = device.name or device.host_name
        moves.append(HostStep("move_device", (device.host_name, facts.number, name, index), origin))
        inside.append(init_step("net_device", (index, b"".join(map(address_message, facts.addresses))), origin))
    return moves, inside


def address_message(address: Address) -> bytes:
    """RTM_NEWADDR for one address; init fills the index in. See rtnetlink(7), linux/if_addr.h."""
    attributes = b"".join(
        pack("<HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
        for kind, data in ((IFA_LOCAL, address.local), (IFA_ADDRESS, address.peer), (IFA_BROADCAST, address.broadcast),
                           (IFA_FLAGS, pack("<I", address.flags & KEPT_FLAGS)))
        if data
    )  # fmt: skip
    body = pack("<BBBBI", address.family, address.prefix, 0, 0, 0) + attributes
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE
    return pack("<IHHII", 16 + len(body), RTM_NEWADDR, flags, 1, 0) + body
