"""Annotations that change what is done, crun's names kept (contract 5). All others are stored and shown by `state`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.reader import Reader

SECCOMP_RECEIVER = "run.oci.seccomp.receiver"  # listenerPath, where the profile has none
SECCOMP_BPF = "run.oci.seccomp_bpf_data"  # base64 of struct sock_filter[], in place of the profile
SECCOMP_STRICT = "run.oci.seccomp_fail_unknown_syscall"  # "1": a name that is not known is an error
PIDFD_RECEIVER = "run.oci.pidfd_receiver"  # as --pidfd-socket
SUBGROUP = "run.oci.systemd.subgroup"  # a cgroup below the unit, which the container has instead of the unit's
DELEGATE = "run.oci.delegate-cgroup"  # a cgroup below the container's, without limits, in which its program starts
FORCE_V1 = "run.oci.systemd.force_cgroup_v1"  # where the host's v1 tree name=systemd is mounted for an old systemd
HOOK_STDOUT, HOOK_STDERR = "run.oci.hooks.stdout", "run.oci.hooks.stderr"  # files that hooks' output is appended to
KEPT = frozenset((SECCOMP_RECEIVER, SECCOMP_BPF))


def resolve(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with what its annotations say about linux.seccomp; the same object when they say nothing."""
    annotations = document.get("annotations")
    linux = document.get("linux")
    if not isinstance(annotations, dict) or not isinstance(linux, dict) or not KEPT & annotations.keys():
        return document
    seccomp = linux.get("seccomp")
    if annotations.get(SECCOMP_BPF):
        seccomp = {**(seccomp or {}), "defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    receiver = annotations.get(SECCOMP_RECEIVER)
    if receiver and isinstance(seccomp, dict) and not seccomp.get("listenerPath"):
        seccomp = {**seccomp, "listenerPath": receiver}
    return document if seccomp is linux.get("seccomp") else {**document, "linux": {**linux, "seccomp": seccomp}}


def check_annotations(reader: Reader, annotations: tuple[tuple[str, str], ...]) -> None:
    """An error for each value that can never be right. An empty one asks for nothing."""
    for name, text in annotations:
        if not name.startswith("run.oci.") or not text:
            continue
        wrong = hint = ""
        if name == SUBGROUP and ("/" in text or text in (".", "..") or text.endswith((".scope", ".slice"))):
            wrong, hint = "does not name a cgroup below the unit", "one name without slashes, such as container"
        elif name == DELEGATE and (text.startswith("/") or not all(part not in ("", ".", "..") for part in text.split("/"))):
            wrong, hint = "does not lie below the container's cgroup", "a name, or several with slashes, such as init"
        elif name in (HOOK_STDOUT, HOOK_STDERR) and text[:1] != "/":
            wrong, hint = "is not an absolute path", "a file of the host, such as /var/log/hooks.log"
        elif name == FORCE_V1 and (text[:1] != "/" or not text.strip("/.")):
            wrong, hint = "is not an absolute path", "a mount point in the container, such as /sys/fs/cgroup/systemd"
        if wrong:
            from pyruntime.spec.reader import LATER

            reader.error(LATER, f"/annotations/{name}", f"annotation {name}: {text} {wrong}", text, hint)
