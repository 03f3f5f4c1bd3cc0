"""`--change` of import and commit: instructions of a Dockerfile that alter a configuration. Pure.

CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR, with quotes and variables as in a
Dockerfile; a variable has the value that ENV gave it before the instruction.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from typing import TYPE_CHECKING, Any

from pyruntime.errors import UsageError
from pyruntime.image.changes_words import expand, split_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Config = dict[str, Any]

SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_UNITS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_TIMES = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "start-interval": "StartInterval"}


def apply_changes(config: Config, changes: Iterable[str]) -> Config:
    """A copy of `config` (an image's `config` object) with the changes applied in order.

    One text may hold several lines. Raises UsageError that names the instruction.
    """
    done = dict(config)
    seen: set[str] = set()
    for text in changes:
        for line in text.replace("\\\n", "").splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, rest = line.strip().partition(" ")
            change = _CHANGES.get(name.upper())
            if change is None:
                raise UsageError(f"{name.lower()} is not a valid change command", field="change", value=line,
                                 hint=f"known are {', '.join(_CHANGES)}")
            if not rest.strip():
                raise _bad(f"{name.upper()} requires at least one argument", line)
            change(done, rest.strip())
            seen.add(name.upper())
            if name.upper() == "ENTRYPOINT" and "CMD" not in seen:  # Cmd belonged to the entrypoint that is gone
                done["Cmd"] = None
    return done


def variables(config: Config) -> dict[str, str]:
    """The environment as a table; the last entry of a name counts."""
    return {name: value for name, equals, value in (entry.partition("=") for entry in config.get("Env") or ()) if equals}


def _bad(message: str, value: str, hint: str = "") -> UsageError:
    return UsageError(message, field="change", value=value, hint=hint)


def _json_words(text: str) -> list[str] | None:
    """The JSON form, an array of strings; None for anything else."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _command(config: Config, text: str) -> list[str]:
    words = _json_words(text)
    return [*(config.get("Shell") or SHELL), text] if words is None else words


def _cmd(config: Config, text: str) -> None:
    config["Cmd"] = _command(config, text)


def _entrypoint(config: Config, text: str) -> None:
    config["Entrypoint"] = _command(config, text)


def _pairs(text: str, env: dict[str, str], name: str) -> list[tuple[str, str]]:
    """`k=v …`, or the old form `k rest of the line`."""
    words = split_words(text)
    if "=" not in words[0]:
        key, _, value = text.partition(" ")
        if not value.strip():
            raise _bad(f"{name} must have two arguments", text)
        return [(expand(key, env), expand(value.strip(), env))]
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise _bad(f"can't find = in {word!r}. Must be of the form: name=value", text)
        if not (expanded := expand(key, env)):
            raise _bad(f"{name} names can not be blank", text)
        found.append((expanded, expand(value, env)))
    return found


def _env(config: Config, text: str) -> None:
    entries = list(config.get("Env") or ())
    for name, value in _pairs(text, variables(config), "ENV"):
        entry = f"{name}={value}"
        at = next((i for i, old in enumerate(entries) if old.partition("=")[0] == name), None)
        if at is None:
            entries.append(entry)
        else:
            entries[at] = entry
    config["Env"] = entries


def _label(config: Config, text: str) -> None:
    config["Labels"] = dict(config.get("Labels") or {}) | dict(_pairs(text, variables(config), "LABEL"))


def _expose(config: Config, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _expanded(config, text):
        found = _PORT.fullmatch(word)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
        if found is None or not 1 <= low <= high <= 65535:
            raise _bad(f"invalid containerPort: {word}", text, "write PORT, PORT-PORT, each with /tcp, /udp or /sctp")
        ports |= {f"{port}/{(found[3] or 'tcp').lower()}": {} for port in range(low, high + 1)}
    config["ExposedPorts"] = ports


def _volume(config: Config, text: str) -> None:
    words = _json_words(text)
    paths = _expanded(config, text) if words is None else [expand(word, variables(config)) for word in words]
    if not all(path.strip() for path in paths):
        raise _bad("VOLUME specified can not be an empty string", text)
    config["Volumes"] = dict(config.get("Volumes") or {}) | {path.strip(): {} for path in paths}


def _user(config: Config, text: str) -> None:
    config["User"] = _one(config, text, "USER")


def _workdir(config: Config, text: str) -> None:
    path = expand(text, variables(config))
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "", path)).replace("//", "/")


def _onbuild(config: Config, text: str) -> None:
    trigger = text.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise _bad("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", text)
    if trigger in {"FROM", "MAINTAINER"}:
        raise _bad(f"{trigger} isn't allowed as an ONBUILD trigger", text)
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _stopsignal(config: Config, text: str) -> None:
    word = _one(config, text, "STOPSIGNAL")
    upper = word.upper()
    name = upper if upper.startswith("SIG") else f"SIG{upper}"
    known = word.isdigit() and 1 <= int(word) <= 64
    known = known or name in signal.Signals.__members__ or bool(re.fullmatch(r"SIGRTM(IN(\+\d+)?|AX(-\d+)?)", name))
    if not known:
        raise _bad(f"invalid signal: {word}", text, "name a signal or give its number")
    config["StopSignal"] = word


def _healthcheck(config: Config, text: str) -> None:
    check: Config = {}
    while text.startswith("--"):
        flag, _, text = text.partition(" ")
        text = text.strip()
        name, equals, value = flag[2:].partition("=")
        if not equals:
            raise _bad(f"missing a value on flag: --{name}", flag)
        if name == "retries":
            if not re.fullmatch(r"-?\d+", value) or int(value) < 0:
                raise _bad(f"--retries cannot be negative ({value})", flag)
            check["Retries"] = int(value)
        elif name in _TIMES:
            check[_TIMES[name]] = _duration(_TIMES[name], value)
        else:
            raise _bad(f"unknown flag: --{name}", flag)
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip():
            raise _bad("HEALTHCHECK NONE takes no arguments", text)
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD":
        raise _bad(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)', text)
    words = _json_words(rest.strip())
    if not rest.strip() or words == []:
        raise _bad("Missing command after HEALTHCHECK CMD", text)
    config["Healthcheck"] = {"Test": ["CMD-SHELL", rest.strip()] if words is None else ["CMD", *words]} | check


def _duration(name: str, text: str) -> int:
    """Nanoseconds of Go's notation: 1m30s. Zero, or at least 1 ms."""
    parts = _DURATION.findall(text)
    if text != "0" and (not parts or "".join(number + unit for number, unit in parts) != text):
        raise _bad(f"invalid duration {text!r}", text, "write 30s or 1m30s")
    found = sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    if 0 < found < 10**6:
        raise _bad(f'Interval "{name.lower()}" cannot be less than 1ms', text)
    return found


def _expanded(config: Config, text: str) -> list[str]:
    env = variables(config)
    return [word for raw in split_words(text) for word in expand(raw, env).split()]


def _one(config: Config, text: str, name: str) -> str:
    if len(split_words(text)) != 1:
        raise _bad(f"{name} requires exactly one argument", text)
    return expand(text, variables(config))


_CHANGES: dict[str, Callable[[Config, str], None]] = {
    "CMD": _cmd, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose, "HEALTHCHECK": _healthcheck,
    "LABEL": _label, "ONBUILD": _onbuild, "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume,
    "WORKDIR": _workdir,
}  # fmt: skip
