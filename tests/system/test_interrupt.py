"""A signal that ends a call, at any instant of it: the call has done all of its work, or none (R2)."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.runtime import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

SLEEP = "sleep 600"
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def test_terminated_create_leaves_nothing(runtime: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(SLEEP)
    chance = random.Random(7)
    for number in range(12):
        name = runtime.new_id()
        call = runtime.popen("create", "-b", bundle.path, name, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.002, 0.06))
        call.send_signal((15, 2)[number % 2])
        code = finish(call)
        assert (name in runtime.ids()) == (code == 0), (number, code)
        assert runtime("delete", "--force", name).code == 0


class Instants:
    """The system calls of one verb, each an instant at which strace can make a signal arrive."""

    def __init__(self, runtime: Runtime, bundle: Bundle, verb: list[str], folder: Path) -> None:
        self.runtime, self.bundle, self.verb, self.trace = runtime, bundle, verb, folder / "trace"

    def call(self, *options: str, restore: tuple[int, ...] = ()) -> tuple[str, int]:
        """(id, exit code) of the verb under strace with these options; a death by signal n is 128 + n.

        `restore`: signals that it does not ignore, whatever this process does.
        """
        name = self.runtime.new_id()
        argv = self.runtime.argv(*self.verb, "-b", self.bundle.path, name)
        argv = ["strace", "-qq", "-o", str(self.trace), *options, *map(str, argv)]
        call = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in restore])  # fmt: skip
        return name, finish(call)

    def all(self) -> list[tuple[str, int]]:
        """(system call, how manieth of its kind) of an undisturbed call."""
        name, code = self.call()
        assert code == 0
        assert self.runtime("delete", "--force", name).code == 0
        seen: dict[str, int] = {}
        found = []
        for call in re.findall(r"^(\w+)\(", self.trace.read_text(), re.MULTILINE):
            seen[call] = seen.get(call, 0) + 1
            found.append((call, seen[call]))
        return found

    def interrupted(self, instants: list[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
        """(id, exit code, instant) of calls that get SIGTERM at each of the instants."""
        for call, number in instants:
            name, code = self.call("-e", f"inject={call}:signal=TERM:when={number}")
            yield name, code, f"{call} {number}"


def check(instants: Instants, chosen: list[tuple[str, int]]) -> None:
    runtime = instants.runtime
    codes = set()
    for name, code, instant in instants.interrupted(chosen):
        codes.add(code)
        assert code in (0, 143), instant
        assert (name in runtime.ids()) == (code == 0), (instant, code)
        assert runtime("delete", "--force", name).code == 0, instant
    assert 143 in codes


@needs_strace
def test_the_snapshot_of_a_call_that_ignored_the_signal(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """What a shell's background job ignores is no business of later calls: they undo what they made."""
    for path in Path("/run/pyruntime-cache").glob("start-*.snapshot"):
        path.unlink(missing_ok=True)
    subprocess.run(["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *runtime.argv("state", "absent")],
                   check=False, stderr=subprocess.DEVNULL)  # fmt: skip
    instants = Instants(runtime, make_bundle(SLEEP), ["create"], tmp_path)
    codes = []
    for number in range(2, sum(call == "mkdir" for call, _ in instants.all())):  # the first time one more is made
        name, code = instants.call("-e", f"inject=mkdir:signal=INT:when={number}", restore=(signal.SIGINT,))
        assert (name in runtime.ids()) == (code == 0), (number, code)
        assert runtime("delete", "--force", name).code == 0
        codes.append(code)
    assert 130 in codes


@needs_strace
@pytest.mark.parametrize("verb", [["create"], ["run", "-d"]], ids=lambda verb: verb[0])
def test_sigterm_at_sampled_system_calls(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path,
                                         verb: list[str]) -> None:  # fmt: skip
    instants = Instants(runtime, make_bundle(SLEEP), verb, tmp_path)
    check(instants, random.Random(11).sample(instants.all(), 25))


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("verb", [["create"], ["run", "-d"]], ids=lambda verb: verb[0])
def test_sigterm_at_every_system_call(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path,
                                      verb: list[str]) -> None:  # fmt: skip
    instants = Instants(runtime, make_bundle(SLEEP), verb, tmp_path)
    check(instants, instants.all())
