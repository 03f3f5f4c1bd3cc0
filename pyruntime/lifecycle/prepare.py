"""From a bundle to everything that carrying it out needs: Spec, facts, plan, filter. Makes nothing but cache entries."""

from __future__ import annotations

from errno import ENOTDIR
from posix import O_CLOEXEC, O_NONBLOCK, O_RDONLY, close, fstat, getcwd, geteuid, open, read

from pyruntime.cgroup.plan import compile_cgroup
from pyruntime.errors import SpecError
from pyruntime.host.cgroup_probe import probe_cgroup
from pyruntime.host.facts import CgroupFacts
from pyruntime.host.probe import check_rootfs, clean_path, in_user_namespace, probe_bundle, probe_host
from pyruntime.plan.order import compile_plan
from pyruntime.record import Record
from pyruntime.spec import document
from pyruntime.spec.parse import parse_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.lifecycle.settings import Settings
    from pyruntime.plan.step import CgroupPlan, Options, Plan
    from pyruntime.spec.config import Spec

OCI_VERSION = "1.3.0"
MAX_CONFIG = 16 * 1024 * 1024
S_IFREG = 0o100000


class Prepared(Record):
    """One bundle, ready to be carried out. `config` is config.json as it was read, `document` what it says."""

    spec: Spec
    config: bytes
    document: dict[str, Any]
    bundle: BundleFacts
    host: HostFacts
    options: Options
    cgroup: CgroupPlan
    plan: Plan


def bundle_path(bundle: str) -> str:
    """The bundle's folder as an absolute path; "" is the caller's working directory."""
    return clean_path(getcwd(), bundle or ".")


def read_config(bundle: str, name: str) -> bytes:
    """config.json's bytes, at most 16 MiB, from a plain file. Raises SpecError in the peers' words."""
    path = clean_path(bundle, name)
    try:
        return read_document(path)
    except FileNotFoundError as error:
        raise SpecError(f"JSON specification file {name} not found", value=path,
                        hint="is this the bundle's folder? `pyruntime spec` writes a config.json to start from") from error


def read_document(path: str) -> bytes:
    """The bytes of a plain file, at most 16 MiB. Raises SpecError, FileNotFoundError."""
    try:
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SpecError(f"open {path}: {(error.strerror or '').lower()}", value=path,
                        hint="a bundle is the folder that holds it" if error.errno == ENOTDIR else "") from error
    try:
        there = fstat(fd)
        if there.st_mode & 0o170000 != S_IFREG:
            raise SpecError(f"{path} is not a plain file", value=path)
        if there.st_size > MAX_CONFIG:
            raise SpecError(f"{path} is larger than {MAX_CONFIG} bytes", value=str(there.st_size))
        return read(fd, MAX_CONFIG + 1)
    finally:
        close(fd)


def prepare(settings: Settings, bundle: str, options: Options, *, config: str = "config.json",
            adjust: Callable[[Spec], Spec] | None = None) -> Prepared:
    """Everything up to the plan. Raises SpecError or HostError; nothing has been made then."""
    tolerant = settings.rootless == "true" or (settings.rootless == "auto" and (geteuid() != 0 or in_user_namespace()))
    options = options.replace(rootless_cgroups=tolerant)
    disabled = options.cgroup_manager == "disabled"
    cgroups = CgroupFacts() if disabled else probe_cgroup(check_access=tolerant)
    raw = read_config(bundle, config)
    value = document.load(raw, name=config)
    if geteuid() != 0 and settings.rootless != "false":
        raw, value = _with_user_namespace(settings, raw, value)
    spec = parse_spec(value)
    if adjust is not None:
        spec = adjust(spec)
    facts = probe_bundle(spec, bundle)
    check_rootfs(spec, facts.rootfs)
    host = probe_host(spec, cgroup=cgroups, no_pivot=options.no_pivot)
    if options.cgroup_manager == "systemd" and host.euid != 0:
        from pyruntime.cgroup.systemd_bus import control_group

        host = host.replace(systemd_base=control_group())
    terminal = spec.process is not None and spec.process.terminal
    options = with_hook_states(options.replace(console=options.console and terminal), spec, facts.path)
    cgroup = compile_cgroup(spec, host, options)
    if tolerant and not cgroup.paths and spec.linux.namespace("pid") is None:
        settings.warn("the container has neither a cgroup nor a pid namespace of its own: processes that outlive its "
                      "first one cannot be found and ended")
    return Prepared(spec, raw, value, facts, host, options, cgroup, compile_plan(spec, facts, host, options, cgroup))


def _with_user_namespace(settings: Settings, raw: bytes, value: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A plain user can have no container outside of a user namespace: one is made where the config has none."""
    from pyruntime.lifecycle.auto_user import with_user_namespace

    changed = with_user_namespace(value)
    if changed is value:
        return raw, value
    settings.warn(f"the container gets a user namespace of its own, in which uid 0 is uid {geteuid()} here")
    return document.dump(changed).encode("utf-8", "surrogateescape"), changed


def hook_state(container_id: str, status: str, pid: int, bundle: str, spec: Spec) -> dict[str, Any]:
    """The state that hooks read (contract 3.2); pid 0 leaves the key out."""
    state: dict[str, Any] = {"ociVersion": OCI_VERSION, "id": container_id, "status": status}
    if pid:
        state["pid"] = pid
    state["bundle"] = bundle
    if spec.annotations:
        state["annotations"] = dict(spec.annotations)
    return state


def with_hook_states(options: Options, spec: Spec, bundle: str) -> Options:
    """`options` with the JSON that container-init completes with the pid, for the hooks it runs."""
    if not (spec.hooks.create_container or spec.hooks.start_container):
        return options
    parts = {}
    for status in ("creating", "created"):
        before, _, after = document.dump(hook_state(options.id, status, 1, bundle, spec)).partition('"pid":1')
        parts[status] = before + '"pid":', after
    return options.replace(hook_state_prefix=parts["creating"][0], hook_state_suffix=parts["creating"][1],
                           start_state_prefix=parts["created"][0])
