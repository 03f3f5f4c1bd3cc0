"""compile_exec: the plan of one more process in a container that lives. The same steps, entered by setns.

    host   init's pidfd, cgroups, console socket; spawn; join the cgroups
    init   stage 0: joined | adjustments, all namespaces at once, clone
    host   pid
    init   recorded | keyring, console, credentials, filter, program | ready
    host   rlimits, release
    init   execve

The container is hostile to whoever enters it (S12): nothing of the host is open in its namespaces but what the program
is to inherit, and the process cannot be looked into before execve.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.kernel import CLONE_NEWUSER, CLONE_PARENT
from pyruntime.plan.labels import check_labels, keyring_label_steps, label_steps
from pyruntime.plan.opcodes import BARRIERS
from pyruntime.plan.process import (
    ALL_CAPABILITIES,
    KEEP_GROUPS,
    Finish,
    affinity_step,
    check_mapped,
    keyring_step,
    may_limit_others,
    triples,
)
from pyruntime.plan.security import seccomp_steps
from pyruntime.plan.step import ExecOptions, HostStep, Plan, Slots, Step, init_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import HostFacts
    from pyruntime.spec.config import Process, Spec

    Steps = list[Step | HostStep]

__all__ = ["ExecOptions", "compile_exec"]


def compile_exec(process: Process, saved: Spec, host: HostFacts, options: ExecOptions) -> Plan:
    """The plan of `process` in the container whose configuration at create was `saved`. Raises SpecError.

    `process` is complete: what an exec leaves out has been filled in from the container (DESIGN, runtime 11). Only its
    umask falls back to the container's here.
    """
    check_labels(process, host)
    check_mapped(process, triples(saved.linux.uid_mappings), triples(saved.linux.gid_mappings))
    if host.euid != 0 and process.user.additional_gids:
        raise SpecError("cannot set any additional groups in a rootless container",
                        field="/process/user/additionalGids", hint="remove the list")  # fmt: skip
    slots = Slots()
    pidfd_slot = slots.take()
    finish = _finish(process, saved, host, options, slots)
    seccomp = seccomp_steps(saved.linux.seccomp, host, slots)
    steps: Steps = [HostStep("open_pidfd", (pidfd_slot,)), *finish.host_steps(), HostStep("spawn", ())]
    enter(steps, process, host, options, pidfd_slot)
    if not options.no_new_keyring:
        steps += keyring_label_steps(process, host)
        steps.append(keyring_step(options.id, options.keyring_token, user_ns=saved.linux.namespace("user") is not None))
    steps.append(init_step("use_root", ("/",)))  # the mount namespace has been joined: "/" is the container's root
    steps += finish.console_steps(mount_console=False)
    steps += finish.steps(seccomp)
    steps.append(init_step("barrier", (BARRIERS["ready"],)))
    steps += finish.outside_limits
    steps.append(HostStep("release", ("ready",)))
    steps.append(init_step("execve", (process.args, finish.env), "/process/args"))
    return Plan(tuple(steps), slots.next, finish.fd_base, tuple(finish.warnings))


def _finish(process: Process, saved: Spec, host: HostFacts, options: ExecOptions, slots: Slots) -> Finish:
    umask = process.user.umask
    if umask is None and saved.process is not None:
        umask = saved.process.user.umask
    keep_groups = KEEP_GROUPS in saved.annotations
    return Finish(
        process,
        slots,
        umask=umask,
        linux=saved.linux,
        available=ALL_CAPABILITIES if options.nstypes & CLONE_NEWUSER else host.capabilities,
        last_cap=host.last_cap,
        limits_from_outside=may_limit_others(host),
        set_groups=host.euid == 0 and not keep_groups,
        nested=host.in_user_ns,
        console=options.console,
        listen_fds=options.listen_fds,
        preserve_fds=options.preserve_fds,
        labels=label_steps(process, host),
    )


def _affinity(process: Process) -> tuple[list[Step], list[Step]]:
    """CPUs before and after the cgroup is entered (config.md, execCPUAffinity)."""
    if process.exec_cpu_affinity is None:
        return [], []
    from pyruntime.plan.attributes import affinity_steps

    return affinity_steps(process.exec_cpu_affinity)


def enter(steps: Steps, process: Process, host: HostFacts, options: ExecOptions, pidfd_slot: int) -> None:
    """Cgroups, then every namespace that differs by one setns on init's pidfd, then the clone.

    One setns call checks all of them against the rights that we have now, before the user namespace changes them
    (setns(2)). The clone also happens without a new pid namespace: only a child is in a joined one, and the
    conversation with the host stays the same.
    """
    joins = [HostStep("cg_join", (path,)) for path in options.cgroups]
    joins += [HostStep("rdt_join", (path,), "/linux/intelRdt") for path in options.rdt]
    initial, final = _affinity(process)
    steps += initial
    # The join needs only the pid and so runs while stage 0 loads, unless it has to come second.
    steps += [*joins, init_step("barrier", (BARRIERS["joined"],))] if not initial else [
        init_step("barrier", (BARRIERS["joined"],)), *joins]  # fmt: skip
    steps.append(HostStep("release", ("joined",)))
    steps += final or ([] if initial else [affinity_step(host)])
    if process.oom_score_adj is not None:
        steps.append(init_step("open_proc", (0,), "/process/oomScoreAdj"))
        steps.append(init_step("oom_score_adj", (process.oom_score_adj,), "/process/oomScoreAdj"))
        steps.append(init_step("close_slot", (1,), "/process/oomScoreAdj"))
    steps.append(init_step("set_dumpable", (0,)))
    if options.nstypes:
        steps.append(init_step("setns", (pidfd_slot, options.nstypes), "/linux/namespaces"))
    steps.append(init_step("close_slot", (pidfd_slot,)))
    if options.nstypes & CLONE_NEWUSER:
        steps.append(init_step("set_ids", (0, 0)))
    steps.append(init_step("clone", (CLONE_PARENT,)))
    steps.append(HostStep("record_pid", ()))
    steps.append(init_step("barrier", (BARRIERS["recorded"],)))
    steps.append(HostStep("release", ("recorded",)))
