"""Seccomp for lifecycle: rules of the spec to the BPF that the plan carries, through the cache beside the root."""

from __future__ import annotations

from pyruntime.native import seccomp as native
from pyruntime.plan import seccomp as rules
from pyruntime.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.host.facts import HostFacts
    from pyruntime.lifecycle.settings import Settings
    from pyruntime.spec.linux import Seccomp


def blobs(settings: Settings, seccomp: Seccomp, host: HostFacts, document: dict[str, Any]) -> dict[str, bytes]:
    """{"seccomp": BPF}, or {} for a profile that filters nothing. Raises HostError when it cannot be built (S5)."""
    def make() -> tuple[bytes, tuple[str, ...]]:
        normal = rules.normalise(seccomp, host)
        assert normal is not None
        return native.compile_filter(normal)

    if not seccomp.default_action and not seccomp.syscalls:
        return {}
    key = rules.cache_key(document["linux"]["seccomp"], host.machine, VERSION, *native.kernel_inputs())
    bpf, warnings = native.cached_filter(settings.cache, key, make)
    for text in warnings:
        settings.warn(text)
    return {"seccomp": bpf}
