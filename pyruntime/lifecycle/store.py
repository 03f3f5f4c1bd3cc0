"""The store of containers: one directory each below the state root, and what may be believed of it.

    ROOT (0700)/ID (0711)/identity     who this is; written before anything is made (DESIGN, runtime 5)
                          state.json   replaced by rename; its presence means that create came to `ready` (0600)
                          exec.fifo    start to init (0622)
                          exec.err     init to start (0622)
                          seccomp.bpf  the filter, for exec
                          notify/      NOTIFY_SOCKET's directory
                          criu-root/   where restore binds the rootfs while criu works

Rules:
1. mkdir of ROOT/ID decides who gets an id. Everything after it happens under flock(2) on that directory.
2. `identity` is lines of `crc32 json`. The first (token, cgroup paths, which of them are ours) is written before the
   first cgroup exists; the second (pid, start time) before init passes its first barrier. Lines that do not check are
   skipped: what is left is still enough for `delete --force`.
3. A directory with neither a valid identity nor a valid state.json is foreign: named, never touched. An empty one, or
   one with only our own names and no byte in `identity`, may go.
4. Files outlive the runtime's death at any instant, by write and rename. They are not fsynced: that would only help
   against a power failure, after which no process and no cgroup is left to find. What a file system can make of the
   files then (names without contents) is the empty directory of rule 3. Measured where the state root is on ext4:
   three fsyncs were 1.5 of 11 ms of a `run`; on a tmpfs, which /run mostly is, they cost nothing and do nothing.
5. Removal unlinks names we know and the directory, never recursively.
"""

from __future__ import annotations

from binascii import crc32, hexlify
from errno import EACCES, EEXIST, ENOENT, ENOTDIR
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from posix import (
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_TRUNC,
    O_WRONLY,
    close,
    fchmod,
    fstat,
    listdir,
    mkdir,
    open,
    read,
    rename,
    rmdir,
    stat,
    unlink,
    urandom,
    write,
)
from time import monotonic

from pyruntime.errors import ExistsError, HostError, NotFoundError
from pyruntime.record import Record
from pyruntime.spec import document
from pyruntime.spec.ids import check_container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
WRITTEN = ("state.json", "seccomp.bpf")  # by write and rename, as `identity` is: a call killed between leaves NAME.tmp
NAMES = (*WRITTEN, "exec.fifo", "exec.err", *(f"{name}.tmp" for name in (*WRITTEN, "identity")), "identity")
CRIU_ROOT = "criu-root"
NOTIFY_NAMES = ("notify.sock",)
LOCK_TIMEOUT_S = 30.0
STATE_TYPES = (("config", dict), ("init_process_pid", int), ("init_process_start", int), ("cgroup_paths", dict),
               ("bundle", str), ("rootfs", str), ("created", str))  # what every verb relies on
MAX_FILE = 64 * 1024 * 1024


class Identity(Record):
    """What `identity` says. `cgroup_paths`: (controller, directory); `created`: the directories that are ours."""

    id: str
    token: str
    driver: str = "cgroupfs"
    cgroup_paths: tuple[tuple[str, str], ...] = ()
    created: tuple[str, ...] = ()
    pid: int = 0
    start_time: int = 0


def new_token() -> str:
    """128 random bits as hex: tells two containers of one id apart."""
    return hexlify(urandom(16)).decode()


def _line(value: dict[str, Any]) -> bytes:
    text = document.dump(value).encode("utf-8", "surrogateescape")
    return b"%08x %s\n" % (crc32(text), text)


def _lines(data: bytes) -> list[dict[str, Any]]:
    """The records of an identity file that check, in order."""
    found = []
    for line in data.split(b"\n"):
        head, _, text = line.partition(b" ")
        if len(head) == 8 and head == b"%08x" % crc32(text):
            try:
                found.append(document.load(text, name="identity"))
            except Exception as failure:  # noqa: BLE001 - a checksum that fits a damaged line: skip it
                del failure
    return found


def refused_hint(root: str, error: OSError) -> str:
    """What to do where the state root is another user's, "" for other errors."""
    if error.errno != EACCES:
        return ""
    return f"{root} is not this user's: set XDG_RUNTIME_DIR to a folder that is, or name one with --root"


def make_root(root: str) -> None:
    """Create the state root, 0700 whatever the umask. Raises HostError."""
    try:
        mkdir(root, 0o700)
    except OSError as error:
        if error.errno == EEXIST:
            return
        parent = root.rpartition("/")[0]
        if error.errno != ENOENT or not parent:
            raise HostError(f"mkdir {root}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                            hint="name another state root with --root") from error
        make_root(parent)
        try:
            mkdir(root, 0o700)
        except FileExistsError:  # another call was quicker
            return
    fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    fchmod(fd, 0o700)
    close(fd)


class Entry:
    """An open container directory. A context manager; closing it lets its lock go."""

    def __init__(self, root: str, container_id: str, fd: int) -> None:
        self.root, self.id, self.fd = root, container_id, fd
        self.path = f"{root}/{container_id}"

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    def lock(self) -> None:
        """Wait for the container's lock, at most half a minute. Raises HostError: another call is still at work.

        What a call changes it changes under this lock, so signals are guarded from here on (native/wait.py).
        """
        from pyruntime.native import wait

        wait.guard()
        pause = 0.002
        deadline = monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                flock(self.fd, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                if monotonic() > deadline:
                    raise HostError(f"container {self.id} is busy", hint="another call works on it and does not end; "
                                    "delete --force ends both") from None
            else:
                return
            wait.pause(pause)
            pause = min(pause * 2, 0.05)

    def locked_elsewhere(self) -> bool:
        """Whether a verb that changes the container is at work."""
        fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, dir_fd=self.fd)
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except OSError:
            return True
        else:
            return False
        finally:
            close(fd)

    def read(self, name: str) -> bytes | None:
        """The file's bytes, None when it is not there or is no plain file; a FIFO in its place is not waited for."""
        try:
            fd = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW, dir_fd=self.fd)
        except OSError:
            return None
        try:
            there = fstat(fd)
            plain = there.st_mode & 0o170000 == 0o100000 and there.st_size < MAX_FILE  # S_IFMT, S_IFREG
            return read(fd, there.st_size + 1) if plain else None
        except OSError:
            return None
        finally:
            close(fd)

    def write(self, name: str, data: bytes) -> None:
        """Replace a file: write, rename. Raises OSError, the old file untouched."""
        temporary = f"{name}.tmp"
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600, dir_fd=self.fd)
        try:
            fchmod(fd, 0o600)
            _write_all(fd, data)
        finally:
            close(fd)
        rename(temporary, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def write_identity(self, identity: Identity) -> None:
        """The first record."""
        value = {"version": FORMAT, "id": identity.id, "token": identity.token, "driver": identity.driver,
                 "cgroup_paths": dict(identity.cgroup_paths), "created": list(identity.created)}
        self.write("identity", _line(value))

    def append_identity(self, pid: int, start_time: int) -> None:
        """The second record: who init is."""
        fd = open("identity", O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW, dir_fd=self.fd)
        try:
            _write_all(fd, _line({"pid": pid, "start_time": start_time}))
        finally:
            close(fd)

    def identity(self) -> Identity | None:
        """What `identity` still says, None without a valid first record."""
        merged: dict[str, Any] = {}
        for record in _lines(self.read("identity") or b""):
            merged.update(record)
        if merged.get("version") != FORMAT or "token" not in merged:
            return None
        return Identity(self.id, str(merged["token"]), str(merged["driver"]), tuple(merged["cgroup_paths"].items()),
                        tuple(merged["created"]), int(merged.get("pid", 0)), int(merged.get("start_time", 0)))

    def state(self) -> dict[str, Any] | None:
        """state.json, None when it is absent or damaged."""
        data = self.read("state.json")
        if data is None:
            return None
        try:
            value = document.load(data, name="state.json")
        except Exception as failure:  # noqa: BLE001 - any damage means the same: not usable
            del failure
            return None
        good = value.get("id") == self.id and all(isinstance(value.get(key), kind) for key, kind in STATE_TYPES)
        return value if good else None

    def drop(self, *names: str) -> None:
        """Unlink files that have served; not there is fine."""
        for name in names:
            _unlink(name, self.fd)

    def foreign_names(self) -> list[str]:
        """What makes the directory another's: names that are not ours, or an `identity` that does not check."""
        found = [name for name in listdir(self.fd) if name not in (*NAMES, "notify", CRIU_ROOT)]
        return found + [name for name in ("identity", "state.json") if self.read(name)]

    def remove(self, *, damaged: bool = False) -> None:
        """Unlink what is ours and the directory. Raises HostError when something else is in it.

        What says whose it is goes last: state.json, by which it is `stopped` until then to whoever looks meanwhile, or
        `identity` when that file is `damaged`.
        """
        last = ("state.json", "identity") if damaged else ("identity", "state.json")
        for name in NAMES:
            if name not in last:
                _unlink(name, self.fd)
        self._remove_notify()
        self.drop_criu_root()
        for name in last:
            _unlink(name, self.fd)
        try:
            rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            left = [name for name in listdir(self.fd) if name not in NAMES]
            raise HostError(f"unable to remove {self.path}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                            value=" ".join(left), hint="a file that is not the runtime's lies in it") from error

    def make_criu_root(self) -> str:
        """The path of an empty folder for the rootfs to be bound on."""
        mkdir(CRIU_ROOT, 0o700, dir_fd=self.fd)
        return f"{self.path}/{CRIU_ROOT}"

    def drop_criu_root(self) -> None:
        """Take away that mount and its folder; not there is fine."""
        try:
            rmdir(CRIU_ROOT, dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError:
            from pyruntime.native import kernel

            kernel.umount(f"{self.path}/{CRIU_ROOT}", 2 | 8)  # MNT_DETACH, UMOUNT_NOFOLLOW
            rmdir(CRIU_ROOT, dir_fd=self.fd)

    def _remove_notify(self) -> None:
        try:
            fd = open("notify", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return
        for name in NOTIFY_NAMES:
            _unlink(name, fd)
        close(fd)
        rmdir("notify", dir_fd=self.fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[write(fd, view) :]


def _unlink(name: str, dir_fd: int) -> None:
    try:
        unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass


def claim(root: str, container_id: str) -> Entry:
    """Take the id: the directory is made, opened and locked. Raises ExistsError when somebody has it."""
    from pyruntime.native import wait

    make_root(root)
    path = f"{root}/{container_id}"
    wait.guard()
    try:
        mkdir(path, 0o711)
    except OSError as error:
        if error.errno != EEXIST:
            raise HostError(f"mkdir {path}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                            hint=refused_hint(root, error)) from error
        raise ExistsError("container with given ID already exists", value=container_id,
                          hint=f"delete it first, or use another id; its state is in {path}") from error
    try:
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    except OSError:
        rmdir(path)
        raise
    entry = Entry(root, container_id, fd)
    try:
        fchmod(fd, 0o711)
        entry.lock()
        if not is_current(entry):  # an empty directory may go (rule 3), and somebody was quicker with that
            raise HostError("the container was deleted while it was being created", value=container_id)
    except BaseException:
        if is_current(entry):
            rmdir(path)
        entry.__exit__()
        raise
    return entry


def lookup(root: str, container_id: str) -> Entry:
    """The entry of an id, unlocked. Raises NotFoundError, also for a name that is no directory."""
    check_container_id(container_id)
    try:
        fd = open(f"{root}/{container_id}", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR):
            raise NotFoundError("container does not exist", value=container_id,
                                hint=f"`pyruntime list` shows the containers below {root}") from error
        raise HostError(f"open {root}/{container_id}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                        hint=refused_hint(root, error)) from error
    return Entry(root, container_id, fd)


def is_current(entry: Entry) -> bool:
    """Whether the directory still has its name (it may have been removed while we waited for the lock)."""
    try:
        there = stat(entry.path, follow_symlinks=False)
    except OSError:
        return False
    here = fstat(entry.fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
