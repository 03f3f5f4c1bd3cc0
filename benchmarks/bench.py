"""Measures pyruntime beside other OCI runtimes, in turn on one machine: `python benchmarks/bench.py --help`.

Every round runs each runtime once, in an order that is shuffled anew, so that drift of the machine meets all alike.
The first rounds are not counted. Figures of different sessions are not to be compared; the ratios are the result.
Needs root. Missing peers of Debian are installed. Everything made is removed at the end, also after a failure.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from benchmarks import report  # noqa: E402 - the path above is needed first
from benchmarks.bundles import PROFILES, Bundles  # noqa: E402
from benchmarks.measures import MEASURES, AtOnce, Library, Measure, MeasureFailed, Memory, Run, Runtime  # noqa: E402
from benchmarks.session import Session  # noqa: E402

DEBIAN = {"runc": "runc", "crun": "crun", "busybox": "busybox-static"}
WARM_UP = 3
FEWER = {AtOnce: 10, Memory: 5}  # one round in so many, since one takes long


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="measure pyruntime beside runc and crun")
    parser.add_argument("--pyruntime", metavar="PATH", default=str(TOP / ".venv" / "bin" / "pyruntime"))
    parser.add_argument("--peer", metavar="PATH", action="append", default=[], help="one more runtime; may be repeated")
    parser.add_argument("--rounds", type=int, default=50, help="counted rounds of each measure (default 50)")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="only this bundle; may be repeated")
    parser.add_argument("--measure", choices=[m.name for m in MEASURES], action="append", help="only this measure")
    parser.add_argument("--no-library", action="store_true", help="leave out the library in a warm process")
    parser.add_argument("--output", metavar="FILE", default=str(TOP / ".cache" / "bench.json"), help="figures as JSON")
    parser.add_argument("--seed", type=int, default=1, help="of the order of runtimes")
    args = parser.parse_args(words)
    if args.rounds < 1:
        parser.error("--rounds is at least 1")
    return args


def install_missing() -> None:
    """Debian's packages for the programs that are not here; without apt or root it says what is missing."""
    missing = [package for program, package in DEBIAN.items() if shutil.which(program) is None]
    if not missing:
        return
    print(f"installing {' '.join(missing)}", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(["apt-get", "-qq", *words], env=env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, check=False) if shutil.which("apt-get") else None  # fmt: skip
        if done is None or done.returncode:
            print(f"apt-get {words[0]} failed; going on with what is here")


def find_runtimes(args: argparse.Namespace, folder: Path) -> list[Runtime]:
    """Ours first, then Debian's runc and crun where they are, then the peers that were named."""
    found = [Runtime("pyruntime", args.pyruntime, folder / "pyruntime")]
    if not args.no_library and Path(args.pyruntime).exists():
        found.append(Library(folder / "library"))
    names = {runtime.name for runtime in found}
    for path in [shutil.which("runc"), shutil.which("crun"), *args.peer]:
        if path is None:
            continue
        name = base = Path(path).name
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.add(name)
        found.append(Runtime(name, os.path.realpath(path), folder / name))
    return found


def measure_one(
    measure: Measure, runtimes: list[Runtime], rounds: int, rng: random.Random
) -> tuple[dict[str, list[dict[str, float]]], dict[str, str]]:
    """Samples by runtime, and why a runtime has none or too few. A runtime that fails is left out from there on."""
    samples: dict[str, list[dict[str, float]]] = {runtime.name: [] for runtime in runtimes}
    failures: dict[str, str] = {}

    def attempt(runtime: Runtime, *, counted: bool) -> None:
        try:
            sample = measure.once(runtime)
        except MeasureFailed as failure:
            failures[runtime.name] = str(failure)
            return
        if counted:
            samples[runtime.name].append(sample)

    try:
        for runtime in runtimes:
            try:
                measure.prepare(runtime)
            except MeasureFailed as failure:
                failures[runtime.name] = str(failure)
        for number in range(rounds + min(WARM_UP, rounds)):
            order = [runtime for runtime in runtimes if runtime.name not in failures]
            rng.shuffle(order)
            for runtime in order:
                attempt(runtime, counted=number >= min(WARM_UP, rounds))
    finally:
        for runtime in runtimes:
            measure.finish(runtime)
    return samples, failures


def host_facts() -> dict[str, Any]:
    """What the figures depend on."""
    models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]  # fmt: skip
    return {"kernel": platform.release(), "machine": platform.machine(), "cpus": os.cpu_count(),
            "cpu": models[0] if models else "unknown", "load_before": os.getloadavg()}  # fmt: skip


def measure_all(args: argparse.Namespace, session: Session, runtimes: list[Runtime]) -> dict[str, Any]:
    """All profiles and measures; prints each as it is done."""
    bundles = Bundles(session.folder / "bundles", session.name)
    kinds = {runtime.name: runtime.version().split()[0] for runtime in runtimes}
    rng = random.Random(args.seed)
    result: dict[str, Any] = {}
    for profile in args.profile or PROFILES:
        print(f"\n{profile} bundle", flush=True)
        result[profile] = {}
        for kind in MEASURES:
            if args.measure and kind.name not in args.measure:
                continue
            able = [runtime for runtime in runtimes if kind is Run or not isinstance(runtime, Library)]
            rounds = max(1, args.rounds // FEWER.get(kind, 1))
            samples, failures = measure_one(kind(bundles, profile), able, rounds, rng)
            rows = {name: report.summary(found, kind.unit) for name, found in samples.items()}
            found = report.ratios(rows, kind.name, kinds)
            print("\n".join(report.table(kind.name, kind.unit, rows, found, failures)), flush=True)
            result[profile][kind.name] = {"runtimes": rows, "ratios": found, "failures": failures, "samples": samples}
    return result


def main(words: list[str] | None = None) -> int:
    """0, or 1 when pyruntime itself failed at something."""
    args = parse_args(words)
    if os.geteuid() != 0:
        print("bench needs root: runc and crun do, for the same containers", file=sys.stderr)
        return 1
    install_missing()
    compileall.compile_dir(TOP / "pyruntime", quiet=2)  # as pip does; the program itself writes no .pyc
    facts = host_facts()
    with Session() as session:
        moved = session.move_controllers_to_v1()
        runtimes = find_runtimes(args, session.folder)
        try:
            versions = {runtime.name: runtime.version() for runtime in runtimes}
            load = " ".join(f"{value:.2f}" for value in facts["load_before"])
            print(f"Linux {facts['kernel']}, {facts['cpus']} x {facts['cpu']}, load {load}, {args.rounds} rounds")
            print("\n".join([*(f"  {name:<12} {text}" for name, text in versions.items()), moved]).rstrip())
            result = measure_all(args, session, runtimes)
        finally:
            for runtime in runtimes:
                if isinstance(runtime, Library):
                    runtime.close()
    facts["load_after"] = os.getloadavg()
    print(f"\nload at the end {' '.join(f'{value:.2f}' for value in facts['load_after'])}; figures in {args.output}")
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": 1, "host": facts, "versions": versions, "rounds": args.rounds, "profiles": result})
    Path(args.output).write_text(text)
    return int(any("pyruntime" in measure["failures"] for found in result.values() for measure in found.values()))


if __name__ == "__main__":
    sys.exit(main())
