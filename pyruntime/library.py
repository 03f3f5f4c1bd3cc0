"""The typed interface to the runtime, for programs: the same verbs as the command line, as objects.

Safe to call from many threads at once (DESIGN, runtime 3): nothing of the calling process is changed, no signal
handler, working directory, environment or limit, and only children made here are waited for, by pidfd. What a container
or an exec'd process prints goes to the descriptors given as `stdio`. Every failure is a RuntimeFailure with `message`,
`field` (a JSON pointer into config.json), `value` and `hint`.
"""

from __future__ import annotations

import os
import select
from threading import Lock

from pyruntime.errors import StateError
from pyruntime.lifecycle import create as _create
from pyruntime.lifecycle import delete as _delete
from pyruntime.lifecycle import events as _events
from pyruntime.lifecycle import exec_ as _exec
from pyruntime.lifecycle import kill as _kill
from pyruntime.lifecycle import pause as _pause
from pyruntime.lifecycle import process as _process
from pyruntime.lifecycle import ps as _ps
from pyruntime.lifecycle import run as _run
from pyruntime.lifecycle import start as _start
from pyruntime.lifecycle import state as _state
from pyruntime.lifecycle import update as _update
from pyruntime.lifecycle.prepare import bundle_path, prepare, read_config
from pyruntime.lifecycle.settings import Settings, ignore
from pyruntime.plan.step import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Self

    from pyruntime.plan.step import Plan
    from pyruntime.spec.validate import Report

Stdio = tuple[int, int, int]


class Process:
    """A child of this program: a container's init or an exec'd process. Close it, or use it as a context manager."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._code: int | None = None
        self._lock = Lock()

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit code, 128 + n for signal n. Raises TimeoutError, and StateError when it is not our child."""
        with self._lock:
            if self._code is not None:
                return self._code
            if self._pidfd < 0:
                raise StateError("the process was started by another program", hint="only its parent can wait for it")
            if timeout_s is not None:
                watch = select.poll()
                watch.register(self._pidfd, select.POLLIN)
                if not watch.poll(timeout_s * 1000):
                    raise TimeoutError(f"process {self.pid} is still running after {timeout_s} s")
            self._code = _process.reap(self._pidfd)
            return self._code

    def signal(self, number: int) -> bool:
        """Send a signal; False when the process is gone."""
        return self._pidfd >= 0 and self._code is None and _process.send_signal(self._pidfd, number)

    def fileno(self) -> int:
        """The pidfd, readable when the process has ended; -1 when it is not our child."""
        return self._pidfd

    def close(self) -> None:
        """Close the pidfd. A process that still runs goes on, unreaped until this program ends."""
        with self._lock:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Container:
    """One container of a Runtime, by id. `init` can be waited for when this program created it."""

    def __init__(self, settings: Settings, container_id: str, init: Process) -> None:
        self.settings, self.id, self.init = settings, container_id, init

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor; the container itself goes on."""
        self.init.close()

    @property
    def state(self) -> dict[str, Any]:
        """The OCI state (runtime.md, State), asked from the kernel now."""
        return _state.state(self.settings, self.id)

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        return str(self.state["status"])

    def start(self) -> None:
        """Run the program. Returns when execve has taken place; raises ProgramError or HookError when it has not."""
        _start.start(self.settings, self.id)

    def wait(self, timeout_s: float | None = None) -> int:
        """init's exit code; see Process.wait."""
        return self.init.wait(timeout_s)

    def exec(self, args: Sequence[str], *, env: Sequence[str] = (), cwd: str = "", user: str = "",
             stdio: Stdio = (0, 1, 2)) -> Process:
        """A further process in the container. Raises ProgramError when it cannot be executed."""
        pid, pidfd = _exec.spawn(self.settings, self.id, args=args, env=env, cwd=cwd, user=user, stdio=stdio)
        return Process(pid, pidfd)

    def kill(self, signal: str = "TERM", *, all_processes: bool = False) -> None:
        """Send a signal by name or number. Raises StateError when the container is not running."""
        _kill.kill(self.settings, self.id, signal, all_=all_processes)

    def pause(self) -> None:
        """Freeze every process."""
        _pause.pause(self.settings, self.id)

    def resume(self) -> None:
        """Thaw them."""
        _pause.resume(self.settings, self.id)

    def processes(self) -> list[int]:
        """Host pids, sorted."""
        return _ps.ps(self.settings, self.id)

    def stats(self) -> dict[str, Any]:
        """One record of figures (contract 2.3)."""
        return _events.stats(self.settings, self.id)

    def events(self, interval_s: float = 5.0) -> Iterator[dict[str, Any]]:
        """Figures every `interval_s` and out-of-memory events, until the container ends."""
        return _events.watch(self.settings, self.id, interval_s)

    def update(self, resources: bytes) -> None:
        """Merge a LinuxResources JSON document into the limits; all or nothing."""
        _update.update(self.settings, self.id, resources=resources)

    def add_mounts(self, mounts: bytes) -> None:
        """Make the mounts of a JSON list, as in config.json, in the running container: all, or none."""
        from pyruntime.lifecycle import live_mounts

        live_mounts.add(self.settings, self.id, mounts)

    def remove_mounts(self, mounts: bytes) -> None:
        """Take away what is mounted at the destinations of a JSON list of mounts."""
        from pyruntime.lifecycle import live_mounts

        live_mounts.remove(self.settings, self.id, mounts)

    def delete(self, *, force: bool = False) -> None:
        """Remove a stopped container; with `force` any."""
        _delete.delete(self.settings, self.id, force=force)


class Runtime:
    """Containers below one state root. `warn` gets one line for each grant that could not be given."""

    def __init__(self, root: str = "/run/pyruntime", *, cgroup_manager: str = "cgroupfs",
                 warn: Callable[[str], None] = ignore) -> None:
        self.settings = Settings(root=os.path.abspath(root), cgroup_manager=cgroup_manager, warn=warn)

    def create(self, container_id: str, bundle: str, *, stdio: Stdio = (0, 1, 2), **flags: Any) -> Container:
        """A container in state `created`. `flags` as in lifecycle.create: no_pivot, preserve_fds, console_socket, …"""
        pidfd = _create.create(self.settings, container_id, bundle, stdio=stdio, **flags)
        return Container(self.settings, container_id, Process(_state.state(self.settings, container_id)["pid"], pidfd))

    def run(self, container_id: str, bundle: str, *, stdio: Stdio = (0, 1, 2), **flags: Any) -> int:
        """Create, start, wait, delete: the program's exit code. `flags` as in lifecycle.run: detach, keep, …"""
        return _run.run(self.settings, container_id, bundle, stdio=stdio, **flags)

    def container(self, container_id: str) -> Container:
        """An existing container. Raises NotFoundError. Its init cannot be waited for: it is another program's child."""
        pid = int(_state.state(self.settings, container_id)["pid"])
        return Container(self.settings, container_id, Process(pid, -1))

    def list(self) -> list[dict[str, Any]]:
        """The state of every container below the root, by id."""
        return _state.list_(self.settings)


def plan(bundle: str, *, container_id: str = "explain") -> Plan:
    """What `create` would do with the bundle on this host, as data; nothing is made."""
    options = Options(id=container_id, console=True, keyring_token="0" * 32)
    return prepare(Settings(), bundle_path(bundle), options).plan


def explain(bundle: str, *, show_env: bool = False) -> str:
    """The plan as the table that `pyruntime explain` prints. Environment values are hidden unless asked for."""
    from pyruntime.plan.explain import explain_text

    return explain_text(plan(bundle), show_env=show_env)


def validate(bundle: str) -> Report:
    """Every violation of schema and specification in the bundle's config.json, with JSON pointers; nothing is made."""
    from pyruntime.spec.validate import validate_document

    return validate_document(read_config(bundle_path(bundle), "config.json"))


