"""Rules between the chapters of config.json: what needs which namespace, sysctls, mounts below /proc."""

from __future__ import annotations

from pyruntime.spec.annotations import check_annotations
from pyruntime.spec.document import escape, quote
from pyruntime.spec.reader import (
    IDMAP,
    LATER,
    MOUNT,
    NAMESPACE_USE,
    NETDEV,
    PATHS,
    SYSCTL,
    USER_MAP,
    UTS,
    Reader,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.config import Mount, Spec
    from pyruntime.spec.linux import IDMapping, Linux

MAX_HOST_NAME = 64  # bytes, __NEW_UTS_LEN: sethostname(2)

# security.md S34, contract 4.9: sysctls by the namespace that holds their value.
SYSCTL_NAMES = {
    "kernel.msgmax": "ipc", "kernel.msgmnb": "ipc", "kernel.msgmni": "ipc", "kernel.sem": "ipc",
    "kernel.shmall": "ipc", "kernel.shmmax": "ipc", "kernel.shmmni": "ipc", "kernel.shm_rmid_forced": "ipc",
    "kernel.domainname": "uts",
}
SYSCTL_TREES = {"fs.mqueue.": "ipc", "net.": "network", "user.": "user"}

# security.md S22, contract 4.3: what may be mounted over below /proc.
PROC_FILES = frozenset("/proc/" + name for name in (
    "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled"))


def check_rules(reader: Reader, spec: Spec) -> None:
    """All rules of this module."""
    linux = spec.linux
    kinds = frozenset(space.type for space in linux.namespaces)
    _check_names(reader, spec, kinds)
    if "mount" not in kinds:
        for key, paths in (("maskedPaths", linux.masked_paths), ("readonlyPaths", linux.readonly_paths)):
            if paths:
                reader.error(PATHS, f"/linux/{key}", "unable to restrict sys entries without a private MNT namespace",
                             hint='add {"type": "mount"} to linux.namespaces')
    if linux.net_devices and "network" not in kinds:
        _need_network(reader, spec)
    _check_user_maps(reader, linux)
    _check_time(reader, linux)
    for key, _ in linux.sysctl:
        _check_sysctl(reader, key, kinds)
    check_annotations(reader, spec.annotations)


def _need_network(reader: Reader, spec: Spec) -> None:
    """An error for a container; a warning for a document without process, which cannot be started anyway."""
    text = "unable to move network devices without a private NET namespace"
    hint = 'add {"type": "network"} to linux.namespaces'
    if spec.process is None:
        reader.warn("/linux/netDevices", text, hint=hint)
    else:
        reader.error(NETDEV, "/linux/netDevices", text, hint=hint)


def _check_names(reader: Reader, spec: Spec, kinds: frozenset[str]) -> None:
    for key, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if name and "uts" not in kinds:
            reader.error(UTS, f"/{key}", f"unable to set {key} without a private UTS namespace", name,
                         'add {"type": "uts"} to linux.namespaces')
        if len(name.encode("utf-8", "surrogateescape")) > MAX_HOST_NAME:
            reader.error(LATER, f"/{key}", f"{key} is too long", name, f"at most {MAX_HOST_NAME} bytes")


def _check_user_maps(reader: Reader, linux: Linux) -> None:
    """S37. Maps next to a joined namespace are compared with its real ones by whoever probes the host."""
    space = linux.namespace("user")
    if space is None:
        for key, maps in (("uidMappings", linux.uid_mappings), ("gidMappings", linux.gid_mappings)):
            if maps:
                reader.error(NAMESPACE_USE, f"/linux/{key}",
                             "user namespace mappings specified, but user namespace isn't enabled in the config",
                             hint='add {"type": "user"} to linux.namespaces')
        return
    if space.path:
        return
    if not linux.uid_mappings and not linux.gid_mappings:
        index = linux.namespaces.index(space)
        reader.error(USER_MAP, f"/linux/namespaces/{index}",
                     "user namespaces enabled, but no namespace path to join nor mappings to apply specified",
                     hint="add linux.uidMappings and linux.gidMappings")
        return
    for key, word, maps in (("uidMappings", "uid", linux.uid_mappings), ("gidMappings", "gid", linux.gid_mappings)):
        if not _maps_root(maps):
            reader.error(NAMESPACE_USE, f"/linux/{key}", f"{word} 0 of the container is not mapped",
                         hint=f"the runtime becomes {word} 0 there: one entry needs containerID 0")


def _maps_root(maps: tuple[IDMapping, ...]) -> bool:
    return any(entry.container_id == 0 and entry.size > 0 for entry in maps)


def _check_time(reader: Reader, linux: Linux) -> None:
    if not linux.time_offsets:
        return
    space = linux.namespace("time")
    if space is None:
        reader.error(NAMESPACE_USE, "/linux/timeOffsets",
                     "time namespace offsets specified, but time namespace isn't enabled in the config",
                     hint='add {"type": "time"} to linux.namespaces')
    elif space.path:
        reader.error(NAMESPACE_USE, "/linux/timeOffsets",
                     "time namespace enabled, but both namespace path and time offsets specified", space.path,
                     "the offsets of a namespace are fixed when its first process enters")


def sysctl_name(key: str) -> str:
    """`key` with dots between its parts, as sysctl(8) prints it: net/ipv4/conf/eth0.1/x is net.ipv4.conf.eth0/1.x.

    Whichever of dot and slash comes first is the separator; the other one is then part of a name.
    """
    dot, slash = key.find("."), key.find("/")
    if slash < 0 or 0 <= dot < slash:
        return key
    return key.translate({ord("/"): ".", ord("."): "/"})


def sysctl_path(key: str) -> str:
    """The file of a sysctl below /proc/sys: net.ipv4.conf.eth0/1.x is net/ipv4/conf/eth0.1/x."""
    return sysctl_name(key).translate({ord("/"): ".", ord("."): "/"})


def _check_sysctl(reader: Reader, key: str, kinds: frozenset[str]) -> None:
    name = sysctl_name(key)
    pointer = f"/linux/sysctl/{escape(key)}"
    if name == "kernel.hostname":
        reader.error(SYSCTL, pointer, f"sysctl {quote(key)} conflicts with the field hostname", key,
                     "set hostname instead")
        return
    parts = sysctl_path(key).split("/")
    needs = SYSCTL_NAMES.get(name) or next((kind for tree, kind in SYSCTL_TREES.items() if name.startswith(tree)), "")
    if needs in kinds and not any(part in ("", ".", "..") for part in parts):
        return
    hint = "only sysctls of a namespace of the container's own can be set"
    if needs and needs not in kinds:
        hint = f'add {{"type": "{needs}"}} to linux.namespaces'
    reader.error(SYSCTL, pointer, f"sysctl {quote(key)} is not in a separate kernel namespace", key, hint)


def clean_path(path: str) -> str:
    """`path` as seen from /, without empty parts, `.` and `..` (which never leads above /); "/" for the root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def check_mount(reader: Reader, mount: Mount, at: str) -> None:
    """Destination, /proc rule and id maps of one mount; contract 4.3."""
    if not mount.destination:
        return
    bind = "bind" in mount.options or "rbind" in mount.options or mount.type == "bind"
    where = clean_path(mount.destination)
    if where == "/":
        reader.error(MOUNT, f"{at}/destination", f"mount destination {quote(mount.destination)} is the root itself",
                     mount.destination, "the root file system comes from root.path")
    elif where == "/proc" and not bind and mount.type != "proc":
        reader.error(MOUNT, f"{at}/destination", '"/proc" cannot be mounted because it is not of type proc',
                     mount.type, "only proc, or a bind mount of a proc file system, may be mounted on /proc")
    elif where.startswith("/proc/") and where not in PROC_FILES:
        reader.error(MOUNT, f"{at}/destination", f"{quote(where)} cannot be mounted because it is inside /proc",
                     mount.destination, "the files that may be mounted over: " + ", ".join(sorted(PROC_FILES)))
    idmap = "idmap" in mount.options or "ridmap" in mount.options
    if bool(mount.uid_mappings) != bool(mount.gid_mappings):
        missing = "gidMappings" if mount.uid_mappings else "uidMappings"
        reader.error(IDMAP, f"{at}/{missing}", "id-mapped mounts must have both uid and gid mappings specified",
                     hint=f"add {missing}, or leave both out to use those of the user namespace")
    if (idmap or mount.uid_mappings) and not bind:
        reader.error(IDMAP, f"{at}/options", "id-mapped mounts are only supported for bind mounts", mount.type,
                     "add bind or rbind to the options")
