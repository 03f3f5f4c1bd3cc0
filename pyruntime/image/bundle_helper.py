"""Work in a root file system of subordinate ids, with the rights of their namespace's root: a program of bundle.py.

    bundle_helper.py STATUS PACKAGES make ROOTFS PATH...    the directories, with their parents, inside the root
    bundle_helper.py STATUS PACKAGES empty ROOTFS           takes all of it away

Prints what went wrong, nothing when all is well. Paths are resolved inside the root alone (inroot.py).
"""

from __future__ import annotations

import os
import sys


def main(words: list[str]) -> None:
    """Enters the namespace, then does the one job."""
    status, packages, job, rootfs, *paths = words
    sys.path[:] = packages.split(":")
    from pyruntime.native._unpack import lib

    if (number := lib.unpack_user_namespace(int(status))) < 0:
        print(f"a user namespace: {os.strerror(-number)}")
    elif job == "make":
        _make(rootfs, paths)
    else:
        from pyruntime.image.unpack import empty_directory

        empty_directory(rootfs)


def _make(rootfs: str, paths: list[str]) -> None:
    from pyruntime.image.inroot import make_directories

    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for path in paths:
        try:
            os.close(make_directories(root_fd, path))
        except OSError as error:
            print(f"{path}: {error.strerror}")
            return


if __name__ == "__main__":
    main(sys.argv[1:])
