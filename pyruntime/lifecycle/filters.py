"""Seccomp for lifecycle: rules of the spec to the BPF that the plan carries, through the cache beside the root."""

from __future__ import annotations

from binascii import a2b_base64

from pyruntime.errors import SpecError
from pyruntime.native import seccomp as native
from pyruntime.plan import seccomp as rules
from pyruntime.spec.annotations import SECCOMP_BPF, SECCOMP_STRICT
from pyruntime.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.host.facts import HostFacts
    from pyruntime.lifecycle.settings import Settings
    from pyruntime.spec.linux import Seccomp

INSTRUCTION, MAX_INSTRUCTIONS = 8, 4096  # struct sock_filter, BPF_MAXINSNS

def raw_filter(text: str) -> bytes:
    """The filter of an annotation. Raises SpecError unless it is base64 of whole instructions, as many as fit."""
    try:
        bpf = a2b_base64(text.encode(), strict_mode=True)
    except ValueError:
        bpf = b""
    if not bpf or len(bpf) % INSTRUCTION or len(bpf) > MAX_INSTRUCTIONS * INSTRUCTION:
        raise SpecError("invalid seccomp filter in an annotation", field=f"/annotations/{SECCOMP_BPF}",
                        value=f"{len(bpf)} bytes", hint="base64 of struct sock_filter, 1 to 4096 of 8 bytes each")
    return bpf


def check_names(seccomp: Seccomp, host: HostFacts) -> None:
    """Raises SpecError for a system call that libseccomp does not know; for who wants no name left out."""
    normal = rules.normalise(seccomp, host)
    unknown = native.unknown_names(normal) if normal is not None else ()
    if unknown:
        raise SpecError(f"unknown system call {unknown[0]} in the seccomp profile", field="/linux/seccomp/syscalls",
                        value=" ".join(unknown), hint=f"correct the name, or leave {SECCOMP_STRICT} out")


def blobs(settings: Settings, seccomp: Seccomp, host: HostFacts, document: dict[str, Any]) -> dict[str, bytes]:
    """{"seccomp": BPF}, or {} for a profile that filters nothing. Raises HostError when it cannot be built (S5)."""
    def make() -> tuple[bytes, tuple[str, ...]]:
        normal = rules.normalise(seccomp, host)
        assert normal is not None
        return native.compile_filter(normal)

    if not seccomp.default_action and not seccomp.syscalls:
        return {}
    annotations = document.get("annotations") or {}
    if annotations.get(SECCOMP_BPF):
        return {"seccomp": raw_filter(annotations[SECCOMP_BPF])}
    if annotations.get(SECCOMP_STRICT) == "1":
        check_names(seccomp, host)
    key = rules.cache_key(document["linux"]["seccomp"], host.machine, VERSION, *native.kernel_inputs())
    bpf, warnings = native.cached_filter(settings.cache, key, make)
    for text in warnings:
        settings.warn(text)
    return {"seccomp": bpf}
