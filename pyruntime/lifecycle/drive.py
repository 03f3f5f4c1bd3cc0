"""Carries out a plan: the host steps in order, container-init beside them, meeting at the barriers.

A Drive owns every descriptor it opens, the socket and both processes until it is closed. It undoes nothing of the
world itself: `create` and `exec_` know what they made (store, cgroups) and clean up when `run` raises.
"""

from __future__ import annotations

from _struct import unpack
from posix import close, pidfd_open

from pyruntime.cgroup.manager import open_places
from pyruntime.errors import HostError, InitError, RuntimeFailure
from pyruntime.lifecycle import process
from pyruntime.native import wait
from pyruntime.native.init import Link, Message, program_fd
from pyruntime.plan import encode
from pyruntime.plan.opcodes import BARRIERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pyruntime.lifecycle.store import Entry
    from pyruntime.plan.step import Plan
    from pyruntime.spec.config import Spec


GRACE_MS = 2000  # for stage 0 to end itself and its hook; at a barrier it takes none of it


class Job:
    """What the host steps of one plan work on; a plain bag, filled by create and exec."""

    def __init__(self, *, spec: Spec, plan: Plan, name: str, stdio: tuple[int, int, int]) -> None:
        self.spec, self.plan, self.name, self.stdio = spec, plan, name, stdio
        self.entry: Entry | None = None
        self.blobs: Mapping[str, bytes] = {}
        self.init_pidfd = -1  # of the container's init, for exec; borrowed
        self.init_pid = 0
        self.console_fd = -1  # connected stream socket that gets the pty's master; owned by the drive
        self.fifo_owner = (0, 0)  # host ids of the container's root
        self.rootfs = ""  # of a container in a user namespace, to find out what is closed to its root
        self.slots: dict[int, int] = {}  # given ones are borrowed
        self.on_pid: Callable[[int, int], None] = lambda pid, started: None
        self.on_ready: Callable[[], None] = lambda: None
        self.at_ready: Callable[[], None] | None = None  # right before `ready` is released
        self.listener_state: Callable[[int], dict[str, Any]] = lambda pid: {}
        self.on_hooks: Callable[[str], None] = lambda kind: None
        self.warn: Callable[[str], None] = lambda text: None


class Drive:
    """One run of one plan. Use as a context manager; `run` leaves a child released from `ready`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.owned: list[int] = []
        self.slots = dict(job.slots)
        self.link = Link()
        self.pid = self.start_time = 0
        self.pidfd = self.stage0_pid = self.stage0_pidfd = -1
        self.alternatives: list[int] = []
        self.born_in: set[str] = set()  # cgroups that stage 0 was started in

    def __enter__(self) -> Drive:
        return self

    @property
    def init_pid(self) -> int:
        """The init of the container that an exec enters, else 0."""
        return self.job.init_pid

    def __exit__(self, *_: object) -> None:
        self.close_slots()
        self.link.close()
        for fd in (self.stage0_pidfd, self.pidfd):
            if fd >= 0:
                close(fd)
        self.stage0_pidfd = self.pidfd = -1

    def own(self, fd: int) -> int:
        """Take over a descriptor until the program has its copies; returns it."""
        self.owned.append(fd)
        return fd

    def close_slots(self) -> None:
        """Close what was opened for the slots: the program has its copies."""
        while self.owned:
            close(self.owned.pop())

    def run(self) -> None:
        """Every host step. On any failure init is dead and reaped when this raises."""
        from pyruntime.lifecycle import host_steps

        wait.guard()
        step: Any = None
        try:
            for step in self.job.plan.steps:
                if step.lane == "host":
                    host_steps.STEPS[step.op](self, *step.args)
                elif step.op == "barrier":
                    self.arrive(step.args[0])
        except OSError as error:
            failure = self._reported() or host_steps.failure(step, error)
            self.kill()
            raise failure from error
        except RuntimeFailure as failure:
            self.kill()
            if step is not None and not failure.field:
                failure.field = step.origin
            raise
        except BaseException:
            self.kill()
            raise

    def spawn(self) -> None:
        """Start stage 0 and give it plan and descriptors."""
        plan = encode.encode(self.job.plan, blobs=self.job.blobs)
        self.link.send_plan(plan, list(self.slots.items()))
        self.close_slots()
        program = program_fd()
        unified, places = open_places(self._joins())
        try:
            tasks = [fd for fd in places if fd != unified]
            self.stage0_pid, self.stage0_pidfd, left = self.link.start(
                program, self.job.stdio, self.job.name, cgroup=unified, tasks=tasks
            )
            self.born_in = {path for fd, path in places.items() if fd not in left}
        finally:
            for fd in (program, *places):
                close(fd)

    def _joins(self) -> list[str]:
        """The cgroups that the plan has stage 0 join right after its start."""
        found: list[str] = []
        spawned = False
        for step in self.job.plan.steps:
            if step.lane != "host":
                continue
            if spawned and step.op != "cg_join":
                break
            if spawned:
                found.append(str(step.args[0]))
            spawned = spawned or step.op == "spawn"
        return found

    def wait_pid(self) -> None:
        """Read on until stage 0 has told init's pid; reaps stage 0."""
        self._wait("PID")
        process.reap(self.stage0_pidfd)
        close(self.stage0_pidfd)
        self.stage0_pidfd = -1
        self.job.on_pid(self.pid, self.start_time)

    def arrive(self, number: int) -> None:
        """Wait until init is at the barrier: the host steps that follow it in the plan come after it in time too."""
        self._wait("BARRIER", number)

    def arrive_listener(self) -> int:
        """Wait until init has loaded a filter with a listener; its number of that descriptor."""
        return self._wait("LISTENER").value

    def release(self, name: str) -> None:
        """Let init go on from the barrier it is at."""
        if name == "ready" and self.job.at_ready is not None:
            self.job.at_ready()
        self.link.release(BARRIERS[name])

    def _wait(self, kind: str, value: int = 0) -> Message:
        """The next message of that kind, handling what comes before it. Raises what init reports."""
        while True:
            message = self.link.receive()
            self._take(message)
            if message.type == kind and (kind != "BARRIER" or message.value == value):
                return message
            if message.type in ("BARRIER", "PID", "LISTENER"):
                raise HostError(f"container-init is at {message.type} {message.value}, expected {kind} {value}")

    def _take(self, message: Message) -> None:
        """Handle one message whatever was expected."""
        if message.type == "PID":
            self.pid = message.value
            self.pidfd = pidfd_open(self.pid, 0)
            self.start_time = process.start_time(self.pid)
        elif message.type == "WARN":
            from pyruntime.plan import messages

            self.job.warn(messages.init_warning(self.job.plan, message.step, message.errno, message.value))
        elif message.type == "ALT":
            self.alternatives += unpack(f"<{len(message.payload) // 4}I", message.payload)
        elif message.type == "ERROR":
            raise self.failure(message)
        elif message.type == "EOF":
            raise HostError("container init exited before it was ready",
                            hint="it was killed from outside, by its seccomp filter or for its memory limit")

    def failure(self, message: Message) -> RuntimeFailure:
        """What init reported, in the peers' words."""
        from pyruntime.plan import messages

        detail = message.payload.decode("utf-8", "replace")
        failure = messages.init_error(self.job.plan, self.job.spec, message.step, message.errno, detail, message.value)
        if self.job.rootfs and message.errno in (1, 13) and isinstance(failure, InitError):  # EPERM, EACCES
            from pyruntime.lifecycle import rootless

            rootless.explain(failure, self.job.plan, self.job.spec, self.job.rootfs)
        return failure

    def _reported(self) -> RuntimeFailure | None:
        """An error that init sent before we noticed that it is gone."""
        if self.stage0_pid < 0:
            return None
        try:
            while True:
                message = self.link.receive(timeout_ms=0)
                if message.type == "ERROR":
                    return self.failure(message)
                if message.type == "EOF":
                    return None
                self._take(message)
        except (OSError, ValueError):
            return None

    def finish(self, pidfd: int, name: str) -> None:
        """After `run`, for a plan that ends without a program: read to the end and reap its process `pidfd`.

        Raises what a step reports. A signal to us ends the process, and with it what it runs.
        """
        failure: RuntimeFailure | None = None
        try:
            while (message := self.link.receive()).type != "EOF":
                if message.type == "ERROR":
                    failure = self.failure(message)
            code = process.reap(pidfd)
        except BaseException:
            self.kill()
            raise
        if failure is not None:
            raise failure
        if code:
            raise HostError(f"{name} ended with {code}", hint="something outside killed it")

    def kill(self) -> None:
        """End both processes; both are our children, so both are reaped.

        Stage 0 sees that we are gone and has a moment to end a hook that it runs, which would be left behind by
        SIGKILL. It may have cloned init without our having read so: its last words are read after its end.
        """
        self.link.hang_up()
        if self.stage0_pidfd >= 0:
            if not process.is_dead(self.stage0_pidfd, GRACE_MS):
                process.send_signal(self.stage0_pidfd, process.SIGKILL)
            _reap(self.stage0_pidfd)
            close(self.stage0_pidfd)
            self.stage0_pidfd = -1
            self._reported()
        self.link.close()
        if self.pidfd >= 0:
            process.send_signal(self.pidfd, process.SIGKILL)
            _reap(self.pidfd)
            close(self.pidfd)
            self.pidfd = -1


def _reap(pidfd: int) -> None:
    try:
        process.reap(pidfd)
    except ChildProcessError:
        return
