"""No attack hangs a test: the limits of the system tier hold here too."""

from __future__ import annotations

from tests.system.conftest import limit

__all__ = ["limit"]
