"""Rules to BPF through libseccomp, and the cache of what came out. One thin layer over csrc/seccomp.c.

    key known and entry good:  read one file                       (no library opened)
    otherwise:                 dlopen, build, ENOSYS prologue, store

Docker's default profile (some 400 names, three architectures, 10 KB of BPF), best of 50 runs on a 2-core virtual
machine: kernel_inputs 0.006 ms, a hit 0.025 ms, a miss 15 ms, nearly all of it in libseccomp, storing 0.3 ms.

A cache entry is trusted only when nobody else could have written it: directory and file belong to us, are closed to
others, are no links, and the contents carry their own key and checksum. Anything else is ignored and replaced. An
entry names the libseccomp it was made with and holds while that file is unchanged, so that a hit asks for one stat
and not for the library (DESIGN, runtime 10; S6).
"""

from __future__ import annotations

import posix
from _blake2 import blake2b
from _struct import Struct
from _thread import get_ident
from time import time_ns

from pyruntime.errors import HostError
from pyruntime.native._ext import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    Compiled = tuple[bytes, tuple[str, ...]]  # BPF, warnings
    Conditions = tuple[tuple[int, int, int, int], ...]  # all must hold

    class Rules(Protocol):
        """What compile_filter reads; plan.seccomp.SeccompRules has it."""

        @property
        def default_action(self) -> int: ...
        @property
        def architectures(self) -> tuple[str, ...]: ...
        @property
        def groups(self) -> tuple[tuple[tuple[str, ...], int, tuple[Conditions, ...]], ...]: ...
        @property
        def named(self) -> tuple[str, ...]: ...
        @property
        def enosys(self) -> bool: ...


FIELD = "/linux/seccomp"
INSTRUCTION_SIZE = 8  # struct sock_filter
MAX_BPF = 4096 * INSTRUCTION_SIZE  # BPF_MAXINSNS
TREE_FROM = 33  # rules; a shorter list is quicker as it is (contract 4.9)
ACTIONS_AVAIL = "/proc/sys/kernel/seccomp/actions_avail"

# A cache entry: header, path of the library, warnings (lines), BPF.
HEADER = Struct("<8s32s20s4qIII")  # magic, checksum of what follows it, key, library dev ino size mtime_ns, lengths
CHECKED_FROM = 40
MAGIC = b"PRSCMP\0\1"
MAX_ENTRY = HEADER.size + 4096 + 65536 + MAX_BPF
MAX_ENTRIES = 128
KEY_DIGITS = 40


def kernel_inputs() -> tuple[str, ...]:
    """What the kernel and the loader add to a cache key: its release and build, its actions, LD_LIBRARY_PATH."""
    uname = posix.uname()
    search = posix.environ.get(b"LD_LIBRARY_PATH", b"")
    return (uname.release, uname.version, _read_text(ACTIONS_AVAIL), search.hex())


def compile_filter(rules: Rules) -> Compiled:
    """The BPF of `rules` and warnings for the user. Names that libseccomp does not know are left out.

    Raises HostError when libseccomp is missing or refuses: no container starts without the filter it asked for (S5).
    """
    from pyruntime.native.seccomp_stub import prologue

    handle = _open()
    try:
        tokens = _fill(handle, rules)
        bpf = _export(handle)
        if not rules.enosys:
            return bpf, ()
        newest = {name: _newest(handle, token, rules) for name, token in tokens.items()}
        front, warnings = prologue([(name, tokens[name], newest[name]) for name in tokens])
    finally:
        lib.pr_filter_close(handle)
    if len(front) + len(bpf) > MAX_BPF:
        raise HostError("seccomp filter is longer than the kernel's 4096 instructions", field=FIELD)
    return front + bpf, warnings


def unknown_names(rules: Rules) -> tuple[str, ...]:
    """System calls of the rules that this libseccomp does not know, in order; for `validate` and the debug log."""
    handle = _open()
    try:
        names = dict.fromkeys(name for group in rules.groups for name in group[0])
        return tuple(name for name in names if lib.pr_filter_number(handle, 0, name.encode()) == -1)
    finally:
        lib.pr_filter_close(handle)


def architecture_known(name: str) -> bool:
    """Whether this libseccomp makes filters for an architecture, by its own name ("x86_64")."""
    handle = _open()
    try:
        lib.pr_filter_begin(handle, 0x7FFF0000, 0)
        return bool(lib.pr_filter_arch(handle, name.encode(), ffi.new("uint32_t *")) >= 0)
    finally:
        lib.pr_filter_close(handle)


def libseccomp_version() -> str:
    """The version as "2.5.4", or "" when there is no libseccomp."""
    version = _version()
    return ".".join(str(number) for number in version[:3]) if version else ""


def api_level() -> int:
    """The API level of libseccomp on this kernel (seccomp_api_get(3)); 0 without the library."""
    version = _version()
    return version[3] if version else 0


def flag_supported(flag: int) -> bool:
    """Whether the kernel knows that SECCOMP_FILTER_FLAG_* number."""
    return bool(lib.pr_seccomp_flag_supported(flag))


def supported_actions() -> tuple[str, ...]:
    """The kernel's own words for its actions ("errno", "user_notif"), strictest first; () before Linux 4.14."""
    return tuple(_read_text(ACTIONS_AVAIL).split())


def cached_filter(cache_dir: str, key: str, make: Callable[[], Compiled]) -> Compiled:
    """The entry `key` of the cache, or else what `make` returns, which is then stored.

    `cache_dir` is made (0700) when its parent exists. A cache that cannot be used costs time and is no error; what
    `make` raises is passed on. At most MAX_ENTRIES are kept, the oldest go. Safe with other threads and processes.
    """
    folder = _open_folder(cache_dir)
    if folder < 0:
        return make()
    try:
        found = _load(folder, key)
        if found is None:
            found = make()
            _store(folder, key, found)
        return found
    finally:
        posix.close(folder)


def _open() -> Any:
    """A handle on libseccomp; the caller closes it."""
    message = ffi.new("char[512]")
    handle = lib.pr_filter_open(message, 512)
    if handle == ffi.NULL:
        words = ffi.string(message).decode("utf-8", "replace")
        raise HostError(
            f"unable to init seccomp: cannot load libseccomp: {words}", field=FIELD,
            hint="install libseccomp (Debian: libseccomp2)",
        )  # fmt: skip
    return handle


def _version() -> tuple[int, ...] | None:
    """(major, minor, micro, API level), or None without the library."""
    try:
        handle = _open()
    except HostError:
        return None
    try:
        numbers = ffi.new("unsigned int[4]")
        lib.pr_filter_version(handle, numbers)
        return tuple(numbers)
    finally:
        lib.pr_filter_close(handle)


def _fill(handle: Any, rules: Rules) -> dict[str, int]:
    """Default action, architectures and rules into the handle. Returns the number of each architecture."""
    count = sum(len(names) * len(alternatives) for names, _, alternatives in rules.groups)
    _check(
        lib.pr_filter_begin(handle, rules.default_action, 1 if count >= TREE_FROM else 0),
        "error creating filter", "/defaultAction",
    )  # fmt: skip
    token = ffi.new("uint32_t *")
    tokens = {}
    for name in rules.architectures:
        _check(lib.pr_filter_arch(handle, name.encode(), token),
               f"error adding architecture {name} to seccomp filter", "/architectures")  # fmt: skip
        tokens[name] = token[0]
    for names, action, alternatives in rules.groups:
        for conditions in alternatives:
            array = ffi.new("struct pr_condition[]", list(conditions)) if conditions else ffi.NULL
            for name in names:
                result = lib.pr_filter_rule(handle, name.encode(), action, array, len(conditions))
                _check(result, f"error adding seccomp filter rule for syscall {name}", "/syscalls")
    return tokens


def _export(handle: Any) -> bytes:
    """The program, without our prologue."""
    buffer = ffi.new(f"char[{MAX_BPF}]")
    size = _check(lib.pr_filter_export(handle, buffer, MAX_BPF), "error exporting seccomp filter", "")
    if not size or size % INSTRUCTION_SIZE:
        raise HostError(f"libseccomp exported {size} bytes, which is no program", field=FIELD)
    return bytes(ffi.buffer(buffer, size))


def _newest(handle: Any, token: int, rules: Rules) -> list[int]:
    """Numbers that the profile's names have on one architecture, also of rules that repeat the default."""
    number = lib.pr_filter_number
    found = [number(handle, token, name.encode()) for group in rules.groups for name in group[0]]
    found += [number(handle, token, name.encode()) for name in rules.named]
    return [value for value in found if value >= 0]


def _check(result: int, what: str, pointer: str) -> int:
    """`result`, or HostError when it is -errno."""
    if result >= 0:
        return int(result)
    raise HostError(
        f"unable to init seccomp: {what}: {posix.strerror(-result)}", errno=-result, field=FIELD + pointer,
        hint=f"libseccomp {libseccomp_version()} refused it on this kernel",
    )  # fmt: skip


def _read_text(path: str) -> str:
    """A small file of /proc, "" when it is missing."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return posix.read(fd, 4096).decode("ascii", "replace")
    finally:
        posix.close(fd)


# ---- the cache ------------------------------------------------------------------------------------------------------


def _open_folder(path: str) -> int:
    """A descriptor of the cache directory, or -1 when there is none that only we can write."""
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        fd = posix.open(path, flags)
    except FileNotFoundError:
        try:
            posix.mkdir(path, 0o700)
            fd = posix.open(path, flags)
        except OSError:
            return -1
    except OSError:
        return -1
    found = posix.fstat(fd)
    if found.st_uid == posix.geteuid() and not found.st_mode & 0o077:
        return fd
    posix.close(fd)
    return -1


def _load(folder: int, key: str) -> Compiled | None:
    """The entry, or None when it is missing, damaged, not ours, or of another libseccomp."""
    data = _read_entry(folder, key)
    if len(data) < HEADER.size:
        return None
    magic, checksum, its_key, *rest = HEADER.unpack_from(data)
    identity, (path_size, warnings_size, bpf_size) = tuple(rest[:4]), rest[4:]
    path_end = HEADER.size + path_size
    warnings_end = path_end + warnings_size
    if (
        magic != MAGIC
        or its_key != bytes.fromhex(key)
        or len(data) != warnings_end + bpf_size
        or not _is_program_size(bpf_size)
        or checksum != blake2b(data[CHECKED_FROM:], digest_size=32).digest()
        or identity != _identity(data[HEADER.size : path_end])
    ):
        return None
    warnings = data[path_end:warnings_end].decode("utf-8", "replace")
    return data[warnings_end:], tuple(warnings.split("\n")) if warnings else ()


def _is_program_size(size: int) -> bool:
    """Whether a program can have that many bytes."""
    return 0 < size <= MAX_BPF and size % INSTRUCTION_SIZE == 0


def _read_entry(folder: int, key: str) -> bytes:
    """The bytes of an entry that only we can have written, else b""."""
    try:
        # O_NONBLOCK: a FIFO in its place must not hold us up
        fd = posix.open(key, posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    try:
        found = posix.fstat(fd)
        ours = found.st_uid == posix.geteuid() and found.st_mode & 0o170022 == 0o100000  # a regular file, no writers
        return posix.read(fd, MAX_ENTRY) if ours and found.st_size <= MAX_ENTRY else b""
    finally:
        posix.close(fd)


def _identity(path: bytes) -> tuple[int, int, int, int] | None:
    """What tells one version of a library file from the next, or None when it is gone."""
    try:
        found = posix.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _library() -> bytes:
    """The path that the loader finds libseccomp under, or b""."""
    handle = _open()
    try:
        path = ffi.new("char[4096]")
        size = lib.pr_filter_library(handle, path, 4096)
        return bytes(ffi.buffer(path, size)) if size > 0 else b""
    finally:
        lib.pr_filter_close(handle)


def _store(folder: int, key: str, made: Compiled) -> None:
    """Writes the entry whole or not at all; a failure leaves the cache as it was."""
    bpf, warnings = made
    library = _library()
    identity = _identity(library)
    if identity is None:
        return
    lines = "\n".join(warnings).encode("utf-8", "replace")
    body = HEADER.pack(MAGIC, bytes(32), bytes.fromhex(key), *identity, len(library), len(lines), len(bpf))
    body = body[CHECKED_FROM:] + library + lines + bpf
    data = MAGIC + blake2b(body, digest_size=32).digest() + body
    name = f"{key}.{posix.getpid():x}.{get_ident():x}.{time_ns():x}"
    try:
        _prune(folder)
        fd = posix.open(
            name, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600,
            dir_fd=folder,
        )  # fmt: skip
    except OSError:
        return
    try:
        written = posix.write(fd, data)
        if written == len(data):
            posix.rename(name, key, src_dir_fd=folder, dst_dir_fd=folder)
            return
    except OSError:
        pass
    finally:
        posix.close(fd)
    _unlink(folder, name)


def _prune(folder: int) -> None:
    """Makes room for one more entry: the oldest files with names of ours go, half-written ones among them."""
    names = [name for name in posix.listdir(folder) if _is_ours(name)]
    if len(names) < MAX_ENTRIES:
        return
    aged = sorted((posix.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns, name) for name in names)
    for _, name in aged[: len(aged) - MAX_ENTRIES // 2]:
        _unlink(folder, name)


def _is_ours(name: str) -> bool:
    """Whether a file name is a key, alone or with the suffix of a temporary file."""
    key, rest = name[:KEY_DIGITS], name[KEY_DIGITS:]
    return len(key) == KEY_DIGITS and not key.strip("0123456789abcdef") and rest[:1] in ("", ".")


def _unlink(folder: int, name: str) -> None:
    """Removes a file; another process may have been quicker."""
    try:
        posix.unlink(name, dir_fd=folder)
    except OSError:
        pass
