"""Intel RDT: the container's group in resctrl (config-linux.md, Intel RDT; Documentation/filesystems/resctrl.rst).

A group is a directory: made or found, checked or written by its `schemata`, joined by its `tasks`. Stage 0 joins before
it clones, so init is born there; an exec joins the same files. All of it is host steps.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.step import HostStep
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import HostFacts
    from pyruntime.spec.config import Spec
    from pyruntime.spec.linux import IntelRdt

DEFAULT_GROUP = "/"


class RdtPlan(Record):
    """`make` goes before spawn, `join` before init exists. `group` is the directory, `monitor` that of its monitoring.

    `ours`: those of the two that delete removes, if they were not there before.
    """

    make: tuple[HostStep, ...] = ()
    join: tuple[HostStep, ...] = ()
    group: str = ""
    ours: tuple[str, ...] = ()


def compile_rdt(spec: Spec, host: HostFacts, container_id: str) -> RdtPlan:
    """The steps of linux.intelRdt. Raises SpecError without resctrl, or for a named group that has to be there."""
    rdt = spec.linux.intel_rdt
    if rdt is None:
        return RdtPlan()
    if not host.resctrl:
        raise SpecError("intelRdt is specified in config, but Intel RDT is not enabled", field="/linux/intelRdt",
                        hint="mount resctrl on /sys/fs/resctrl, on a processor that has it")  # fmt: skip
    name = rdt.clos_id or container_id
    group = host.resctrl if name == DEFAULT_GROUP else f"{host.resctrl}/{name}"
    lines = _lines(rdt)
    there = name == DEFAULT_GROUP or name in host.resctrl_groups
    if rdt.clos_id and not lines and not there:
        raise SpecError(f"clos group {name} does not exist", field="/linux/intelRdt/closID", value=name,
                        hint="give a schema to make it, or name a group below resctrl")  # fmt: skip
    monitor = f"{group}/mon_groups/{container_id}" if rdt.enable_monitoring else ""
    make = [] if there else [HostStep("rdt_make", (group,), "/linux/intelRdt")]
    if rdt.clos_id and there and (rdt.l3_cache_schema or rdt.mem_bw_schema):
        wanted = tuple(line for text in (rdt.l3_cache_schema, rdt.mem_bw_schema) for line in text.split("\n") if line)
        make.append(HostStep("rdt_compare", (f"{group}/schemata", wanted), "/linux/intelRdt"))
    make += [HostStep("rdt_write", (f"{group}/schemata", line), f"/linux/intelRdt/{key}") for key, line in lines]
    if monitor:
        make.append(HostStep("rdt_make", (monitor,), "/linux/intelRdt/enableMonitoring"))
    join = tuple(HostStep("rdt_join", (path,), "/linux/intelRdt") for path in (group, monitor) if path)
    ours = tuple(path for path in ("" if rdt.clos_id else group, monitor) if path)
    return RdtPlan(tuple(make), join, group, ours)


def _lines(rdt: IntelRdt) -> list[tuple[str, str]]:
    """(key, text) of what is written to schemata, in the specification's order."""
    found = [("l3CacheSchema", rdt.l3_cache_schema), ("memBwSchema", rdt.mem_bw_schema)]
    found += [(f"schemata/{index}", line) for index, line in enumerate(rdt.schemata)]
    return [(key, f"{text}\n") for key, text in found if text]


def parse_schemata(text: str) -> dict[tuple[str, str], int]:
    """(resource, domain) -> value of schemata lines: bit masks are hexadecimal, bandwidth is decimal."""
    found = {}
    for line in text.splitlines():
        resource, _, domains = line.strip().partition(":")
        for entry in domains.split(";"):
            domain, _, value = entry.partition("=")
            if value:
                found[resource.strip(), domain.strip()] = int(value, 10 if resource.strip() == "MB" else 16)
    return found
