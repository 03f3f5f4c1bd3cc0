"""Measures create+start+delete with the systemd driver on cgroup v2, beside runc and crun, in the virtual machine.

`make bench-vm` boots the machine of tools/test-vm and runs this there. Under software emulation a time is twenty to fifty
times the machine's own, so the ratios alone are the result. Where it starts nothing is measured before systemd is idle.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from benchmarks import report  # noqa: E402 - the path above is needed first
from benchmarks.bench import measure_one  # noqa: E402
from benchmarks.bundles import PROFILES, Bundles  # noqa: E402
from benchmarks.measures import Cycle, Runtime  # noqa: E402
from benchmarks.session import Session  # noqa: E402

IDLE_S = 120


class Units(Bundles):
    """Bundles whose cgroup is a scope of system.slice."""

    def get(self, profile: str, name: str, args: tuple[str, ...]) -> str:
        """The path of the bundle `name`; its unit bears the same name."""
        path = Path(super().get(profile, name, args)) / "config.json"
        config = json.loads(path.read_text())
        config["linux"]["cgroupsPath"] = f"system.slice:{self.cgroup}:{profile}-{name}"
        path.write_text(json.dumps(config))
        return os.fspath(path.parent)


def with_driver(name: str, path: str, folder: Path) -> Runtime:
    """The runtime, called with --systemd-cgroup."""
    runtime = Runtime(name, path, folder)
    runtime.base.append("--systemd-cgroup")
    return runtime


def wait_until_idle() -> None:
    """The machine has just booted: wait for systemd's own jobs, and for the pyruntime program to have its snapshot."""
    end = time.monotonic() + IDLE_S
    while time.monotonic() < end:
        jobs = subprocess.run(["systemctl", "list-jobs", "--no-legend"], capture_output=True, text=True, check=False).stdout
        if len(jobs.splitlines()) <= 1:  # the job that we are
            return
        time.sleep(1)


def main() -> int:
    """0, or 1 when the aim is missed or pyruntime failed."""
    parser = argparse.ArgumentParser(description="measure the systemd driver")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--profile", choices=PROFILES, action="append", help="only this bundle; may be repeated")
    args = parser.parse_args()
    wait_until_idle()
    aims_met = True
    with Session() as session:
        ours = shutil.which("pyruntime", path=f"{TOP}/.venv/bin:{TOP}/build") or "pyruntime"
        found = [with_driver("pyruntime", ours, session.folder / "pyruntime")]
        found += [with_driver(name, path, session.folder / name) for name in ("runc", "crun") if (path := shutil.which(name))]
        bundles, rng = Units(session.folder / "bundles", session.name), random.Random(1)
        for profile in args.profile or PROFILES:
            samples, failures = measure_one(Cycle(bundles, profile), found, args.rounds, rng)
            rows = {name: report.summary(each, "ms") for name, each in samples.items()}
            ratios = report.ratios(rows, "create+start+delete, systemd", {name: name for name in rows})
            print(f"{profile} bundle, {args.rounds} rounds, Linux {os.uname().release}")
            print("\n".join(report.table("create+start+delete, systemd", "ms", rows, ratios, failures)), flush=True)
            print("\n".join(f"    {name}: {row['details']}" for name, row in rows.items() if row), flush=True)
            aims_met &= "pyruntime" not in failures and all(ratio["met"] is not False for ratio in ratios)
    return int(not aims_met)


if __name__ == "__main__":
    sys.exit(main())
