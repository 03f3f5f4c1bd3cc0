"""restore: a container from the images of a checkpoint; criu in the place that container-init has in `create`.

    claim id -> identity -> cgroup steps of the plan -> criu, joined to the cgroups -> state.json -> release -> pid file
                                                          |  setup-namespaces: prestart and createRuntime hooks
                                                          |  post-restore: pid to identity, state.json
                                                          |  orphan-pts-master: the terminal's master end

1. criu wants a mount point as root: the rootfs is bound on criu-root in the container's state folder while it works. That
   is the one mount on the host; removing the container's state removes it too, so `delete --force` leaves none. (A mount
   namespace of criu's own will not do: criu mounts below the work folder, of which it is given a descriptor of ours.)
2. criu is started inside the container's cgroups, so everything it makes is found there by `delete --force`.
3. With rst_sibling the restored init is our child. At post-restore it does not run yet: what fails there fails criu's
   restore, which ends the processes.
"""

from __future__ import annotations

from errno import EEXIST
from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_DIRECTORY,
    O_EXCL,
    O_NOFOLLOW,
    O_RDONLY,
    O_WRONLY,
    close,
    fchmod,
    fstat,
    getcwd,
    mkdir,
    open,
    pidfd_open,
    rmdir,
)
from posix import stat as stat_path

from pyruntime.cgroup import manager
from pyruntime.criu import wire
from pyruntime.criu.client import INHERIT_FIRST, Criu, find, require_feature, usable
from pyruntime.criu.process import call
from pyruntime.errors import HostError, RuntimeFailure
from pyruntime.host.probe import clean_path, read_file
from pyruntime.lifecycle import create, criu_mounts, criu_options, host_steps, process, run, store
from pyruntime.lifecycle.prepare import bundle_path, prepare
from pyruntime.native import kernel
from pyruntime.record import Record
from pyruntime.spec import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.foreground import Terminal
    from pyruntime.lifecycle.host_steps import Joining
    from pyruntime.lifecycle.prepare import Prepared
    from pyruntime.lifecycle.settings import Settings

LOG = "restore.log"
S_IFDIR = 0o040000


def restore(settings: Settings, container_id: str, bundle: str, options: criu_options.Options, *,
            config: str = "config.json", detach: bool = False, keep: bool = False, console_socket: str = "",
            pid_file: str = "", no_pivot: bool = False, stdio: tuple[int, int, int] = (0, 1, 2),
            signals: bool = False) -> int:
    """The program's exit code when in the foreground (the container is deleted then, unless `keep`), 0 when detached.

    A restore that fails leaves nothing. Raises HostError when criu is missing, too old or fails.
    """
    criu_options.check(options)
    made = create.make_options(settings, container_id, no_pivot=no_pivot, no_new_keyring=True, preserve_fds=0,
                               listen_fds=0, console=True)
    pid_path = clean_path(getcwd(), pid_file) if pid_file else ""
    prepared = prepare(settings, bundle_path(bundle), made, config=config,
                       adjust=lambda spec: run.terminal_rule(spec, detach=detach, console_socket=console_socket))
    program = usable("restore")
    if options.lazy_pages:
        require_feature(program, "lazy_pages", "restore")
    console_fd = create.connect_console(console_socket)
    try:
        work = Restore(settings, prepared, options, stdio=stdio, console_fd=console_fd)
        launched = work.launch(program)
    finally:
        if console_fd >= 0:
            close(console_fd)
    with launched.entry:
        try:
            create.finish(launched, pidfd_socket="", pid_path=pid_path)
            watcher = run.watch(work.terminal, signals=signals and not detach)
        except BaseException:
            if work.terminal is not None:
                work.terminal.leave()
            create.abandon(settings, launched)
            close(launched.pidfd)
            raise
    if detach:
        close(launched.pidfd)
        return 0
    return run.stay(settings, launched, work.terminal, watcher, keep=keep)


class Place(Record):
    """What the cgroup steps need of a Drive (host_steps.Joining): criu is the process that joins."""

    stage0_pid: int
    init_pid: int = 0
    born_in: frozenset[str] = frozenset()


class Restore:
    """One restore at work: what criu's notifications are answered with."""

    def __init__(self, settings: Settings, prepared: Prepared, options: criu_options.Options, *,
                 stdio: tuple[int, int, int], console_fd: int) -> None:
        self.settings, self.prepared, self.options = settings, prepared, options
        self.stdio, self.console_fd = stdio, console_fd
        self.terminal: Terminal | None = None
        self.state: dict[str, Any] = {}
        self.created: tuple[str, ...] = ()
        self.pid = self.start_time = 0
        self.pidfd = -1

    def launch(self, program: str) -> create.Launched:
        """The restored container, running. On failure everything made is undone."""
        blobs = create.filter_blobs(self.settings, self.prepared)
        entry = store.claim(self.settings.root, self.prepared.options.id)
        try:
            self._make(program, entry, blobs)
        except BaseException:
            self._kill()
            try:
                create.undo(self.settings, self.prepared, entry)
            finally:
                entry.__exit__()
            raise
        return create.Launched(entry, self.state, self.prepared, self.pid, self.pidfd, self.start_time)

    def _make(self, program: str, entry: store.Entry, blobs: dict[str, bytes]) -> None:
        create.check_cgroups(self.prepared)
        self.created = create.missing_cgroups(self.prepared)
        entry.write_identity(store.Identity(entry.id, self.prepared.options.keyring_token,
                                            self.settings.cgroup_manager, self.prepared.cgroup.paths, self.created))
        if "seccomp" in blobs:
            entry.write("seccomp.bpf", blobs["seccomp"])
        make_mount_points(self.prepared)
        work_path = self.options.work_path or self.options.image_path
        images_fd = criu_options.open_folder(self.options.image_path, "image path", make=False)
        owned = [images_fd]
        try:
            if self.prepared.spec.linux.namespace("user") is not None:
                open_to_others(images_fd)
            owned.append(criu_options.open_folder(work_path, "work path", make=True))
            self._run(program, entry, owned, f"{work_path}/{LOG}")
        finally:
            for fd in owned:
                close(fd)

    def _cgroups(self, criu: Criu) -> None:
        """The container's cgroups by the steps that create takes, with criu in the place of stage 0."""
        cgroup = self.prepared.cgroup
        place: Joining = Place(criu.pid)
        for step in (*cgroup.make, *cgroup.early, *cgroup.join, *cgroup.limits):
            try:
                host_steps.STEPS[step.op](place, *step.args)
            except OSError as error:
                raise host_steps.failure(step, error) from error
            except RuntimeFailure as failure:
                failure.field = failure.field or step.origin
                raise

    def _run(self, program: str, entry: store.Entry, owned: list[int], log_path: str) -> None:
        """criu from start to end. `owned` begins with the image and work folders and gets what is opened here."""
        images_fd, work_fd = owned
        inherit, named = self._inherited(images_fd, owned)
        told = criu_options.common(self.options, self.prepared.spec, images_fd=images_fd, work_fd=work_fd, log_file=LOG)
        told |= {"rst_sibling": True, "root": bind_root(self.prepared.bundle.rootfs, entry), "inherit_fd": named,
                 "ext_mnt": self._mount_sources(),
                 "lsm_profile": self.options.lsm_profile or None,
                 "lsm_mount_context": self.options.lsm_mount_context or None}
        with Criu(program, stdin=self.stdio[0], inherit=inherit) as criu:
            self._cgroups(criu)
            told["cg_root"] = cgroup_roots(criu.pid) if self.prepared.cgroup.paths else []
            answer = criu.request(wire.RESTORE, lambda *note: self._notified(entry, *note), opts=told)
            printed = criu.words()
        entry.drop_criu_root()
        if not answer.get("success"):
            drop_yard(log_path)
            raise criu_options.failed(answer, log_path, printed)
        if self.pidfd < 0:
            raise HostError("criu restored no process that it told of", value=log_path)

    def _mount_sources(self) -> list[dict[str, str]]:
        """What is mounted for the mounts that are not in the images."""
        prepared = self.prepared
        host = criu_mounts.mount_points(manager.read_file("/proc/self/mountinfo"))
        return criu_mounts.mount_sources(prepared.spec, prepared.bundle.path, host, prepared.host.cgroup, prepared.cgroup)

    def _inherited(self, images_fd: int, owned: list[int]) -> tuple[list[int], list[dict[str, Any]]]:
        """The descriptors that criu gets, and what each stands for in the images: stdio pipes, joined namespaces."""
        fds: list[int] = []
        named: list[dict[str, Any]] = []
        for number, name in enumerate(descriptor_names(images_fd)):
            if name.startswith(("pipe:", "file[")) and number < 3:
                named.append({"key": name, "fd": INHERIT_FIRST + len(fds)})
                fds.append(self.stdio[number])
        for _, path, key in criu_options.external_namespaces(self.prepared.spec):
            owned.append(open(path, O_RDONLY | O_CLOEXEC))
            named.append({"key": key, "fd": INHERIT_FIRST + len(fds)})
            fds.append(owned[-1])
        return fds, named

    def _notified(self, entry: store.Entry, script: str, pid: int, fds: list[int]) -> None:
        """One of criu's barriers. What is raised here makes the restore fail."""
        if script == "setup-namespaces":
            for kind in ("prestart", "createRuntime"):
                create.runtime_hooks(self.prepared, kind, pid)
        elif script == "orphan-pts-master" and fds:
            self._take_console(fds)
        elif script == "post-restore":
            self.pid, self.start_time = pid, process.start_time(pid)
            self.pidfd = pidfd_open(pid, 0)
            entry.append_identity(pid, self.start_time)
            create.save(self.prepared, entry, self.state, pid=pid, start_time=self.start_time, created=self.created)

    def _take_console(self, fds: list[int]) -> None:
        """The master end of the container's terminal, to the console socket or to the terminal we were called from."""
        if self.console_fd >= 0:
            kernel.send(self.console_fd, b"/dev/ptmx", fds)
            return
        from pyruntime.lifecycle.foreground import Terminal

        self.terminal = Terminal(fds.pop(0))
        self.terminal.enter()

    def _kill(self) -> None:
        """End the restored init, which is our child, and give the caller's terminal back."""
        if self.terminal is not None:
            self.terminal.leave()
        if self.pidfd < 0:
            return
        process.send_signal(self.pidfd, process.SIGKILL)
        try:
            process.reap(self.pidfd)
        except ChildProcessError:
            pass
        close(self.pidfd)
        self.pidfd = -1


def bind_root(rootfs: str, entry: store.Entry) -> str:
    """The rootfs at a mount point, without what is mounted below it. Raises HostError.

    Shared, because the container's root may be a slave of where the rootfs lies, and criu gives it its master back. Not
    recursive: taking copies of shared mounts away would take the originals with them (mount_namespaces(7)).
    """
    program = find("mount")
    if not program:
        raise HostError("cannot restore: mount is not installed", hint="it is in Debian's package mount")
    path = entry.make_criu_root()
    status = call([program, "--bind", "--make-shared", "--", rootfs, path])
    if status:
        raise HostError(f"unable to bind the rootfs for criu: mount ended with {status}", value=rootfs)
    return path


def open_to_others(folder_fd: int) -> None:
    """Let the container's root, who is nobody to the host, find that an image is not there; it can list or read none."""
    try:
        fchmod(folder_fd, fstat(folder_fd).st_mode & 0o7777 | 0o001)
    except OSError:
        return  # a folder that is not ours; criu says so when it matters


def drop_yard(log_path: str) -> None:
    """The mount that a failed criu leaves behind sometimes, where it puts mounts together (3.17 could not remove it)."""
    from re import findall

    try:
        log = read_file(log_path, criu_options.MAX_LOG).decode("utf-8", "replace")
    except OSError:
        return
    for path in sorted(set(findall(r"Can't remove the directory (/tmp/\.criu\.mntns\.\w{6}):", log))):
        try:
            kernel.umount(path, 2 | 8)  # MNT_DETACH, UMOUNT_NOFOLLOW
            rmdir(path)
        except OSError:
            continue


def cgroup_roots(pid: int) -> list[dict[str, str]]:
    """(controller, "" for the unified tree; path) of a process: where criu puts what it restores (cgroups(7))."""
    found = []
    for line in read_file(f"/proc/{pid}/cgroup", 1 << 16).decode("utf-8", "surrogateescape").splitlines():
        _, names, path = line.split(":", 2)
        found += [{"ctrl": name, "path": path} for name in names.split(",")]
    return found


def descriptor_names(images_fd: int) -> list[str]:
    """What stdin, stdout and stderr were at the checkpoint; [] when nobody wrote it down."""
    try:
        data = read_file(f"/proc/self/fd/{images_fd}/{criu_options.DESCRIPTORS}", 1 << 20)
    except FileNotFoundError:
        return []
    value = document.load(b'{"names":' + data + b"}", name=criu_options.DESCRIPTORS)["names"]
    return [str(name) for name in value] if isinstance(value, list) else []


def make_mount_points(prepared: Prepared) -> None:
    """Mount points that the rootfs lacks, when it is not the one that the container was created on.

    Only below plain directories of the rootfs, where its own symbolic links lead: what lies on another mount of the
    container is in the images. What cannot be made (a read-only rootfs) criu will name.
    """
    covered: list[str] = []
    for mount in prepared.spec.mounts:
        path = criu_mounts.resolve(prepared.bundle.rootfs, mount.destination)
        if not any(path == above or path.startswith(f"{above}/") for above in covered):
            folder = not criu_mounts.is_bind(mount) or _is_folder(clean_path(prepared.bundle.path, mount.source))
            try:
                _make_path(prepared.bundle.rootfs, path.strip("/").split("/"), folder=folder)
            except OSError:
                pass  # criu names the mount that it cannot make
        covered.append(path)


def _is_folder(path: str) -> bool:
    try:
        return stat_path(path).st_mode & 0o170000 == S_IFDIR
    except OSError:
        return True


def _make_path(root: str, names: list[str], *, folder: bool) -> None:
    """The folders of `names` below `root`, the last one a file unless `folder`."""
    at = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    try:
        for number, name in enumerate(names):
            if number == len(names) - 1 and not folder:
                try:
                    close(open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o755, dir_fd=at))
                except FileExistsError:
                    pass
                return
            try:
                mkdir(name, 0o755, dir_fd=at)
            except OSError as error:
                if error.errno != EEXIST:
                    raise
            below = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, dir_fd=at)
            close(at)
            at = below
    finally:
        close(at)
