"""update: new limits for a living container; all of them, or the old ones again (contract 1.4, update)."""

from __future__ import annotations

from pyruntime.cgroup.change import change
from pyruntime.cgroup.update import compile_update, resources_from_flags
from pyruntime.errors import UsageError
from pyruntime.host.cgroup_probe import probe_cgroup
from pyruntime.lifecycle import state, states, store
from pyruntime.plan.step import HostStep
from pyruntime.spec import document
from pyruntime.spec.parse_resources import parse_resources, resource_rules
from pyruntime.spec.reader import Reader
from pyruntime.spec.render import resources_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings
    from pyruntime.spec.linux import Resources

RDT_FLAGS = {"l3-cache-schema": "l3CacheSchema", "mem-bw-schema": "memBwSchema"}


def update(settings: Settings, container_id: str, *, resources: bytes | None = None,
           flags: dict[str, str] | None = None) -> None:
    """Merge a LinuxResources document, or single flags, into the container's limits and apply them.

    Device rules are never touched. When a write is refused the old values are written again and the error is raised.
    """
    flags = flags or {}
    if resources is not None:
        wanted, schemas = parse_resources(document.load(resources, name="resources")), {}
    else:
        wanted = parse_resources(resources_document(resources_from_flags(flags)))  # by the rules of a document
        schemas = {key: flags[name] for name, key in RDT_FLAGS.items() if flags.get(name)}
    with store.lookup(settings.root, container_id) as entry:
        entry.lock()
        found = state.load(entry)
        states.check(state.status(entry, found), "update", container_id)
        merged = _apply(found, wanted, _rdt_steps(found, schemas))
        _save(entry, found, merged, schemas)


def _rdt_steps(found: dict[str, Any], schemas: dict[str, str]) -> tuple[HostStep, ...]:
    """The lines for the container's group of resctrl. Raises UsageError when it has none."""
    group = found.get("intel_rdt_path", "")
    if schemas and not group:
        raise UsageError("Intel RDT is not enabled for this container", value="; ".join(schemas.values()),
                         hint="it takes linux.intelRdt in the config.json that the container is created from")
    return tuple(HostStep("cg_write", (f"{group}/schemata", f"{text}\n"), f"/linux/intelRdt/{key}")
                 for key, text in schemas.items())


def _apply(found: dict[str, Any], wanted: Resources, more: tuple[HostStep, ...]) -> Resources:
    """The merged resources, after every write; raises when one was refused and the old values stand again."""
    saved = state.spec(found).linux.resources
    merged, steps = compile_update(saved, wanted, tuple(found["cgroup_paths"].items()), probe_cgroup())
    reader = Reader()
    resource_rules(reader, merged, "")
    reader.finish()
    change((*steps, *more))
    if found.get("cgroup_manager") == "systemd":
        _tell_systemd(found, wanted)
    return merged


def _tell_systemd(found: dict[str, Any], wanted: Resources) -> None:
    """The same as properties of the unit, or systemd undoes it when it reads its configuration again."""
    from pyruntime.cgroup.systemd import resource_properties, unit_of
    from pyruntime.cgroup.systemd_bus import set_properties

    version = 2 if all(name.startswith("name=") for name in found["cgroup_paths"] if name) else 1
    set_properties(unit_of(tuple(found["cgroup_paths"].items())), resource_properties(wanted, version=version))


def _save(entry: store.Entry, found: dict[str, Any], merged: Resources, schemas: dict[str, str]) -> None:
    linux = dict(found["config"].get("linux") or {})
    linux["resources"] = resources_document(merged)
    if schemas:
        linux["intelRdt"] = (linux.get("intelRdt") or {}) | schemas
    found["config"] = found["config"] | {"linux": linux}
    entry.write("state.json", document.dump(found).encode("utf-8", "surrogateescape"))
