"""The container's cgroup given to its user, and the cgroup below it that an annotation asks for. Pure.

config-linux.md, Cgroup ownership: the owner changes on cgroup v2 alone, and only for a container that gets a cgroup
namespace of its own and sees the tree writable; it may then divide what it has, and change none of its limits.
"""

from __future__ import annotations

from pyruntime.plan.kernel import CAP_CHOWN
from pyruntime.plan.step import HostStep
from pyruntime.spec.annotations import DELEGATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.plan.step import CgroupPlan
    from pyruntime.spec.config import Process, Spec

MOUNT_POINT = "/sys/fs/cgroup"


def delegation_steps(spec: Spec, process: Process, bundle: BundleFacts, host: HostFacts,
                     cgroup: CgroupPlan) -> list[HostStep]:  # fmt: skip
    """At `ready`, when init has its cgroup namespace and nothing but itself runs in the container's cgroup."""
    own = dict(cgroup.paths).get("", "")
    origin = f"/annotations/{DELEGATE}"
    steps = [HostStep("cg_enter", (cgroup.delegate,), origin)] if cgroup.delegate else []
    uid = host_uid(spec, process, bundle)
    # What is made belongs to the caller already; giving it away takes a capability that a plain user lacks.
    if not own or not uid or not host.capabilities >> CAP_CHOWN & 1 or not changes_owner(spec, host):
        return steps
    steps.append(HostStep("cg_own", (own, uid), "/process/user/uid"))
    if cgroup.delegate:
        steps.append(HostStep("cg_own", (cgroup.delegate, uid), origin))
    return steps


def changes_owner(spec: Spec, host: HostFacts) -> bool:
    """The conditions of config-linux.md, Cgroup ownership."""
    space = spec.linux.namespace("cgroup")
    if host.cgroup.layout != "v2" or space is None or space.path:
        return False
    return any(mount.source == "cgroup" and mount.destination.rstrip("/") == MOUNT_POINT and "ro" not in mount.options
               for mount in spec.mounts)  # fmt: skip


def host_uid(spec: Spec, process: Process, bundle: BundleFacts) -> int:
    """The host's number of the process's uid; 0, which changes nothing, where it has none."""
    uid = process.user.uid
    if spec.linux.namespace("user") is None:
        return uid
    maps = tuple((entry.container_id, entry.host_id, entry.size) for entry in spec.linux.uid_mappings)
    for inside, outside, size in maps or bundle.joined_uid_map:
        if inside <= uid < inside + size:
            return outside + uid - inside
    return 0
