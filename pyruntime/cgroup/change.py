"""The steps of an update, carried out all or none."""

from __future__ import annotations

from errno import EBUSY

from pyruntime.cgroup.manager import number_text, read_file, write
from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.plan.step import HostStep

# Files with a line for each device or interface, and what stands for "no limit" there.
KEYED = {
    "blkio.throttle.read_bps_device": "0",
    "blkio.throttle.write_bps_device": "0",
    "blkio.throttle.read_iops_device": "0",
    "blkio.throttle.write_iops_device": "0",
    "blkio.bfq.weight_device": "0",
    "io.bfq.weight": "0",
    "io.max": "rbps=max wbps=max riops=max wiops=max",
    "net_prio.ifpriomap": "0",
    "rdma.max": "hca_handle=max hca_object=max",
}


def change(steps: tuple[HostStep, ...]) -> None:
    """Carry out the steps of compile_update, all or none: after a refusal the old values are written back, last first.

    A cg_check is refused when its file holds more than its limit. Raises HostError.
    """
    undo: list[tuple[str, str]] = []
    try:
        for step in steps:
            file, data = str(step.args[0]), str(step.args[1])
            if step.op == "cg_check":
                _check(file, int(data), step.origin)
                continue
            old = _old_value(file, data)
            write(file, data, step.origin)
            if old is not None:
                undo.append((file, old))
    except HostError:
        for file, old in reversed(undo):
            try:
                write(file, old)
            except HostError:  # the first error is the one to report
                continue
        raise


def _check(file: str, limit: int, origin: str) -> None:
    current = number_text(file)
    if current.isdecimal() and int(current) > limit:
        raise HostError(f"unable to set memory limit to {limit} (current usage: {current})", errno=EBUSY, field=origin,
                        value=str(limit), hint="the container already uses more than that")


def _old_value(file: str, data: str) -> str | None:
    """What to write to `file` to undo writing `data`, from what it holds now; None when that cannot be known.

    Files of KEYED hold a line for each device or interface; one that has no line has no limit.
    """
    try:
        text = read_file(file).decode("utf-8", "surrogateescape").strip()
    except OSError:
        return None
    name = file.rpartition("/")[2]
    if name == "cgroup.subtree_control":
        return None  # a controller that stays on limits nothing
    if name == "memory.oom_control":
        return text.split("\n", 1)[0].rpartition(" ")[2]
    if name == "schemata":
        return f"{text}\n"  # of resctrl, which takes whole lines only
    unset = KEYED.get(name)
    if unset is None:
        return text
    key = data.partition(" ")[0]
    lines = [line for line in text.split("\n") if line.partition(" ")[0] == key]
    return lines[0] if lines else f"{key} {unset}"
