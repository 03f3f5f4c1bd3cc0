"""Platforms: what an image is made for, and which entry of an index fits a machine (image-spec image-index.md)."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pyruntime.errors import ImageNotFound, InvalidReference
from pyruntime.record import Record

if TYPE_CHECKING:
    from pyruntime.image.media import Descriptor, Index

# name as uname, Debian or users write it -> (architecture, variant) of GOARCH
ARCHITECTURES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "aarch64": ("arm64", ""), "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"), "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""),
    "armv8l": ("arm", "v7"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"), "armv5tel": ("arm", "v5"),
    "loongarch64": ("loong64", ""),
}
KNOWN_ARCHITECTURES = frozenset(
    "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm".split()
)
KNOWN_SYSTEMS = frozenset("linux windows darwin freebsd netbsd openbsd solaris illumos plan9 aix android wasip1".split())
_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")


class Platform(Record):
    """What an image runs on, normalised: GOOS and GOARCH names; `variant` is "" where the default one is meant."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def normalise(system: str, architecture: str, variant: str = "", os_version: str = "") -> Platform:
    """The platform under its usual names: x86_64 is amd64, armhf arm/v7, arm64/v8 arm64, arm arm/v7."""
    system, architecture, variant = system.lower(), architecture.lower(), variant.lower()
    system = {"macos": "darwin"}.get(system, system)
    if architecture in ARCHITECTURES:
        architecture, implied = ARCHITECTURES[architecture]
        variant = variant or implied
    if variant and variant[0].isdigit() and architecture in {"arm", "arm64", "amd64"}:
        variant = f"v{variant}"
    if architecture == "arm" and not variant:
        variant = "v7"
    if (architecture, variant) in {("arm64", "v8"), ("amd64", "v1")}:
        variant = ""
    return Platform(system, architecture, variant, os_version)


def host_platform() -> Platform:
    """The machine's own platform, by uname(2)."""
    return normalise("linux", os.uname().machine)


def parse_platform(text: str) -> Platform:
    """The platform of `os`, `arch`, `os/arch` or `os/arch/variant`; what is not said is the host's.

    `arm/v7` is an architecture with its variant. Raises InvalidReference.
    """
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(_COMPONENT.fullmatch(part) for part in parts):
        raise InvalidReference(f"invalid platform {text!r}", value=text,
                               hint="write os/arch or os/arch/variant: linux/arm64")
    first = parts[0].lower()
    if first in KNOWN_ARCHITECTURES or first in ARCHITECTURES:
        if len(parts) < 3:
            return normalise("linux", *parts)
    elif first in KNOWN_SYSTEMS or first == "macos":
        if len(parts) == 1:
            return host_platform().replace(os=normalise(first, "").os)
        return normalise(*parts)
    elif len(parts) > 1:
        return normalise(*parts)
    raise InvalidReference(f"invalid platform {text!r}: unknown operating system or architecture", value=text,
                           hint="write os/arch or os/arch/variant: linux/arm64")


def _fallbacks(wanted: Platform) -> list[tuple[str, str]]:
    """(architecture, variant) a machine of this platform runs, best first."""
    variant = wanted.variant
    found = [(wanted.architecture, variant)]
    if wanted.architecture == "arm":
        lower = [v for v in ("v8", "v7", "v6", "v5") if v < variant]
        found += [("arm", v) for v in lower]
    elif wanted.architecture == "amd64":
        lower = [v for v in ("v4", "v3", "v2") if v < variant]
        found += [("amd64", v) for v in lower]
        if variant:
            found.append(("amd64", ""))
        found.append(("386", ""))
    elif wanted.architecture == "arm64" and variant:
        found.append(("arm64", ""))
    return found


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` fits a machine that is `wanted`: 0 is exact, larger is worse, None does not fit."""
    if offered.os != wanted.os:
        return None
    if wanted.os_version and offered.os_version and wanted.os_version != offered.os_version:
        return None
    choices = _fallbacks(wanted)
    pair = (offered.architecture, offered.variant)
    return choices.index(pair) if pair in choices else None


def select(index: Index, wanted: Platform) -> Descriptor:
    """The entry of `index` for the platform: the best rank, the first among equals.

    An entry that names no platform, a manifest or an index of its own, is taken when nothing else fits: its config
    tells. Attestations are never taken. Raises ImageNotFound that lists what is offered.
    """
    best: tuple[int, int] | None = None
    offered: list[str] = []
    for number, entry in enumerate(index.manifests):
        if entry.is_attestation or not (entry.is_manifest or entry.is_index):
            continue
        if entry.platform is None:
            found: int | None = 1000
        else:
            found = rank(wanted, entry.platform)
            offered.append(str(entry.platform))
        if found is not None and (best is None or found < best[0]):
            best = (found, number)
    if best is None:
        names = ", ".join(dict.fromkeys(offered)) or "none"
        raise ImageNotFound(f"no matching manifest for {wanted} in the manifest list entries", value=str(wanted),
                            hint=f"platforms offered: {names}")
    return index.manifests[best[1]]
