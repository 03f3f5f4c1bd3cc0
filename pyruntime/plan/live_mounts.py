"""Mounts of a container that runs: the steps of create, entered as an exec enters (crun's `mounts`).

A source is opened on the host, as a detached tree that is handed over by slot; the target is resolved below the
container's root. A bind has its attributes before it is attached: the program that runs already never sees a read-only
one that can be written to (S25). What the process is to mount that belongs to a namespace (proc, sysfs, mqueue) it
mounts inside of all of the container's, so it is a clone there. It ends with the last step.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.exec_plan import enter
from pyruntime.plan.kernel import MNT_DETACH
from pyruntime.plan.mounts import Mounts, clean, compile_mount
from pyruntime.plan.step import CgroupPlan, HostStep, Plan, Slots, Step, init_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.plan.step import ExecOptions
    from pyruntime.spec.config import Spec

    Steps = list[Step | HostStep]

UMOUNT_NOFOLLOW = 8


def compile_add(spec: Spec, index: int, bundle: BundleFacts, host: HostFacts, options: ExecOptions,
                cgroup: CgroupPlan) -> Plan:
    """The plan of mounts[index] of `spec`, the container's configuration with the new mounts. Raises SpecError."""
    slots = Slots()
    pidfd_slot = slots.take()
    mounts = Mounts(spec, bundle, host, cgroup, slots)
    if mounts.inside:
        raise SpecError("mounts of a running container need privileges over the host's mount namespace",
                        field=f"/mounts/{index}", hint="run as root of the host, or recreate the container")
    mounts.live = True
    compile_mount(mounts, spec.mounts[index], f"/mounts/{index}")
    steps = _entered(spec, host, options, pidfd_slot, mounts.host)
    return Plan((*steps, *mounts.init, *mounts.late), slots.next, 3, tuple(mounts.warnings))


def compile_remove(spec: Spec, index: int, host: HostFacts, options: ExecOptions) -> Plan:
    """The plan that takes the topmost mount at the destination of mounts[index] away."""
    slots = Slots()
    steps = _entered(spec, host, options, slots.take(), [])
    target = clean(spec.mounts[index].destination)
    if target == "/":
        raise SpecError("the root of a container cannot be unmounted", field=f"/mounts/{index}/destination", value="/",
                        hint="name a mount below it")
    return Plan((*steps, init_step("umount", (target, MNT_DETACH | UMOUNT_NOFOLLOW), f"/mounts/{index}")), slots.next, 3)


def _entered(spec: Spec, host: HostFacts, options: ExecOptions, pidfd_slot: int, opens: list[HostStep]) -> Steps:
    """From init's pidfd to a process in the container's namespaces, whose root is slot 0."""
    assert spec.process is not None
    process = spec.process.replace(exec_cpu_affinity=None, oom_score_adj=None)
    steps: Steps = [HostStep("open_pidfd", (pidfd_slot,)), *opens, HostStep("spawn", ())]
    enter(steps, process, host, options, pidfd_slot)
    steps.append(init_step("use_root", ("/",)))
    return steps
