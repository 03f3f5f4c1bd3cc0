"""mounts add and mounts remove: mounts of a running container, as crun has them (contract 1.3).

The document is a list of mounts as in config.json, or an object with one under `mounts`. All of it is done or nothing:
when one fails, those before it are taken away again. What a later mount hides stays hidden; the configuration saved at
create is not changed, so a restart of the container begins without them.
"""

from __future__ import annotations

from posix import close

from pyruntime.errors import HostError, InitError, RuntimeFailure, SpecError, StateError
from pyruntime.host.cgroup_probe import probe_cgroup
from pyruntime.host.facts import BundleFacts
from pyruntime.host.probe import probe_host, probe_links
from pyruntime.lifecycle import process, state, states, store
from pyruntime.lifecycle.drive import Drive, Job
from pyruntime.lifecycle.exec_ import differing_namespaces
from pyruntime.plan.live_mounts import compile_add, compile_remove
from pyruntime.plan.step import CgroupPlan, ExecOptions
from pyruntime.spec import document
from pyruntime.spec.parse import parse_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings
    from pyruntime.plan.step import Plan
    from pyruntime.spec.config import Spec


ATTACHING = ("move_mount", "mount", "classic_mount")


def add(settings: Settings, container_id: str, mounts: bytes) -> None:
    """Make the mounts of the document, in order. Raises SpecError, StateError, HostError; then none of them is there."""
    with store.lookup(settings.root, container_id) as entry:
        live = Live(settings, entry, mounts)
        done: list[int] = []
        try:
            for index in range(len(live.spec.mounts)):
                plan = live.adding(index)
                try:
                    live.carry_out(plan)
                except RuntimeFailure as failure:
                    if is_attached(plan, failure):
                        done.append(index)
                    raise
                done.append(index)
        except BaseException:
            for index in reversed(done):
                live.carry_out(live.removing(index))
            raise


def is_attached(plan: Plan, failure: RuntimeFailure) -> bool:
    """Whether the mount of the plan is there though a step of it failed: a step before that one has attached it."""
    number = failure.step if isinstance(failure, InitError) else -1
    return any(step.lane == "init" and step.op in ATTACHING for step in plan.steps[: max(number - 1, 0)])


def remove(settings: Settings, container_id: str, mounts: bytes) -> None:
    """Take away what is mounted at each destination of the document, the last first. Raises as `add`."""
    with store.lookup(settings.root, container_id) as entry:
        live = Live(settings, entry, mounts)
        for index in reversed(range(len(live.spec.mounts))):
            live.carry_out(live.removing(index))


def parse(config: dict[str, Any], mounts: bytes) -> Spec:
    """The container's configuration with the document's mounts in place of its own. Raises SpecError."""
    text = mounts.strip()
    value = document.load(b'{"mounts":' + text + b"}" if text.startswith(b"[") else text, name="mounts")
    listed = value.get("mounts")
    if not isinstance(listed, list) or not listed:
        raise SpecError("no mounts to work on", field="/mounts",
                        hint='a list as in config.json: [{"destination": "/data", "source": "/srv", "options": ["rbind"]}]')
    return parse_spec({**config, "mounts": listed})


class Live:
    """A locked, running container and the mounts of one call."""

    def __init__(self, settings: Settings, entry: store.Entry, mounts: bytes) -> None:
        entry.lock()
        self.settings, self.entry, self.found = settings, entry, state.load(entry)
        states.check(state.status(entry, self.found), "mounts", entry.id)
        self.spec = parse(self.found["config"], mounts)
        if self.spec.linux.namespace("mount") is None:
            raise HostError("the container has no mount namespace of its own", field="/linux/namespaces",
                            hint="what is mounted on the host is there for it already")
        self.host = probe_host(self.spec, cgroup=probe_cgroup())
        pid = int(self.found["init_process_pid"])
        self.options = ExecOptions(id=entry.id, nstypes=differing_namespaces(pid), no_new_keyring=True)

    def adding(self, index: int) -> Plan:
        """The plan of one mount."""
        path = str(self.found["bundle"])
        links = probe_links(self.spec.mounts, path)
        bundle = BundleFacts(path=path, rootfs=self.found["rootfs"], links=links)
        cgroup = CgroupPlan(paths=tuple(self.found["cgroup_paths"].items()))
        return compile_add(self.spec, index, bundle, self.host, self.options, cgroup)

    def removing(self, index: int) -> Plan:
        """The plan that takes it away."""
        return compile_remove(self.spec, index, self.host, self.options)

    def carry_out(self, plan: Plan) -> None:
        """Run a plan to its end. Raises what a step reports."""
        for _, text in plan.warnings:
            self.settings.warn(text)
        pid, started = int(self.found["init_process_pid"]), int(self.found["init_process_start"])
        job = Job(spec=self.spec, plan=plan, name=self.entry.id, stdio=(0, 1, 2))
        job.warn, job.init_pidfd = self.settings.warn, process.open_process(pid, started)
        if job.init_pidfd < 0:
            raise StateError("container not running")
        try:
            with Drive(job) as drive:
                drive.run()
                drive.finish(drive.pidfd, "mounting process")
        finally:
            close(job.init_pidfd)
