"""version, info, events."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from pyruntime.api.client.connection import API_VERSION, Unreachable
from pyruntime.cli.pyctr.call import Failed, worded
from pyruntime.cli.pyctr.functions import to_json
from pyruntime.cli.pyctr.listing import parse_filters, show_object
from pyruntime.cli.pyctr.template import Template
from pyruntime.cli.pyctr.units import rfc3339_nano, timestamp
from pyruntime.image.platform import host_platform
from pyruntime.version import VERSION

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call

# a line of `info` -> the key of the answer it shows
INFO = (
    ("Server Version", "ServerVersion"), ("Storage Driver", "Driver"), ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"), ("Cgroup Version", "CgroupVersion"), ("Default Runtime", "DefaultRuntime"),
    ("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"), ("OSType", "OSType"),
    ("Architecture", "Architecture"), ("CPUs", "NCPU"), ("Total Memory", "MemTotal"), ("Name", "Name"), ("ID", "ID"),
    ("Docker Root Dir", "DockerRootDir"), ("Debug Mode", "Debug"), ("HTTP Proxy", "HttpProxy"),
    ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"), ("Experimental", "ExperimentalBuild"),
    ("Live Restore Enabled", "LiveRestoreEnabled"),
)  # fmt: skip
DETAILS = (("API version", "ApiVersion"), ("Git commit", "GitCommit"), ("Built", "BuildTime"), ("Spec", "Spec"))
BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def version(call: Call) -> None:
    """Both versions; the client's also when no engine answers, which is an error then."""
    problem = None
    server = None
    api = API_VERSION
    try:
        api = call.client.version
        server = call.client.get("/version")
    except Unreachable as error:
        problem = error
    client = {"Platform": {"Name": ""}, "Version": VERSION, "ApiVersion": f"{api[0]}.{api[1]}",
              "DefaultAPIVersion": f"{API_VERSION[0]}.{API_VERSION[1]}", "GitCommit": "",
              "GoVersion": f"none (Python {sys.version.split()[0]})", "Os": "linux", "Arch": host_platform().architecture,
              "BuildTime": "", "Context": "default"}  # fmt: skip
    value = {"Client": client, "Server": server}
    print(show_object(value, call["format"], lambda: _version_text(client, server)), end="")
    if problem:
        call.tell(worded(problem))
        raise Failed


def _version_text(client: dict[str, Any], server: dict[str, Any] | None) -> str:
    lines = ["Client: pyctr", *_pairs(" ", (("Version", client["Version"]), ("API version", client["ApiVersion"]),
             ("Python version", sys.version.split()[0]), ("OS/Arch", f"linux/{client['Arch']}")))]  # fmt: skip
    if server:
        lines += ["", f"Server: {(server.get('Platform') or {}).get('Name') or 'Docker Engine'}"]
        for part in server.get("Components") or []:
            details = part.get("Details") or {}
            shown = [(name, _detail(details, key)) for name, key in DETAILS if details.get(key)]
            lines += [f" {part['Name']}:", *_pairs("  ", (("Version", part["Version"]), *shown))]
    return "\n".join(lines) + "\n"


def _detail(details: dict[str, str], key: str) -> str:
    """A detail of a component as docker shows it."""
    text = details[key]
    if key == "ApiVersion" and details.get("MinAPIVersion"):
        return f"{text} (minimum version {details['MinAPIVersion']})"
    if key != "BuildTime":
        return text
    try:
        return time.strftime("%a %b %e %H:%M:%S %Y", time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:  # another engine's own words
        return text


def _pairs(indent: str, pairs: tuple[tuple[str, Any], ...]) -> list[str]:
    return [f"{indent}{name + ':':<{20 - len(indent)}}{value}" for name, value in pairs]


def info(call: Call) -> None:
    """The engine and its machine."""
    value = call.client.get("/info")
    print(show_object(value, call["format"], lambda: _info_text(call, value)), end="")
    for warning in value.get("Warnings") or []:
        call.tell(warning)


def _info_text(call: Call, value: dict[str, Any]) -> str:
    lines = ["Client: pyctr", f" Version:    {VERSION}", f" Host:       {call.client.host}", "", "Server:",
             f" Containers: {value['Containers']}"]  # fmt: skip
    lines += [f"  {state}: {value[f'Containers{state}']}" for state in ("Running", "Paused", "Stopped")]
    lines.append(f" Images: {value['Images']}")
    for name, key in INFO:
        shown: Any = value.get(key)
        if shown is None or shown == "":
            continue
        shown = {True: "true", False: "false"}.get(shown, shown) if isinstance(shown, bool) else shown
        lines.append(f" {name}: {_binary(shown) if key == 'MemTotal' else shown}")
        if key == "Driver":
            lines += [f"  {left}: {right}" for left, right in value.get("DriverStatus") or []]
    lines += _lists(value)
    return "\n".join(lines) + "\n"


def _lists(value: dict[str, Any]) -> list[str]:
    """The lines of info that hold several values each."""
    registries = value.get("RegistryConfig") or {}
    indexes = registries.get("IndexConfigs") or {}
    insecure = [name for name, entry in indexes.items() if not entry.get("Secure", True)]
    groups = (("Security Options", [text.removeprefix("name=") for text in value.get("SecurityOptions") or []]),
              ("Runtimes", sorted(value.get("Runtimes") or {})), ("Labels", value.get("Labels") or []),
              ("Insecure Registries", [*insecure, *(registries.get("InsecureRegistryCIDRs") or [])]),
              ("Registry Mirrors", registries.get("Mirrors") or []))  # fmt: skip
    return [line for name, items in groups if items for line in (f" {name}:", *(f"  {item}" for item in items))]


def _binary(size: float) -> str:
    """Memory in powers of 1024: 7.77GiB."""
    unit = 0
    while size >= 1024 and unit < len(BINARY) - 1:
        size /= 1024
        unit += 1
    return f"{size:.4g}{BINARY[unit]}"


def events(call: Call) -> None:
    """What happens, one line each, until --until or Ctrl-C."""
    now = time.time_ns()
    query = {"since": timestamp(call["since"], now), "until": timestamp(call["until"], now),
             "filters": parse_filters(call["filter"])}  # fmt: skip
    layout = call["format"]
    template = Template(layout) if layout and layout != "json" else None
    with call.client.request("GET", "/events", query) as reply:
        for event in reply.objects():
            text = template.render(event) if template else to_json(event) if layout else event_text(event)
            print(text, flush=True)


def event_text(event: dict[str, Any]) -> str:
    """An event on one line: time, type, action, ID, attributes."""
    actor = event.get("Actor") or {}
    pairs = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    words = [rfc3339_nano(event.get("timeNano", 0)), event.get("Type", ""), event.get("Action", ""), actor.get("ID", "")]
    return " ".join(words) + (f" ({pairs})" if pairs else "")
