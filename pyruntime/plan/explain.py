"""`pyruntime explain`: a plan as a table, both lanes in order, or as JSON. Pure.

Numbers start at 1 and count the steps of the plan; errors name steps by the same numbers. Alternatives have none of
their own: they stand below their step as `or on EPERM: ...`.
"""

from __future__ import annotations

from pyruntime.plan.describe import arg_names, describe, errno_name
from pyruntime.plan.step import Deferred
from pyruntime.spec.document import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.plan.step import HostStep, Plan, Step

    AnyStep = Step | HostStep

FORMAT_VERSION = 1
HIDDEN = "***"
MAX_DETAIL = 100  # columns; longer details are not cut, but do not widen the table either
LEAST_DETAIL = 40  # however narrow the terminal
ENV_ARGS = {"hook": 2, "find_program": 1, "home": 1, "execve": 1}


def explain_text(plan: Plan, *, show_env: bool = False, columns: int = 0) -> str:
    """The table, one line for each step and alternative, ending in a newline; warnings follow it.

    `columns` is the width that the table is to have, 0 for any; no detail is cut for it.
    """
    rows: list[tuple[str, str, str, str, str]] = [("#", "lane", "step", "detail", "from")]
    for number, step in enumerate(plan.steps, 1):
        rows.append((str(number), step.lane, step.op, describe(step, show_env=show_env), step.origin))
        rows += [("", "", "", _alternative(other, show_env=show_env), "") for other in _alternatives(step)]
    widths = [min(max(len(row[column]) for row in rows), MAX_DETAIL) for column in range(5)]
    if columns:
        room = columns - sum(widths) + widths[3] - 8  # two blanks after each column but the last
        widths[3] = min(widths[3], max(room, LEAST_DETAIL))
    lines = [
        f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    lines += [f"warning: {text}{f' ({field})' if field else ''}" for field, text in plan.warnings]
    return "\n".join(_printable(line) for line in lines) + "\n"


def _printable(line: str) -> str:
    """`line` without control characters and half surrogates: names come from the config and go to a terminal."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in line)


def _alternatives(step: AnyStep) -> tuple[Step, ...]:
    return step.alternatives if step.lane == "init" else ()  # type: ignore[union-attr]


def _alternative(step: Step, *, show_env: bool) -> str:
    again = ", then again" if step.retry else ""
    return f"or on {errno_name(step.on_errno)}: {step.op} {describe(step, show_env=show_env)}{again}"


def explain_json(plan: Plan, *, show_env: bool = False) -> str:
    """The same as JSON text. Its shape is fixed for a `version`: keys may be added, none changes or goes."""
    return dump(explain_document(plan, show_env=show_env), indent="  ") + "\n"


def explain_document(plan: Plan, *, show_env: bool = False) -> dict[str, Any]:
    """What explain_json prints."""
    return {
        "version": FORMAT_VERSION,
        "slots": plan.slots,
        "steps": [
            {"number": number, "lane": step.lane} | _step(step, show_env=show_env) | {"from": step.origin}
            for number, step in enumerate(plan.steps, 1)
        ],
        "warnings": [{"from": field, "message": text} for field, text in plan.warnings],
    }


def _step(step: AnyStep, *, show_env: bool) -> dict[str, Any]:
    values = [_value(value) for value in step.args]
    hidden = ENV_ARGS.get(step.op)
    if hidden is not None and not show_env:
        values[hidden] = [f"{entry.partition('=')[0]}={HIDDEN}" for entry in values[hidden]]
    found: dict[str, Any] = {
        "step": step.op,
        "args": dict(zip(arg_names(step), values, strict=True)),
        "detail": describe(step, show_env=show_env),
    }
    if step.lane == "init" and step.tolerate:  # type: ignore[union-attr]
        found["tolerates"] = [errno_name(number) for number in step.tolerate]  # type: ignore[union-attr]
    if others := _alternatives(step):
        found["alternatives"] = [
            {"on": errno_name(other.on_errno), "again": other.retry} | _step(other, show_env=show_env)
            for other in others
        ]
    return found


def _value(value: Any) -> Any:
    if isinstance(value, Deferred):
        return f"<{value.kind}>"
    if isinstance(value, bytes):
        return value.hex()
    return [_value(item) for item in value] if isinstance(value, tuple) else value
