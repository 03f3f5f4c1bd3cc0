"""Records back to the words of config.json: the inverse of parsing, for what `update` changes in a saved config."""

from __future__ import annotations

from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.linux import Resources

# fields whose word in config.json is not their own name in camel case
WORDS = {"disable_oom_killer": "disableOOMKiller", "kernel_tcp": "kernelTCP", "class_id": "classID",
         "block_io": "blockIO", "throttle_read_iops_device": "throttleReadIOPSDevice",
         "throttle_write_iops_device": "throttleWriteIOPSDevice"}  # fmt: skip


def word(field: str) -> str:
    """`memory_limit` as the specification spells it, `memoryLimit`."""
    first, *rest = field.split("_")
    return WORDS.get(field) or first + "".join(part.capitalize() for part in rest)


def render(value: Any) -> Any:
    """A record as an object without its absent fields; tuples as lists, everything else as it is."""
    if isinstance(value, Record):
        pairs = ((word(field), render(item)) for field, item in zip(value._fields, value))
        return {name: item for name, item in pairs if item not in (None, "", [], {})}
    if isinstance(value, tuple):
        return [render(item) for item in value]
    return value


def resources_document(resources: Resources) -> dict[str, Any]:
    """`linux.resources` of config.json for these resources. parse_resources gives the same record back."""
    value = {word(field): render(item) for field, item in zip(resources._fields, resources)
             if field not in ("pids_limit", "rdma", "unified")}
    if resources.pids_limit is not None:
        value["pids"] = {"limit": resources.pids_limit}
    value["unified"] = dict(resources.unified)
    value["rdma"] = {limit.device: render(limit.replace(device="")) for limit in resources.rdma}
    return {name: item for name, item in value.items() if item not in ([], {})}
