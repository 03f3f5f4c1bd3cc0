"""`python -m pyruntime`."""

from __future__ import annotations

import sys

from pyruntime.cli.main import entry

if __name__ == "__main__":
    sys.argv[0] = "pyruntime"
    entry()
