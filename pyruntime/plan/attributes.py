"""Compile what few processes have: scheduler, ioPriority, execCPUAffinity, personality, memoryPolicy. Pure.

Imported only when one of them is there.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.kernel import (
    IO_CLASSES,
    MEMORY_FLAGS,
    MEMORY_MODES,
    PERSONALITIES,
    POLICIES,
    SCHEDULER_FLAGS,
)
from pyruntime.plan.step import Step, init_step
from pyruntime.spec.parse_rare import MAX_CPU, MAX_NODE, parse_number_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.config import ExecCPUAffinity, Process, Scheduler
    from pyruntime.spec.linux import Linux, MemoryPolicy, Personality

SCHED_ATTR_SIZE = 56  # SCHED_ATTR_SIZE_VER1, Linux 5.3


def attribute_steps(process: Process, linux: Linux) -> list[Step]:
    """What an exec'd program inherits, set while we still have the privilege (contract 3.1, step 10)."""
    steps = []
    if process.scheduler is not None:
        steps.append(init_step("scheduler", (sched_attr(process.scheduler),), "/process/scheduler"))
    if process.io_priority is not None:
        value = IO_CLASSES[process.io_priority.class_] << 13 | process.io_priority.priority
        steps.append(init_step("io_priority", (value,), "/process/ioPriority"))
    if linux.personality is not None:
        steps.append(init_step("personality", (persona(linux.personality),), "/linux/personality"))
    if linux.memory_policy is not None:
        steps.append(init_step("memory_policy", memory_policy(linux.memory_policy), "/linux/memoryPolicy"))
    return steps


def sched_attr(scheduler: Scheduler) -> bytes:
    """struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, three times in ns, clamps of 0."""
    flags = 0
    for name in scheduler.flags:
        flags |= SCHEDULER_FLAGS[name]
    fields = ((SCHED_ATTR_SIZE, 4), (POLICIES[scheduler.policy], 4), (flags, 8), (scheduler.nice, 4),
              (scheduler.priority, 4), (scheduler.runtime, 8), (scheduler.deadline, 8), (scheduler.period, 8),
              (0, 4), (0, 4))  # fmt: skip
    return b"".join(value.to_bytes(size, "little", signed=value < 0) for value, size in fields)


def memory_policy(policy: MemoryPolicy) -> tuple[int, bytes]:
    """(mode with its flags, nodes as a mask in longs) for set_mempolicy(2)."""
    mode = MEMORY_MODES[policy.mode]
    for name in policy.flags:
        mode |= MEMORY_FLAGS[name]
    return mode, mask_of(parse_number_list(policy.nodes, MAX_NODE))


def mask_of(numbers: tuple[int, ...]) -> bytes:
    """A bit for each number, in whole longs; b"" for none."""
    value = 0
    for number in numbers:
        value |= 1 << number
    return value.to_bytes((value.bit_length() + 63) // 64 * 8, "little")


def affinity_steps(affinity: ExecCPUAffinity) -> tuple[list[Step], list[Step]]:
    """(before, after) the process enters the container's cgroup: config.md, execCPUAffinity. () for an empty list."""
    found = []
    for key, text in (("initial", affinity.initial), ("final", affinity.final)):
        mask = mask_of(parse_number_list(text, MAX_CPU))
        found.append([init_step("affinity", (mask,), f"/process/execCPUAffinity/{key}")] if mask else [])
    return found[0], found[1]


def persona(personality: Personality) -> int:
    """The value for personality(2). Raises SpecError for a domain that is not the spec's."""
    try:
        return PERSONALITIES[personality.domain]
    except KeyError:
        raise SpecError(f"invalid personality domain {personality.domain!r}", field="/linux/personality/domain",
                        value=personality.domain, hint="LINUX and LINUX32 exist") from None  # fmt: skip
