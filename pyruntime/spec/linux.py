"""Records of runtime-spec config-linux.md: everything below `linux` of config.json."""

from __future__ import annotations

from pyruntime.record import Record


class IDMapping(Record):
    container_id: int
    host_id: int
    size: int


class Namespace(Record):
    type: str  # pid network mount ipc uts user cgroup time
    path: str = ""  # "": a new one


class TimeOffset(Record):
    clock: str  # monotonic, boottime
    secs: int = 0
    nanosecs: int = 0


class Device(Record):
    path: str
    type: str  # c u b p
    major: int = 0
    minor: int = 0
    file_mode: int | None = None  # permission bits; None: 0666
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Record):
    """One entry of resources.devices. major and minor None: any."""

    allow: bool
    type: str = "a"  # a b c
    major: int | None = None
    minor: int | None = None
    access: str = ""  # subset of rwm


class Memory(Record):
    """Bytes; -1 means no limit where the spec has it, None absent."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class CPU(Record):
    shares: int | None = None
    quota: int | None = None  # microseconds
    burst: int | None = None  # microseconds
    period: int | None = None  # microseconds
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class WeightDevice(Record):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Record):
    major: int
    minor: int
    rate: int


class BlockIO(Record):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(Record):
    page_size: str  # 2MB
    limit: int


class InterfacePriority(Record):
    name: str
    priority: int


class NetworkResources(Record):
    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class RdmaLimit(Record):
    device: str
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Record):
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory = Memory()
    cpu: CPU = CPU()
    pids_limit: int | None = None
    block_io: BlockIO = BlockIO()
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources = NetworkResources()
    rdma: tuple[RdmaLimit, ...] = ()
    unified: tuple[tuple[str, str], ...] = ()


class SyscallArg(Record):
    index: int  # type: ignore[assignment]  # tuple.index gives way to the spec's word
    value: int
    op: str  # SCMP_CMP_*
    value_two: int = 0


class SyscallRule(Record):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SyscallArg, ...] = ()


class Seccomp(Record):
    """`flags` None: absent, which means SPEC_ALLOW where supported; (): none."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SyscallRule, ...] = ()


class Personality(Record):
    domain: str
    flags: tuple[str, ...] = ()


class IntelRdt(Record):
    clos_id: str = ""
    schemata: tuple[str, ...] = ()
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_monitoring: bool = False


class MemoryPolicy(Record):
    mode: str
    nodes: str = ""
    flags: tuple[str, ...] = ()


class NetDevice(Record):
    host_name: str
    name: str = ""  # "": keeps its name


class Linux(Record):
    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    time_offsets: tuple[TimeOffset, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: tuple[tuple[str, str], ...] = ()  # keys as configured
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    personality: Personality | None = None
    intel_rdt: IntelRdt | None = None
    memory_policy: MemoryPolicy | None = None
    net_devices: tuple[NetDevice, ...] = ()

    def namespace(self, kind: str) -> Namespace | None:
        """The entry of that type, or None when the container keeps the runtime's own."""
        for entry in self.namespaces:
            if entry.type == kind:
                return entry
        return None
