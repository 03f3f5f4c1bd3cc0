"""config.json as records: the entry of the room. One pass finds all violations; nothing of the host is asked.

    document = load(data)                 bytes -> dict, strict JSON
    spec = parse_spec(document)           -> Spec, or SpecError with all violations, first in the peers' order first
    findings = inspect(document)          -> Spec and everything there is to say, for `validate`

A rule belongs here when config.json alone can break it. What depends on the host (is the LSM on, is a controller
there, does a path exist) is judged later, with HostFacts. Unknown keys are ignored (runtime-spec: extensibility).
Process and root are needed to start a container; a document without process is judged as one that is not started.
"""

from __future__ import annotations

from pyruntime.record import Record
from pyruntime.spec.annotations import resolve
from pyruntime.spec.config import Capabilities, Hook, Hooks, Mount, Root, Spec
from pyruntime.spec.document import escape, quote
from pyruntime.spec.linux import Linux
from pyruntime.spec.parse_linux import read_id_mappings, read_linux
from pyruntime.spec.parse_process import parse_process, read_env, read_process
from pyruntime.spec.parse_resources import parse_resources
from pyruntime.spec.reader import INT64, LATER, MOUNT, PROCESS, ROOTFS, Reader
from pyruntime.spec.rules import check_mount, check_rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.errors import Violation

__all__ = ["Findings", "check", "inspect", "parse_process", "parse_resources", "parse_spec"]

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_NO_LINUX = Linux()
_NO_HOOKS = Hooks()


class Findings(Record):
    """All that config.json alone tells. `spec` is None when there are errors.

    `errors` refuse the document everywhere, `strict` are errors of `validate` and warnings elsewhere.
    """

    spec: Spec | None
    errors: tuple[Violation, ...]
    strict: tuple[Violation, ...]
    warnings: tuple[Violation, ...]


def parse_spec(document: dict[str, Any], *, notes: list[Violation] | None = None) -> Spec:
    """The Spec of a container that is to be created, from a decoded config.json.

    `notes` receives what deserves a warning. Raises SpecError when a rule is broken; process and root must be there.
    """
    reader = Reader()
    spec = _read_spec(reader, document)
    if spec.process is None and document.get("process") is None:
        reader.error(PROCESS, "/process", "process property must not be empty", hint="what to run: cwd, args and user")
    if spec.root is None and document.get("root") is None:
        reader.error(ROOTFS, "/root", "root must be specified", hint='such as {"path": "rootfs"}')
    reader.finish()
    if notes is not None:
        notes.extend(reader.strict)
        notes.extend(reader.warnings)
    return spec


def check(document: dict[str, Any]) -> tuple[Spec | None, tuple[Violation, ...]]:
    """(Spec, ()) or (None, all errors); a document without process or root passes."""
    findings = inspect(document)
    return findings.spec, findings.errors


def inspect(document: dict[str, Any]) -> Findings:
    """Everything that is wrong or doubtful in `document`, apart."""
    reader = Reader()
    spec = _read_spec(reader, document)
    _look_closer(reader, document, spec)
    errors = reader.sorted_errors()
    return Findings(None if errors else spec, errors, tuple(reader.strict), tuple(reader.warnings))


def _read_spec(reader: Reader, document: dict[str, Any]) -> Spec:
    document = resolve(document)
    process, root = reader.table(document, "process", ""), reader.table(document, "root", "")
    hooks, linux = reader.table(document, "hooks", ""), reader.table(document, "linux", "")
    spec = Spec(
        _read_version(reader, document), _read_root(reader, root) if root is not None else None,
        read_process(reader, process, "/process") if process is not None else None,
        reader.text(document, "hostname", ""), reader.text(document, "domainname", ""),
        _read_mounts(reader, document), _read_hooks(reader, hooks) if hooks else _NO_HOOKS,
        reader.pairs(document, "annotations", ""), read_linux(reader, linux, "/linux") if linux else _NO_LINUX)
    check_rules(reader, spec)
    return spec


def _read_version(reader: Reader, document: dict[str, Any]) -> str:
    version = reader.text(document, "ociVersion", "")
    if not version:
        if not document.get("ociVersion"):  # a value of another type is reported already
            reader.refuse("/ociVersion", "ociVersion is missing", hint='such as "1.3.0"')
    elif not _is_semver(version):
        reader.refuse("/ociVersion", f"ociVersion {quote(version)} is no version", version,
                      'three numbers, such as "1.3.0" (SemVer 2.0)')
    elif version.startswith("0."):
        reader.warn("/ociVersion", f"ociVersion {quote(version)} is older than 1.0.0", version,
                    "read as if it were 1.0.0")
    elif not version.startswith("1."):
        reader.refuse("/ociVersion", f"ociVersion {quote(version)} is not supported", version,
                      "supported are 1.0.0 to 1.3.0")
    return version


def _is_semver(version: str) -> bool:
    """SemVer 2.0: X.Y.Z, then -pre-release, then +build; both of dotted words of letters, digits and hyphens."""
    rest, plus, build = version.partition("+")
    core, dash, pre = rest.partition("-")
    numbers = core.split(".")
    if len(numbers) != 3 or not all(_is_number(part) for part in numbers):
        return False
    words = (pre.split(".") if dash else []) + (build.split(".") if plus else [])
    if not all(word.isascii() and word.replace("-", "a").isalnum() for word in words):
        return False
    return not dash or all(_is_number(word) for word in pre.split(".") if word.isdigit())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _read_root(reader: Reader, obj: dict[str, Any]) -> Root:
    path = reader.text(obj, "path", "/root")
    if not path and not obj.get("path"):
        reader.error(ROOTFS, "/root/path", "invalid rootfs: path is empty", obj.get("path"), 'such as "rootfs"')
    return Root(path, reader.flag(obj, "readonly", "/root"))


def _read_mounts(reader: Reader, document: dict[str, Any]) -> tuple[Mount, ...]:
    mounts = []
    for index, row in reader.rows(document, "mounts", ""):
        at = f"/mounts/{index}"
        destination = reader.text(row, "destination", at)
        if not destination and not row.get("destination"):
            reader.error(MOUNT, f"{at}/destination", "mount destination must not be empty", hint="an absolute path")
        elif destination[:1] != "/" and destination:
            reader.warn(f"{at}/destination", f"mount destination {quote(destination)} is not absolute", destination,
                        f"deprecated; it is taken as {quote('/' + destination)}")
        mount = Mount(destination, reader.text(row, "type", at), reader.text(row, "source", at),
                      reader.texts(row, "options", at), read_id_mappings(reader, row, "uidMappings", at),
                      read_id_mappings(reader, row, "gidMappings", at))
        check_mount(reader, mount, at)
        mounts.append(mount)
    return tuple(mounts)


def _read_hooks(reader: Reader, obj: dict[str, Any]) -> Hooks:
    return Hooks(*(tuple(_read_hook(reader, row, name, index) for index, row in reader.rows(obj, name, "/hooks"))
                   for name in HOOKS))


def _read_hook(reader: Reader, obj: dict[str, Any], name: str, index: int) -> Hook:
    at = f"/hooks/{name}/{index}"
    path = reader.text(obj, "path", at)
    if path[:1] != "/":
        reader.error(LATER, f"{at}/path", f"{name} hook #{index}: path {quote(path)} is not absolute", path,
                     "hooks are not looked up in PATH")
    timeout = reader.number(obj, "timeout", at, INT64)
    if timeout is not None and timeout <= 0:
        reader.error(LATER, f"{at}/timeout", f"{name} hook #{index}: timeout must be greater than zero", timeout,
                     "seconds; leave it out for no limit")
    env = read_env(reader, obj, at) if obj.get("env") is not None else None
    return Hook(path, reader.texts(obj, "args", at), env, timeout)


def _look_closer(reader: Reader, document: dict[str, Any], spec: Spec) -> None:
    """What only `validate` looks for."""
    if spec.process is None:
        reader.warn("/process", "process is missing", hint="this document can be checked, but not started")
    elif spec.process.capabilities is None:
        reader.warn("/process/capabilities", "capabilities are missing: the process keeps all that the runtime has",
                    hint="an empty object drops all of them")
    else:
        _look_at_capabilities(reader, spec.process.capabilities)
    if spec.root is None:
        reader.warn("/root", "root is missing", hint="this document can be checked, but not started")
    for key, _ in spec.annotations:
        if not key:
            reader.refuse(f"/annotations/{escape(key)}", "annotation has an empty name", hint="com.example.key")
    if document.get("linux") is None:
        for platform in ("freebsd", "solaris", "windows", "zos"):
            if document.get(platform) is not None:
                reader.refuse(f"/{platform}", f"platform {platform} is not supported", hint="this runtime is for Linux")


def _look_at_capabilities(reader: Reader, sets: Capabilities) -> None:
    from pyruntime.spec.names import CAPABILITIES

    for key, names in zip(sets._fields, sets):
        for index, name in enumerate(names):
            if name not in CAPABILITIES:
                reader.warn(f"/process/capabilities/{key}/{index}", f"unknown capability {quote(name)}", name,
                            "it is ignored; see capabilities(7)")
