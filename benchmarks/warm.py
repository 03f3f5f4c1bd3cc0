"""A process that has the library loaded and runs containers when told: the other end of measures.Library.

Reads lines `BUNDLE ID` on stdin and answers each with `ok SECONDS` or `failed TEXT` on stdout.
"""

from __future__ import annotations

import os
import sys
import time

from pyruntime.errors import RuntimeFailure
from pyruntime.lifecycle.run import run
from pyruntime.lifecycle.settings import Settings


def main(root: str) -> None:
    """Until stdin ends. Containers get /dev/null for their stdio."""
    settings = Settings(root=root, cache=f"{root}-cache")
    null = os.open("/dev/null", os.O_RDWR)
    for line in sys.stdin:
        bundle, name = line.split()
        begin = time.perf_counter()
        try:
            status = run(settings, name, bundle, stdio=(null, null, null))
        except (RuntimeFailure, OSError) as error:
            print("failed", str(error).replace("\n", " "), flush=True)
            continue
        seconds = time.perf_counter() - begin
        print(f"ok {seconds}" if status == 0 else f"failed status {status}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
