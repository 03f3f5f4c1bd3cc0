"""One call of the runtime with one fault in it, and what has to hold afterwards (contract R2, R3).

A *point* is (tracee, number): the number-th system call of the tracee-th thread or process of the call (inject.py).
The points of a verb are recorded once; a sweep visits all of them, a sample a seeded choice from each tracee.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.system.leaks import Watch
from tests.system.runtime import Result, finish, reap, text_of, track

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

INJECT = Path(__file__).with_name("inject.py")
LIMIT_S = 120
LINE_LIMIT = 8192
UNWORDED = ("Traceback", "internal error", "Fatal Python", "Segmentation fault", "AddressSanitizer", "runtime error:")
# verb -> (calls that come before it, the call itself); ID and BUNDLE stand for the container's.
VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "create": ((), "create -b BUNDLE ID"),
    "run": ((), "run -b BUNDLE ID"),
    "run -d": ((), "run -d -b BUNDLE ID"),
    "start": (("create -b BUNDLE ID",), "start ID"),
    "exec": (("create -b BUNDLE ID", "start ID"), "exec ID true"),
    "exec -d": (("run -d -b BUNDLE ID",), "exec -d ID true"),
    "state": (("create -b BUNDLE ID",), "state ID"),
    "pause": (("create -b BUNDLE ID", "start ID"), "pause ID"),
    "resume": (("run -d -b BUNDLE ID", "pause ID"), "resume ID"),
    "update": (("run -d -b BUNDLE ID",), "update --pids-limit 50 ID"),
    "checkpoint": (("create -b BUNDLE ID",), "checkpoint ID"),
    "kill": (("create -b BUNDLE ID", "start ID"), "kill ID KILL"),
    "delete": (("create -b BUNDLE ID",), "delete ID"),
    "delete --force": (("create -b BUNDLE ID", "start ID"), "delete --force ID"),
}
REMOVALS = (84, 87, 263)  # rmdir, unlink, unlinkat: when one of these fails there is something left, and a line says so
WRITE = 1
LOADER_CALLS = 30  # the first calls of a program are ld.so's, which has its own words, or none
REFUSED = ("checkpoint",)  # of a container that does not run
UNDOES = ("create", "run", "run -d")  # a failure of these leaves nothing by itself
RICH: dict[str, Any] = {
    "linux.maskedPaths": ["/proc/keys", "/proc/acpi"],
    "linux.readonlyPaths": ["/proc/sys", "/proc/irq"],
    "linux.resources": {"pids": {"limit": 100}, "devices": [{"allow": False, "access": "rwm"}]},
    "linux.seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["keyctl"], "action": "SCMP_ACT_ERRNO"}],
    },
    "process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 256, "hard": 512}],
    "process.capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")},
    "process.oomScoreAdj": 500,
    "hostname": "fault",
    "hooks": {"createRuntime": [{"path": "/bin/true"}]},
}


class Point(NamedTuple):
    """Where: the number-th call of a tracee; `call` is its number in the recorded run."""

    tracee: int
    number: int
    call: int


class Struck(NamedTuple):
    """What became of a call with a fault: its result, and the number of the system call that was hit, -1 for none."""

    result: Result
    hit: int


class Fault(AssertionError):
    """What a fault left behind, or how badly it was told."""


def words(text: str, container_id: str, bundle: Bundle) -> list[str]:
    """The arguments of a call of VERBS."""
    return [{"ID": container_id, "BUNDLE": str(bundle.path)}.get(word, word) for word in text.split(" ")]


def strike(runtime: Runtime, argv: list[str], action: str, point: Point) -> tuple[Struck, list[Any]]:
    """One call under the injector. Raises Fault when it does not end."""
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.NamedTemporaryFile() as told,
    ):
        command = [sys.executable, "-I", "-S", str(INJECT), told.name, action, str(point.tracee), str(point.number)]
        call = track(
            subprocess.Popen(
                [*command, "--", *runtime.argv(*argv)], stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        )
        code = finish(call, LIMIT_S)
        texts = [text_of(file) for file in (out, err)]
        if code != 0:
            raise Fault(f"the injector failed: {texts[1]}")
        found = json.loads(Path(told.name).read_text())
    return Struck(Result(found["exit"], *texts), found["hit"]), found["calls"]


def record(runtime: Runtime, bundle: Bundle, verb: str) -> list[Point]:
    """Every point of a verb, in the order of a recorded run."""
    name = runtime.new_id()
    before, itself = VERBS[verb]
    for call in before:
        assert runtime(*words(call, name, bundle)).code == 0
    struck, calls = strike(runtime, words(itself, name, bundle), "record", Point(0, 0, 0))
    assert struck.result.code == (verb in REFUSED), struck
    assert runtime("delete", "--force", name).code == 0
    reap()
    seen: dict[int, int] = {}
    points = []
    for tracee, number in calls:
        points.append(Point(tracee, seen.get(tracee, 0), number))
        seen[tracee] = seen.get(tracee, 0) + 1
    return points


def sample(points: list[Point], seed: str, size: int) -> list[Point]:
    """A seeded choice, of every tracee in proportion; all points when there are no more than `size`."""
    if len(points) <= size:
        return points
    return sorted(random.Random(seed).sample(points, size))


def check_words(struck: Struck) -> None:
    """A failure is told in one clear line (R1): no traceback, no crash."""
    result = struck.result
    bad = next((word for word in UNWORDED if word in result.err), "")
    if bad:
        raise Fault(f"told badly ({bad}): {result.err[-2000:]}")
    if result.code in (0, 137) or (struck.hit == WRITE and not result.err):  # of the words themselves
        return
    if 128 < result.code < 255:
        raise Fault(f"ended by signal {result.code - 128}: {result.err[-2000:]}")
    lines = result.err.splitlines()
    if not lines or len(lines[0].encode()) > LINE_LIMIT:
        raise Fault(f"exit {result.code} with a first line of {len(lines[0]) if lines else 0} characters")
    records = re.findall("level=error", result.err)
    before_main = lines[0].startswith("pyruntime: ") and all(line.startswith("  ") for line in lines[1:])
    if len(records) != 1 and not before_main:
        raise Fault(f"exit {result.code} without one error line: {result.err[-2000:]}")


def settle(watch: Watch, runtime: Runtime, grace_s: float = 30) -> list[str]:
    """What is still left when the grace is over; a dead process and its cgroup take a moment to go."""
    end = time.monotonic() + grace_s
    while left := watch.left(runtime):
        if time.monotonic() > end:
            return left
        time.sleep(0.005)
    return []


def has_run(runtime: Runtime, name: str) -> bool:
    """Whether the program was started: what fails after its end is the removal, which delete can be asked for again."""
    there = runtime.root / name
    return (there / "state.json").exists() and not (there / "exec.fifo").exists()


def visit(runtime: Runtime, bundle: Bundle, verb: str, action: str, point: Point) -> Struck:
    """One fault at one point; afterwards nothing is left, of a failed create even before `delete --force`.

    Raises Fault.
    """
    watch = Watch()
    name = runtime.new_id()
    before, itself = VERBS[verb]
    for call in before:
        result = runtime(*words(call, name, bundle))
        if result.code != 0:
            raise Fault(f"{call}: {result}")
    struck, _ = strike(runtime, words(itself, name, bundle), action, point)
    reap()
    if action == "fail":
        if point.tracee or point.number >= LOADER_CALLS:
            check_words(struck)
        undone = verb in UNDOES and struck.result.code != 0 and struck.hit not in REMOVALS
        if undone and not has_run(runtime, name) and (left := settle(watch, runtime)):
            raise Fault("left by a failed call:\n" + "\n".join(left) + f"\n{struck.result.err[-1500:]}")
    deleted = runtime("delete", "--force", name)
    if deleted.code != 0:
        raise Fault(f"delete --force: {deleted}")
    if left := settle(watch, runtime):
        raise Fault("left after delete --force:\n" + "\n".join(left))
    return struck


def faults(runtime: Runtime, bundle: Bundle, verb: str, action: str, points: list[Point]) -> Iterator[str]:
    """One text for each point that does not hold."""
    for point in points:
        try:
            visit(runtime, bundle, verb, action, point)
        except (AssertionError, OSError) as failure:
            yield f"{verb}, {action} at {tuple(point)}: {failure}"
            for name in runtime.ids():  # what one point leaves is not counted against the next
                runtime("delete", "--force", name)
                shutil.rmtree(runtime.root / name, ignore_errors=True)
