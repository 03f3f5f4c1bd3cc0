"""The product's version. COMMIT is written by the build when the source is a git checkout, else ""."""

from __future__ import annotations

VERSION = "0.1.0"
SPEC_VERSION = "1.3.0"  # of opencontainers/runtime-spec
