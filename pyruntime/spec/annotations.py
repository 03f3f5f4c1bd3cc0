"""Annotations that change what is done, crun's names kept (contract 5). All others are stored and shown by `state`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECCOMP_RECEIVER = "run.oci.seccomp.receiver"  # listenerPath, where the profile has none
SECCOMP_BPF = "run.oci.seccomp_bpf_data"  # base64 of struct sock_filter[], in place of the profile
SECCOMP_STRICT = "run.oci.seccomp_fail_unknown_syscall"  # "1": a name that is not known is an error
PIDFD_RECEIVER = "run.oci.pidfd_receiver"  # as --pidfd-socket
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
