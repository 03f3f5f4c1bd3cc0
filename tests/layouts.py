"""On which cgroup layout a test runs: put into pytest's report, from which tools/layouts makes conformance/layouts.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

V1, CGROUPFS, SYSTEMD, ROOTLESS = LAYOUTS = ("v1 hybrid", "v2 cgroupfs", "v2 systemd", "rootless")
V1_SYSTEMD = "v1 systemd"


def layout_of(funcargs: dict[str, Any]) -> str:
    """By the command line of the runtime that the test was given, cgroupfs in a stand of callers; "" without either."""
    runtime = next((funcargs[name] for name in ("systemd", "driver", "runtime") if name in funcargs), None)
    if runtime is None and "make_stand" not in funcargs:
        return ""
    words = runtime.argv() if runtime is not None else ()
    if "setpriv" in words or any(word.endswith("/setpriv") for word in words):
        return ROOTLESS
    v1 = Path("/sys/fs/cgroup/pids/cgroup.procs").exists()
    if "--systemd-cgroup" in words or "systemd" in words:
        return V1_SYSTEMD if v1 else SYSTEMD
    return V1 if v1 else CGROUPFS


def note(item: Any) -> None:
    """Write it into the report of this test."""
    layout = layout_of(item.funcargs)
    if layout and not any(name == "layout" for name, _ in item.user_properties):
        item.user_properties.append(("layout", layout))
