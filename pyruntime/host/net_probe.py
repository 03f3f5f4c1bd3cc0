"""Facts of network devices that a config moves, by rtnetlink through pyroute2; loaded only for such a config."""

from __future__ import annotations

from errno import EEXIST, ENODEV
from socket import AF_INET, inet_pton

from pyruntime.errors import SpecError
from pyruntime.host.facts import Address, NetDeviceFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.config import Spec

IFA_F_PERMANENT = 0x80
RT_SCOPE_UNIVERSE = 0
NO_ID = 0xFFFFFFFF  # NETNSA_NSID_NOT_ASSIGNED, as pyroute2 reads it


def probe_devices(spec: Spec) -> tuple[NetDeviceFacts, ...]:
    """One record for each of linux.netDevices, in its order. Raises SpecError for a device that is not there."""
    from pyroute2 import IPRoute

    found = []
    with IPRoute() as route:
        for device in spec.linux.net_devices:
            indexes = route.link_lookup(ifname=device.host_name)
            if not indexes:
                raise SpecError(f"move netDevice {device.host_name} to namespace: link not found",
                                field=f"/linux/netDevices/{device.host_name.replace('~', '~0')}", value=device.host_name,
                                hint="a device of the runtime's own network namespace, as `ip link` lists it")
            addresses = [_address(message) for message in route.get_addr(index=indexes[0]) if _moves(message)]
            found.append(NetDeviceFacts(device.host_name, int(indexes[0]), tuple(addresses)))
    return tuple(found)


def move_device(index: int, name: str, namespace_fd: int, new_index: int) -> None:
    """Move device `index` into a network namespace, under a new name and index. Raises OSError.

    The kernel moves first and renames then (do_setlink in net/core/rtnetlink.c): a name that is taken would leave the
    device behind in a namespace that goes, and the device with it. So the name is looked up before.
    """
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    words: dict[str, Any] = {"new_ifindex": new_index} if new_index != index else {}
    with IPRoute() as route:
        try:
            if "%" not in name and _is_taken(route, name, namespace_fd):
                raise FileExistsError(EEXIST, f"device {name}")
            route.link("set", index=index, net_ns_fd=namespace_fd, ifname=name, **words)
        except NetlinkError as error:
            raise OSError(int(error.code), f"RTM_NEWLINK {name}: {error}") from error


def _is_taken(route: Any, name: str, namespace_fd: int) -> bool:
    """Whether the namespace has a device of that name, asked from here by its id (NETNSA_FD, IFLA_TARGET_NETNSID)."""
    from pyroute2.netlink.exceptions import NetlinkError

    if route.get_netnsid(fd=namespace_fd)["nsid"] == NO_ID:
        route.set_netnsid(fd=namespace_fd)
    try:
        route.link("get", ifname=name, if_netnsid=route.get_netnsid(fd=namespace_fd)["nsid"])
    except NetlinkError as error:
        if int(error.code) == ENODEV:
            return False
        raise
    return True


def _moves(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return bool(flags & IFA_F_PERMANENT) and message["scope"] == RT_SCOPE_UNIVERSE


def _address(message: Any) -> Address:
    family = int(message["family"])
    texts = [message.get_attr(name) for name in ("IFA_LOCAL", "IFA_ADDRESS", "IFA_BROADCAST")]
    local, peer, broadcast = (inet_pton(family, text) if text else b"" for text in texts)
    flags = int(message.get_attr("IFA_FLAGS") or message["flags"])
    return Address(family, int(message["prefixlen"]), local, peer, broadcast if family == AF_INET else b"", flags)
