"""containerd in a stand: its configuration, a client by `ctr`, and the names it gives to states."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from typing import TYPE_CHECKING, Any

from conformance.callers.archive import IMAGE
from conformance.callers.stand import Ended, Stand, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET = "/run/containerd/containerd.sock"
SHIM_ROOT = "/run/containerd/runc"  # where the shim keeps pyruntime's state: one folder for each namespace
TASKS = "/run/containerd/io.containerd.runtime.v2.task"
CONFIG = """
version = 2
root = "/run/varlib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
"""


class Containerd:
    """A containerd with the image loaded. `ctr` works in a namespace of its own, which names the cgroups too."""

    def __init__(self, stand: Stand, program: str, more: str = "") -> None:
        self.stand, self.program = stand, program
        self.namespace = stand.token
        self.made = 0
        stand.write("/etc/containerd/config.toml", CONFIG + more)
        self.daemon = stand.daemon("containerd", "-c", "/etc/containerd/config.toml", "-l", "info")
        self.wait_ready()
        stand.keep_mounts()

    def wait_ready(self) -> None:
        """Until it answers."""
        self.daemon.wait_ready(lambda: self.stand.run("ctr", "version").code == 0, "containerd answers")

    def ctr(self, *args: Any, namespace: str = "", **more: Any) -> Ended:
        """One finished call of ctr."""
        return self.stand.run("ctr", "-n", namespace or self.namespace, *args, **more)

    def ok(self, *args: Any, **more: Any) -> str:
        """stdout, without the last line end, of a call that has to succeed."""
        ended = self.ctr(*args, **more)
        assert ended.code == 0, (args, ended, self.daemon.tail())
        return ended.out.removesuffix("\n")

    def new_id(self) -> str:
        """An id that no other test uses."""
        self.made += 1
        return f"c{self.made}"

    def run_args(self, name: str, *command: str, flags: tuple[str, ...] = ()) -> list[str]:
        """The arguments of `ctr run` with our program."""
        return ["run", "--runc-binary", self.program, *flags, IMAGE, name, *command]

    def run(self, *command: str, flags: tuple[str, ...] = (), **more: Any) -> Ended:
        """A container in the foreground, removed at its end."""
        return self.ctr(*self.run_args(self.new_id(), *command, flags=("--rm", *flags)), **more)

    @contextlib.contextmanager
    def container(self, *command: str, flags: tuple[str, ...] = ()) -> Iterator[str]:
        """A detached container's id; gone at the end."""
        name = self.new_id()
        try:
            self.ok(*self.run_args(name, *command, flags=("-d", *flags)))
            yield name
        finally:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Task and container, whatever their state."""
        self.ctr("task", "rm", "--force", name)
        wait_for(lambda: name not in self.tasks(), f"task {name} is gone")
        self.ctr("container", "rm", name)

    def tasks(self) -> dict[str, tuple[int, str]]:
        """(pid, status) by id."""
        rows = (line.split() for line in self.ok("task", "ls").splitlines()[1:])
        return {row[0]: (int(row[1]), row[2]) for row in rows}

    def status(self, name: str) -> str:
        """RUNNING, PAUSED, STOPPED, CREATED, or "" without a task."""
        return self.tasks().get(name, (0, ""))[1]

    def wait_status(self, name: str, status: str) -> None:
        """Until the task has it."""
        wait_for(lambda: self.status(name) == status, lambda: f"{name} is {status}: {self.tasks()} {self.daemon.tail()}")

    @contextlib.contextmanager
    def events(self) -> Iterator[Events]:
        """Events of all namespaces from now on."""
        with self.stand.spawn("ctr", "-n", self.namespace, "events", stdout=subprocess.PIPE) as call:
            events = Events(call)
            # They come only from the moment on that the subscription stands, so something is made to happen.
            wait_for(lambda: self.ok("namespaces", "label", self.namespace, f"look={len(events.text)}") or events.heard("/namespaces/update"),
                     "the subscription stands")  # fmt: skip
            yield events

    def exec(self, name: str, *command: str, flags: tuple[str, ...] = ()) -> Ended:
        """A second process in a container."""
        self.made += 1
        return self.ctr("task", "exec", "--exec-id", f"e{self.made}", *flags, name, *command)

    def wait_file(self, name: str, path: str) -> None:
        """Until a file is there in the container: its program has come so far."""
        wait_for(lambda: self.exec(name, "test", "-e", path).code == 0, lambda: f"{path} in {name}: {self.tasks()}")

    def forget_shims(self) -> None:
        """Removes sockets and FIFOs that a shim and a client which were killed would have removed."""
        for folder in ("/run/containerd/s", "/run/containerd/fifo"):
            for name in _names(self.stand, folder):
                self.stand.ok("rm", "-rf", f"{folder}/{name}")

    def check(self) -> None:
        """Fails with what should not be there when no container is."""
        folders = [f"{top}/{name}" for top in (SHIM_ROOT, TASKS) for name in _names(self.stand, top)]
        self.stand.check((*folders, "/run/containerd/s", "/run/containerd/fifo"))


class Events:
    """What `ctr events` has printed."""

    def __init__(self, call: subprocess.Popen[bytes]) -> None:
        self.call, self.text = call, ""

    def heard(self, topic: str) -> bool:
        """Whether an event of that topic has come."""
        assert self.call.stdout is not None
        while select.select([self.call.stdout], [], [], 0)[0] and (more := os.read(self.call.stdout.fileno(), 65536)):
            self.text += more.decode(errors="replace")
        return f" {topic} " in self.text

    def wait(self, topic: str) -> None:
        """Until it has."""
        wait_for(lambda: self.heard(topic), lambda: f"event {topic} in:\n{self.text}")


def _names(stand: Stand, folder: str) -> list[str]:
    path = stand.path(folder)
    return os.listdir(path) if path.exists() else []
