"""compile_plan: a container's whole plan, both lanes in the order in which they happen. The only place that knows it.

    host   cgroups, namespace files, rootfs, bind sources, console socket, FIFOs; spawn; join the cgroup
    init   stage 0: joined | adjustments, namespaces of others, user namespace (mapped), time, clone
    host   pid into `identity`, device rules, release; then the limits, beside what init does
    init   recorded | keyring, lo, root, mounts, devices | mounted (host hooks) | createContainer hooks,
           console, protections, new root, names, seccomp or credentials, program | ready
    host   rlimits, state, release
    init   wait for start, startContainer hooks, execve

Each group below says why it stands where it does. Sources: runtime.md (Lifecycle), contract 3.1, DESIGN runtime 3-16.
"""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.delegation import delegation_steps
from pyruntime.plan.devices import compile_devices
from pyruntime.plan.kernel import (
    EACCES,
    EINVAL,
    EPERM,
    MNT_DETACH,
    MS_PRIVATE,
    MS_REC,
    MS_SLAVE,
)
from pyruntime.plan.labels import check_labels, keyring_label_steps, label_steps
from pyruntime.plan.mounts import PROPAGATION, Mounts, compile_mount, compile_mounts, open_step, setattr_step
from pyruntime.plan.namespaces import (
    Namespaces,
    check_joined_maps,
    clone_step,
    groups_denied,
    join_steps,
    namespace_origin,
    time_steps,
    user_steps,
)
from pyruntime.plan.opcodes import BARRIERS
from pyruntime.plan.process import (
    ALL_CAPABILITIES,
    KEEP_GROUPS,
    Finish,
    affinity_step,
    check_mapped,
    hook_step,
    keyring_step,
    may_limit_others,
    output_steps,
    triples,
)
from pyruntime.plan.security import mask_steps, readonly_steps, refuse_host_net, seccomp_steps, sysctl_steps
from pyruntime.plan.step import CgroupPlan, HostStep, Plan, Slots, Step, either, init_step, instead
from pyruntime.record import Record
from pyruntime.spec.config import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.plan.step import Options
    from pyruntime.spec.config import Process, Spec

    Steps = list[Step | HostStep]
    Moves = tuple[list[HostStep], list[Step]]  # of network devices: by the host, and what init does then

ATTR_RDONLY = 1
CLONE_NEWCGROUP = 0x2000000
NO_CGROUPS = CgroupPlan()
NOTIFY_OPTIONS = ("bind", "nosuid", "noexec", "nodev", "ro")


class _Parts(Record):
    """What the groups of a plan are made from. Each took its slots in this order."""

    spaces: Namespaces
    root_slot: int  # -1 without a mount namespace of the container's own
    mounts: Mounts
    devices: list[Step]
    finish: Finish
    rdt: tuple[tuple[HostStep, ...], tuple[HostStep, ...]]  # before spawn, and when stage 0 joins
    seccomp: Steps
    fifos: tuple[int, int]
    output: tuple[list[HostStep], list[Step]]  # of hooks: opened by the host, taken by init


def compile_plan(spec: Spec, bundle: BundleFacts, host: HostFacts, options: Options,
                 cgroup: CgroupPlan = NO_CGROUPS) -> Plan:  # fmt: skip
    """The plan of a new container. Raises SpecError for what cannot be planned."""
    process = spec.process
    if process is None:
        raise SpecError("process property must not be empty", field="/process")
    _check(spec, process, bundle, host, options)
    refuse_host_net(spec, bundle, host)
    slots = Slots()
    parts = _parts(spec, process, bundle, host, options, cgroup, slots)
    spaces, mounts, finish = parts.spaces, parts.mounts, parts.finish

    steps = _opened(parts, bundle, cgroup)
    _stage0(steps, spec, process, host, spaces, (*cgroup.join, *parts.rdt[1]))
    _recorded(steps, spec, spaces, options, cgroup, device_moves(spec, bundle, host), keyring_label_steps(process, host))
    _root(steps, spec, bundle, parts.root_slot, mounts)
    steps += mounts.init
    steps += parts.devices
    _hooks_and_cwd(steps, spec, process, options, parts.output)
    steps += finish.console_steps(mount_console=True)
    _protect(steps, spec, mounts)
    _change_root(steps, spec, host, options, spaces)
    _names(steps, spec)
    steps += finish.steps(parts.seccomp)
    delegation = delegation_steps(spec, process, bundle, host, cgroup)
    _start(steps, spec, process, (*finish.outside_limits, *delegation), finish.env, options, parts.fifos)
    return Plan(tuple(steps), slots.next, finish.fd_base, tuple(mounts.warnings + finish.warnings + _dropped(spec, host)))


def _parts(spec: Spec, process: Process, bundle: BundleFacts, host: HostFacts, options: Options, cgroup: CgroupPlan,
           slots: Slots) -> _Parts:  # fmt: skip
    """Everything that takes slots. Raises SpecError."""
    spaces = Namespaces(spec.linux.namespaces, slots)
    root_slot = slots.take() if "mount" in spaces.kinds else -1
    mounts = Mounts(spec, bundle, host, cgroup, slots)
    compile_mounts(mounts, spec.mounts)
    if options.notify_dir:  # after the config's mounts, so that none of them covers it (contract 1.10)
        compile_mount(mounts, Mount("/run/notify", "bind", options.notify_dir, NOTIFY_OPTIONS), "")
    devices = compile_devices(mounts, spec, host)
    finish = _finish(spec, process, host, options, slots)
    rdt = rdt_steps(spec, host, options.id)
    seccomp = seccomp_steps(spec.linux.seccomp, host, slots)
    fifos = slots.take(), slots.take()
    output = output_steps(spec, slots) if spec.hooks.create_container or spec.hooks.start_container else ([], [])
    return _Parts(spaces, root_slot, mounts, devices, finish, rdt, seccomp, fifos, output)


def _opened(parts: _Parts, bundle: BundleFacts, cgroup: CgroupPlan) -> Steps:
    """What is opened by name on the host, before the first process exists: a missing name fails with nothing made.

    Cgroups come first, because a cgroup mount binds directories that exist only then.
    """
    steps: Steps = [*cgroup.make, *cgroup.early, *parts.rdt[0], *parts.spaces.host]
    if parts.root_slot >= 0 and not parts.mounts.inside:
        steps.append(HostStep("open_root", (bundle.rootfs, parts.root_slot, 1), "/root/path"))
    steps += parts.mounts.host
    steps += parts.finish.host_steps()
    steps += parts.output[0]
    return [*steps, HostStep("fifos", parts.fifos), HostStep("spawn", ())]


def _dropped(spec: Spec, host: HostFacts) -> list[tuple[str, str]]:
    """Warnings for what is left out: a label without which nothing is less protected (S5), limits the kernel lost."""
    found = []
    if spec.linux.mount_label and not host.selinux:
        found.append(("/linux/mountLabel", "mountLabel is ignored: selinux is disabled or not supported"))
    memory = spec.linux.resources.memory
    for key, value in (("kernel", memory.kernel), ("kernelTCP", memory.kernel_tcp),
                       ("useHierarchy", memory.use_hierarchy)):  # fmt: skip
        if value:  # contract 4.8; 0 and false ask for nothing
            said = f"memory.{key} is ignored: the kernel has no such setting any more"
            found.append((f"/linux/resources/memory/{key}", said))
    return found


def _check(spec: Spec, process: Process, bundle: BundleFacts, host: HostFacts, options: Options) -> None:
    """Refuse what needs the host's facts to be seen as wrong; the rest is spec/'s affair. Raises SpecError."""
    linux = spec.linux
    if spec.root is None:
        raise SpecError("root must be specified", field="/root")
    if host.euid != 0:
        if linux.namespace("user") is None:
            raise SpecError("rootless container requires user namespaces", field="/linux/namespaces",
                            hint='add {"type": "user"} with uidMappings and gidMappings, or run as root')  # fmt: skip
        if process.user.additional_gids:
            raise SpecError("cannot set any additional groups in a rootless container",
                            field="/process/user/additionalGids", hint="remove the list")  # fmt: skip
        _check_mount_ids(spec)
    if options.no_pivot and linux.rootfs_propagation in ("private", "rprivate"):
        raise SpecError("rootfsPropagation cannot be private when pivot_root is not used",
                        field="/linux/rootfsPropagation", value=linux.rootfs_propagation,
                        hint="leave out --no-pivot, or set it to rslave")  # fmt: skip
    check_labels(process, host)
    if linux.namespace("user") is not None:
        check_joined_maps(linux, bundle)
        uids = triples(linux.uid_mappings) or bundle.joined_uid_map
        gids = triples(linux.gid_mappings) or bundle.joined_gid_map
        check_mapped(process, uids, gids)


def _check_mount_ids(spec: Spec) -> None:
    """Owners that mount data names have to be mapped, or the file system refuses them (contract 4.3, devpts)."""
    maps = {"uid": spec.linux.uid_mappings, "gid": spec.linux.gid_mappings}
    for index, mount in enumerate(spec.mounts):
        for option in mount.options:
            kind, equals, number = option.partition("=")
            if not equals or kind not in maps or not maps[kind] or not number.isdigit():
                continue
            if not any(entry.container_id <= int(number) < entry.container_id + entry.size for entry in maps[kind]):
                raise SpecError(f"cannot specify {option} mount option for rootless container: {kind} {number} is not "
                                "mapped", field=f"/mounts/{index}/options", value=option,
                                hint=f"remove the option, or map {kind} {number} in linux.{kind}Mappings")  # fmt: skip


def _finish(spec: Spec, process: Process, host: HostFacts, options: Options, slots: Slots) -> Finish:
    """What the last steps need to know; a user namespace has every capability, outside one we have our own."""
    user_ns = spec.linux.namespace("user") is not None
    return Finish(
        process,
        slots,
        umask=process.user.umask,
        linux=spec.linux,
        available=ALL_CAPABILITIES if user_ns else host.capabilities,
        last_cap=host.last_cap,
        limits_from_outside=may_limit_others(host),
        set_groups=not groups_denied(spec, host) and KEEP_GROUPS not in spec.annotations,
        nested=host.in_user_ns,
        console=options.console,
        listen_fds=options.listen_fds,
        preserve_fds=options.preserve_fds,
        notify=bool(options.notify_dir),
        labels=label_steps(process, host),
    )


def _stage0(steps: Steps, spec: Spec, process: Process, host: HostFacts, spaces: Namespaces,
            joins: tuple[HostStep, ...]) -> None:  # fmt: skip
    """From the first instruction to the clone of init."""
    # Nothing is cloned and nothing is charged elsewhere: stage 0 waits until it is in its cgroup (DESIGN, runtime 6).
    # The join comes before the barrier in the list, for it needs only the pid and so runs while stage 0 loads.
    steps += joins
    steps.append(init_step("barrier", (BARRIERS["joined"],)))
    steps.append(HostStep("release", ("joined",)))
    # After the cgroup, whose cpuset bounds what this may ask for; the caller's own mask must not leak (contract 4.2).
    steps.append(affinity_step(host))
    # The verified /proc of the host, while it is still what /proc names; closed before the clone, so that no
    # descriptor of a host directory comes into the container's pid namespace.
    proc_for = "/process/oomScoreAdj" if process.oom_score_adj is not None else "/linux/timeOffsets"
    needs_proc = process.oom_score_adj is not None or bool(spec.linux.time_offsets)
    if needs_proc:
        steps.append(init_step("open_proc", (0,), proc_for))
    # Before any namespace: lowering needs the privilege that we have outside (contract 4.2).
    if process.oom_score_adj is not None:
        steps.append(init_step("oom_score_adj", (process.oom_score_adj,), "/process/oomScoreAdj"))
    # Before the first setns: whoever is inside must not look into this process (S12).
    if spaces.joined:
        steps.append(init_step("set_dumpable", (0,), spaces.joined[0][2]))
    before, after = join_steps(spaces, host)
    steps += before
    if spaces.is_fresh("user"):
        steps += user_steps(spaces, spec, host)
    elif spaces.kinds.get("user"):
        steps.append(after.pop(0))
        # root of the joined namespace from here on, so that what we make belongs to an id that exists in it
        steps.append(init_step("set_ids", (0, 0), namespace_origin(spec, "user")))
    steps += after
    steps += time_steps(spaces, spec)  # inside the user namespace, which then owns it
    if needs_proc:
        steps.append(init_step("close_slot", (1,), proc_for))
    steps.append(clone_step(spaces, "/linux/namespaces" if spaces.kinds else ""))


def _recorded(steps: Steps, spec: Spec, spaces: Namespaces, options: Options, cgroup: CgroupPlan,
              devices: Moves, labels: list[Step]) -> None:  # fmt: skip
    """Init exists: its pid is made durable before it makes what would have to be cleaned up (DESIGN, runtime 5)."""
    steps.append(HostStep("record_pid", ()))
    steps.append(init_step("barrier", (BARRIERS["recorded"],)))
    # Device rules are rewritten from deny-all on v1: init must not make its nodes in that moment.
    steps += [step for step in cgroup.limits if _is_device_rule(step)]
    # Network devices too: init waits in its namespace, and finds them there.
    steps += devices[0]
    steps.append(HostStep("release", ("recorded",)))
    # All other limits are written while init mounts: they are in force before host hooks see them and before `ready`.
    steps += [step for step in cgroup.limits if not _is_device_rule(step)]
    # Now that init is in its final cgroup, whose directory becomes the root of the namespace.
    if spaces.is_fresh("cgroup"):
        steps.append(init_step("unshare", (CLONE_NEWCGROUP,), namespace_origin(spec, "cgroup")))
    if not options.no_new_keyring:
        steps += labels
        steps.append(keyring_step(options.id, options.keyring_token, user_ns="user" in spaces.kinds))
    if spaces.is_fresh("network"):
        steps.append(init_step("link_up", ("lo",), namespace_origin(spec, "network")))
    steps += devices[1]
    # While the host's root is still there: a procfs of our own, or the verified one where a user namespace is
    # refused a new one; never the container's /proc by name (S21).
    if spec.linux.sysctl:
        verified = instead(EPERM, "open_proc", (0,), "/linux/sysctl")
        steps.append(either("open_proc", (1,), "/linux/sysctl", verified))
        steps += sysctl_steps(spec)
        steps.append(init_step("close_slot", (1,), "/linux/sysctl"))


def rdt_steps(spec: Spec, host: HostFacts, container_id: str) -> tuple[tuple[HostStep, ...], tuple[HostStep, ...]]:
    """Steps of linux.intelRdt, before and at the join; the module is loaded for a config that has it."""
    if spec.linux.intel_rdt is None:
        return (), ()
    from pyruntime.plan.rdt import compile_rdt

    plan = compile_rdt(spec, host, container_id)
    return plan.make, plan.join


def device_moves(spec: Spec, bundle: BundleFacts, host: HostFacts) -> Moves:
    """Steps of linux.netDevices; the module is loaded for a config that has them."""
    if not spec.linux.net_devices:
        return [], []
    from pyruntime.plan.netdev import device_steps

    return device_steps(spec, bundle, host)


def _is_device_rule(step: HostStep) -> bool:
    return step.op == "cg_write" and "/devices." in str(step.args[0])


def _root(steps: Steps, spec: Spec, bundle: BundleFacts, root_slot: int, mounts: Mounts) -> None:
    """The rootfs as slot 0; everything below it is reached through that descriptor from here on (S1)."""
    if root_slot < 0:
        steps.append(init_step("use_root", (bundle.rootfs,), "/root/path"))
        return
    # Mounts of the host still arrive, ours do not leave, unless rootfsPropagation says so (contract 4.10).
    wanted = spec.linux.rootfs_propagation
    origin = "/linux/rootfsPropagation" if wanted else namespace_origin(spec, "mount")
    steps.append(init_step("propagation", ("/", PROPAGATION.get(wanted, MS_SLAVE | MS_REC)), origin))
    if bundle.root_mount and wanted not in ("", "rprivate", "rslave", "runbindable"):
        # Those reach every mount. With the others the mount that the new root is on may be shared still: pivot_root(2)
        # refuses that, and what is attached there would appear on the host.
        parent = MS_SLAVE if wanted == "slave" else MS_PRIVATE
        steps.append(init_step("propagation", (bundle.root_mount, parent), origin))
    if mounts.inside:
        # Before anything is attached, so that a source inside the rootfs is what it is on the host; and after the
        # propagation, so that what is cloned is a slave already.
        steps.append(open_step(root_slot, bundle.rootfs, "/root/path", recursive=True, propagation=MS_SLAVE | MS_REC,
                               follow=False))  # fmt: skip
    steps += mounts.opens
    # A mapped root may have no way to the rootfs's path; on top of "/" it needs none.
    on_top = instead(EACCES, "attach_root", (root_slot, "/"), "/root/path")
    steps.append(either("attach_root", (root_slot, bundle.rootfs), "/root/path", on_top))


def _hooks_and_cwd(steps: Steps, spec: Spec, process: Process, options: Options, output: Moves) -> None:
    """Hooks between the mounts and the new root, then the working directory, while the root is writable."""
    if spec.hooks.prestart or spec.hooks.create_runtime:
        steps.append(init_step("barrier", (BARRIERS["mounted"],), "/hooks"))
        if spec.hooks.prestart:
            steps.append(HostStep("hooks", ("prestart",), "/hooks/prestart"))
        if spec.hooks.create_runtime:
            steps.append(HostStep("hooks", ("createRuntime",), "/hooks/createRuntime"))
        steps.append(HostStep("release", ("mounted",)))
    steps += output[1]
    state = (options.hook_state_prefix, options.hook_state_suffix)
    for index, hook in enumerate(spec.hooks.create_container):
        steps.append(hook_step(hook, f"/hooks/createContainer/{index}", (), state, "."))
    if process.cwd != "/":
        steps.append(init_step("make_path", (process.cwd, 0o755, 0, -1), "/process/cwd"))


def _protect(steps: Steps, spec: Spec, mounts: Mounts) -> None:
    """When nothing has to be made in the root any more: read-only paths, masks, read-only mounts, the root last.

    Before the new root is entered, because a mask is the host's null device, opened and verified by us (S16).
    """
    steps += readonly_steps(spec)
    steps += mask_steps(spec)
    steps += mounts.late
    if spec.root is not None and spec.root.readonly:
        steps.append(setattr_step("/", ATTR_RDONLY, 0, "/root/readonly"))


def _change_root(steps: Steps, spec: Spec, host: HostFacts, options: Options, spaces: Namespaces) -> None:
    """The old root disappears, then the new one gets its propagation: pivot_root refuses a shared one."""
    if "mount" not in spaces.kinds:
        steps.append(init_step("chroot", (), "/root/path"))
        return
    if options.no_pivot:
        # A moved root leaves the old mounts in the namespace: full proc and sysfs among them would let the container
        # mount new ones past its masks.
        steps += [_hide(path) for path in host.proc_mounts]
        steps.append(init_step("move_root", (), "/root/path"))
    else:
        steps.append(init_step("pivot_root", (), "/root/path"))
    wanted = spec.linux.rootfs_propagation
    if wanted.removeprefix("r") in ("shared", "unbindable"):
        steps.append(init_step("propagation", ("/", PROPAGATION[wanted]), "/linux/rootfsPropagation"))
    elif wanted in ("private", "rprivate"):  # it came as a slave; the mounts on it have what their options say
        steps.append(init_step("propagation", ("/", MS_PRIVATE), "/linux/rootfsPropagation"))


def _hide(path: str) -> Step:
    """No way to a mount of the host: it is taken away, or covered where it is locked (mount_namespaces(7): EINVAL)."""
    covers = (instead(errno, "cover", (path,), "/root/path") for errno in (EINVAL, EPERM))
    return either("umount", (path, MNT_DETACH), "/root/path", *covers)


def _names(steps: Steps, spec: Spec) -> None:
    if spec.hostname:
        steps.append(init_step("sethostname", (spec.hostname,), "/hostname"))
    if spec.domainname:
        steps.append(init_step("setdomainname", (spec.domainname,), "/domainname"))


def _start(steps: Steps, spec: Spec, process: Process, last: tuple[HostStep, ...], env: tuple[str, ...],
           options: Options, fifos: tuple[int, int]) -> None:  # fmt: skip
    """`ready`: all that can fail has been tried. The host does its `last`, the state is saved, `start` is waited for."""
    steps.append(init_step("barrier", (BARRIERS["ready"],)))
    steps += last
    steps.append(HostStep("save_state", ()))
    steps.append(HostStep("release", ("ready",)))
    steps.append(init_step("wait_start", fifos))
    # In the container, as its user and under its filter (contract 3.2), with the program's own environment.
    state = (options.start_state_prefix, options.hook_state_suffix)
    for index, hook in enumerate(spec.hooks.start_container):
        steps.append(hook_step(hook, f"/hooks/startContainer/{index}", env, state, ""))
    steps.append(init_step("execve", (process.args, env), "/process/args"))
