"""`bundle`: an image becomes a folder that `pyruntime run` (or any OCI runtime) takes: rootfs/ and config.json.

The root file system is a full copy, unpacked layer by layer with the caller's rights: as root with the image's owners;
as a plain user in a user namespace with the ids that /etc/subuid and /etc/subgid grant, or the caller's own alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from errno import ENOENT
from typing import TYPE_CHECKING

from pyruntime.errors import HostError, InvalidImage, RuntimeFailure, UsageError
from pyruntime.image.apply import unpack_rootfs
from pyruntime.image.archive import Archived, read_images
from pyruntime.image.archive_blobs import FolderBlobs, StoreBlobs
from pyruntime.image.archive_contents import TarContents
from pyruntime.image.archive_store import stored_manifest
from pyruntime.image.inroot import make_directories
from pyruntime.image.platform import host_platform
from pyruntime.image.reference import parse_reference
from pyruntime.image.runtime_config import IdMap, RuntimeOptions, compile_config, volume_paths, working_dir
from pyruntime.image.unpack import PACKAGES, empty_directory
from pyruntime.image.unpack_maps import IdMaps, namespace_for, rootless_maps
from pyruntime.image.users import resolve_user
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyruntime.image.archive_blobs import Blobs
    from pyruntime.image.archive_inflate import Read
    from pyruntime.image.config import ImageConfig
    from pyruntime.image.platform import Platform
    from pyruntime.image.store import Store
    from pyruntime.image.users import User

    Say = Callable[[str], None]


HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bundle_helper.py")


class BundleOptions(Record):
    """`runtime`: see there; its hostname, architecture, maps and cgroup facts are filled in where they are not given.

    `user` and `groups` as in `docker run --user --group-add`; `user` "" is the image's.
    """

    runtime: RuntimeOptions = RuntimeOptions()
    user: str = ""
    groups: tuple[str, ...] = ()


def bundle_from_store(store: Store, text: str, path: str, *, options: BundleOptions | None = None,
                      say: Say | None = None) -> ImageConfig:
    """Makes the bundle of an image of the store in the new or empty folder `path`; the image's config.

    Raises ImageNotFound, UsageError for options that cannot be met, UnpackError; then nothing is left at `path`.
    """
    with store.lease() as lease:
        blobs = StoreBlobs(store, lease)
        image = store.find(text)
        found = Archived(stored_manifest(blobs, image), image.config)
        return make_bundle(blobs, found, path, options=options, say=say)


def bundle_from_archive(read: Read, path: str, *, name: str = "", platform: Platform | None = None,
                        options: BundleOptions | None = None, say: Say | None = None) -> ImageConfig:
    """The same from the archive that `read` gives: `docker save`, an OCI layout in a tar.

    Its content lies in `path` meanwhile. `name` tells which one where the archive has several: save of a name without a
    tag gives all of its tags, and `latest` is meant. Raises InvalidImage when that leaves not one.
    """
    with _new_folder(path), FolderBlobs(f"{path}/.content") as blobs:
        images = read_images(TarContents(read, blobs), platform=platform)
        if len(images) > 1 and name:
            wanted = parse_reference(name)
            images = [image for image in images if wanted in image.references] or images
        if len(images) != 1:
            raise InvalidImage(f"the archive holds {len(images)} images", hint="save one image alone, by name and tag")
        return _fill(blobs, images[0], path, options or BundleOptions(), say)


def make_bundle(blobs: Blobs, image: Archived, path: str, *, options: BundleOptions | None = None,
                say: Say | None = None) -> ImageConfig:
    """The same from an image whose content is in `blobs`."""
    with _new_folder(path):
        return _fill(blobs, image, path, options or BundleOptions(), say)


@contextlib.contextmanager
def _new_folder(path: str) -> Iterator[None]:
    """The folder `path`, made or empty; after a failure it is as before."""
    made = False
    try:
        os.mkdir(path, 0o755)
        made = True
    except FileExistsError:
        if not os.path.isdir(path) or os.listdir(path):
            raise UsageError(f"{path} exists and is not an empty folder", value=path, hint="name a new folder") from None
    except OSError as error:
        raise HostError(f"making {path}: {(error.strerror or '').lower()}", errno=error.errno or 0, value=path,
                        hint="the folder above it must be there" if error.errno == ENOENT else "") from None
    try:
        yield
    except BaseException:
        _clear(path, made=made)
        raise


def _clear(path: str, *, made: bool) -> None:
    """Takes away what a failed call has made. Files of subordinate ids go with their namespace's rights."""
    with contextlib.suppress(OSError):
        os.unlink(f"{path}/config.json")
    maps = rootless_maps()
    with contextlib.suppress(OSError, RuntimeFailure):
        if maps is None:
            empty_directory(f"{path}/rootfs")
        else:
            _in_namespace(maps, "empty", f"{path}/rootfs")
    for name in (f"{path}/rootfs", *([path] if made else [])):
        with contextlib.suppress(OSError):
            os.rmdir(name)


def _fill(blobs: Blobs, image: Archived, path: str, options: BundleOptions, say: Say | None) -> ImageConfig:
    rootfs = f"{path}/rootfs"
    os.mkdir(rootfs, 0o755)
    maps = rootless_maps()
    runtime = _completed(options.runtime, image.config, maps)
    warnings = unpack_rootfs(blobs, image, rootfs, id_maps=maps)
    root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        user = resolve_user(root_fd, options.user or image.config.config.get("User") or "", options.groups)
        document = compile_config(image.config, user, runtime)
        warnings += _unmapped(user, maps)
    finally:
        os.close(root_fd)
    # What the image names must be there, as Docker makes it: paths inside the root, whatever links say (S53).
    _make(rootfs, (working_dir(image.config, runtime), *volume_paths(image.config)), maps)
    _write_config(f"{path}/config.json", document)
    for text in warnings if say is not None else ():
        say(text)  # type: ignore[misc]
    return image.config


def _unmapped(user: User, maps: IdMaps | None) -> list[str]:
    """A warning when the user that the image names has no id in the caller's namespace."""
    if maps is None or any(first <= user.uid < first + count for first, _, count in maps.uids):
        return []
    return [f"user {user.uid} is none of the ids that this user may give: the container cannot start as it; take user 0, "
            "or have ranges of ids granted in /etc/subuid and /etc/subgid"]


def _make(rootfs: str, paths: Sequence[str], maps: IdMaps | None) -> None:
    if maps is not None:
        said = _in_namespace(maps, "make", rootfs, *paths)
    else:
        said = ""
        root_fd = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in paths:
                os.close(make_directories(root_fd, path))
        except OSError as error:
            said = f"{path}: {error.strerror}"
        finally:
            os.close(root_fd)
    if said:
        raise InvalidImage(f"a directory that the image names cannot be made: {said}", value=said,
                           hint="something else stands there in its files")


def _in_namespace(maps: IdMaps, job: str, rootfs: str, *paths: str) -> str:
    """Runs bundle_helper.py as root of the namespace; what went wrong, or ""."""
    import socket
    import subprocess

    namespace = namespace_for(maps)
    packages = ":".join([PACKAGES, *filter(os.path.isabs, sys.path)])
    here, there = socket.socketpair()
    with here:
        with there:
            helper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", HELPER, str(there.fileno()), packages, job,
                 os.path.abspath(rootfs), *paths],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(there.fileno(),),
                env={}, cwd="/", text=True, errors="replace")  # fmt: skip
        try:
            if here.recv(1) == b"U":
                namespace.write_maps(helper.pid)
                here.send(b"G")
        finally:
            here.close()
            said = helper.communicate()[0].strip()
    return said.splitlines()[-1] if said else ""


def _write_config(path: str, document: dict[str, object]) -> None:
    from pyruntime.spec.document import dump

    with open(path, "x", encoding="utf-8") as file:
        file.write(dump(document, indent="\t") + "\n")


def _completed(runtime: RuntimeOptions, config: ImageConfig, maps: IdMaps | None) -> RuntimeOptions:
    """The options with the facts of this machine and image filled in."""
    if not runtime.hostname:
        runtime = runtime.replace(hostname=config.digest.partition(":")[2][:12])
    if maps is not None:
        runtime = runtime.replace(uid_maps=_rows(maps.uids), gid_maps=_rows(maps.gids), rootless=True)
    return runtime.replace(architecture=host_platform().architecture, last_cap=_last_cap(),
                           cgroup_v2=runtime.cgroup_v2 or os.path.exists("/sys/fs/cgroup/cgroup.controllers"))


def _rows(rows: tuple[tuple[int, int, int], ...]) -> tuple[IdMap, ...]:
    return tuple(IdMap(*row) for row in rows)


def _last_cap() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            return int(file.read())
    except OSError:
        return RuntimeOptions().last_cap
