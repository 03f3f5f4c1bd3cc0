"""What `explain` and `validate` say of a bundle. Both only read; neither needs the container's rights to be there."""

from __future__ import annotations

from pyruntime.errors import HostError, RuntimeFailure, SpecError, Violation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings
    from pyruntime.plan.step import Plan
    from pyruntime.spec.validate import Report

EXAMPLE_ID = "ID"  # stands where a container's id will
FORMAT_VERSION = 1  # of validate --json


def bundle_plan(settings: Settings, bundle: str, config: str) -> Plan:
    """What `create` would do with the bundle on this host. Raises SpecError and HostError as create would."""
    from pyruntime.lifecycle.prepare import prepare
    from pyruntime.plan.step import Options

    options = Options(id=EXAMPLE_ID, console=True, keyring_token="0" * 32, cgroup_manager=settings.cgroup_manager)
    return prepare(settings, bundle, options, config=config).plan


def check_bundle(settings: Settings, bundle: str, config: str) -> Report:
    """Every violation of schema and specification; when there is none, what this host cannot do as warnings."""
    from pyruntime.lifecycle.prepare import read_config
    from pyruntime.spec.validate import validate_document

    report = validate_document(read_config(bundle, config), name=config)
    return report.replace(warnings=report.warnings + host_warnings(settings, bundle, config)) if report.ok else report


def host_warnings(settings: Settings, bundle: str, config: str) -> tuple[Violation, ...]:
    """What would keep a good config from running here, or would be left out."""
    try:
        made = bundle_plan(settings, bundle, config)
    except (HostError, SpecError) as failure:
        return (Violation(failure.field, f"on this host: {failure}", failure.value, failure.hint),)
    return tuple(Violation(field, f"on this host: {text}") for field, text in made.warnings)


def report_text(report: Report) -> str:
    """One line for each entry, pointer first, its value and hint below it; a count at the end."""
    lines = []
    for kind, entries in (("error", report.errors), ("warning", report.warnings)):
        for entry in entries:
            told = RuntimeFailure(entry.message, value=entry.value, hint=entry.hint)
            lines += [f"{kind}: {entry.field or '/'}: {entry.message}", *told.details()]
    verdict = "valid" if report.ok else "not valid"
    counts = ", ".join([_count(len(report.errors), "error"), _count(len(report.warnings), "warning")])
    return "\n".join([*lines, f"{verdict}: {counts}"]) + "\n"


def _count(number: int, word: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def report_json(report: Report) -> str:
    """The same for programs."""
    from pyruntime.spec.document import dump

    document = {"version": FORMAT_VERSION, "valid": report.ok,
                "errors": [_entry(entry) for entry in report.errors],
                "warnings": [_entry(entry) for entry in report.warnings]}  # fmt: skip
    return dump(document, indent="  ") + "\n"


def _entry(entry: Violation) -> dict[str, Any]:
    return {"field": entry.field, "message": entry.message, "value": entry.value, "hint": entry.hint}
