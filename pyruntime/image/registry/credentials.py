"""Who we are to a registry: credentials of a request's header, and those the calling user's config.json leads to.

The daemon uses only `from_header` and `from_config_header`: what a request carries. Clients and library callers use
`ConfigFile`, which asks, first hit wins: `credHelpers[host]`, `credsStore`, `auths[host]` (docker's config.json).
Credentials belong to one host; `server_key` gives the name under which that host is kept. No secret is in a repr.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import secrets
from typing import TYPE_CHECKING, Any

from pyruntime.errors import UsageError
from pyruntime.image.registry import helpers
from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HUB_KEY = "https://index.docker.io/v1/"
HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
HEADER_LIMIT = 1 << 20
FILE_LIMIT = 4 << 20


class Credentials(Record):
    """A name and password, an identity token (changed for access tokens) or a registry token (sent as it is)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        kinds = [name for name in ("password", "identity_token", "registry_token") if getattr(self, name)]
        return f"Credentials(username={self.username!r}, has={kinds})"

    __str__ = __repr__


ANONYMOUS = Credentials()
if TYPE_CHECKING:
    Lookup = Callable[[str], Credentials]  # registry host or domain -> credentials, ANONYMOUS when there are none


def server_key(server: str) -> str:
    """The host, with its port, of a name as config files hold it: with or without scheme and path; one for the hub."""
    host = server.partition("://")[2] or server
    host = host.partition("/")[0].lower()
    return HUB_KEY if host in HUB_HOSTS else host


class Known(Record):
    """A look-up in pairs of server_key and credentials. Equal ones are one user to `transfers`."""

    entries: tuple[tuple[str, Credentials], ...] = ()

    def __call__(self, server: str) -> Credentials:
        """Credentials for a registry, anonymous when it is not among them."""
        return dict(self.entries).get(server_key(server), ANONYMOUS)


def only_for(server: str, credentials: Credentials) -> Known:
    """A look-up that gives the credentials to that registry alone."""
    return Known(((server_key(server), credentials),))


# ---- what a request of the engine's API carries (engine-api.md 2.6) ----
def from_header(text: str) -> Credentials:
    """Credentials of `X-Registry-Auth`, anonymous when empty. Raises UsageError."""
    found = _decode(text, "X-Registry-Auth")
    return from_document({key.lower(): value for key, value in found.items()}, "X-Registry-Auth")


def from_config_header(text: str) -> Known:
    """A look-up in `X-Registry-Config`: a map of registries to what `X-Registry-Auth` holds. Raises UsageError."""
    found = _decode(text, "X-Registry-Config")
    return Known(tuple((server_key(name), from_document(value, f"X-Registry-Config/{name}"))
                       for name, value in found.items()))


def _decode(text: str, field: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    if len(text) > HEADER_LIMIT:
        raise UsageError(f"invalid {field} header: longer than {HEADER_LIMIT} characters", field=field)
    try:
        plain = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
        value = json.loads(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True) or b"{}")
    except (binascii.Error, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"invalid {field} header: not base64 of a JSON object", field=field,
                         hint="e30= is the empty object, for no credentials")
    return value


def from_document(value: object, field: str) -> Credentials:
    """Credentials of one object of config.json or of a header. Raises UsageError that names `field`."""
    if not isinstance(value, dict):
        raise UsageError(f"invalid credentials in {field}: not an object", field=field)
    names = ("username", "password", "identitytoken", "registrytoken", "auth")
    for name in names:
        if not isinstance(value.get(name) or "", str):
            raise UsageError(f"invalid credentials in {field}: {name} is no text", field=f"{field}/{name}")
    username, password, identity, registry, auth = (value.get(name) or "" for name in names)
    if auth and not (username or password):
        try:
            pair = base64.b64decode(auth, validate=True).decode()
        except (binascii.Error, ValueError):
            pair = ""
        username, colon, password = pair.rstrip("\0").partition(":")
        if not colon:
            raise UsageError(f"invalid credentials in {field}: auth is not base64 of USER:PASSWORD", field=f"{field}/auth")
    return Credentials(username, password, identity, registry)


# ---- the user's config.json ----
def config_path(environ: Mapping[str, str] = os.environ) -> str:
    """`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`."""
    folder = environ.get("DOCKER_CONFIG", "") or os.path.join(environ.get("HOME", "") or os.path.expanduser("~"), ".docker")
    return os.path.join(folder, "config.json")


class ConfigFile:
    """A user's config.json and the helpers it names; read anew at each call. A missing file is an empty one."""

    def __init__(self, path: str = "") -> None:
        self.path = path or config_path()

    def __call__(self, server: str) -> Credentials:
        """Credentials for a registry. Raises UsageError for a broken file, RegistryError for a helper that fails."""
        document, key = self._read(), server_key(server)
        if name := self._helper(document, key):
            return _from_helper(helpers.get(name, key))
        return from_document(_entry(document, "auths", key) or {}, f"{self.path}: auths[{key}]")

    def store(self, server: str, credentials: Credentials) -> str:
        """Keeps credentials, in a helper when the file names one, else in the file (0600, by rename). Says where."""
        document, key = self._read(), server_key(server)
        if name := self._helper(document, key):
            token = credentials.identity_token
            helpers.store(name, key, helpers.TOKEN_USER if token else credentials.username, token or credentials.password)
            return f"docker-credential-{name}"
        pair = base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
        entry = {"auth": pair}
        if credentials.identity_token:
            name = base64.b64encode(f"{credentials.username}:".encode()).decode()
            entry = {"auth": name, "identitytoken": credentials.identity_token}
        auths = document.setdefault("auths", {})
        for known in [name for name in auths if server_key(name) == key]:
            del auths[known]
        auths[key] = entry
        self._write(document)
        return self.path

    def erase(self, server: str) -> bool:
        """Forgets a registry's credentials; False when there were none."""
        document, key = self._read(), server_key(server)
        if name := self._helper(document, key):
            return helpers.erase(name, key)
        auths = document.get("auths") or {}
        known = [name for name in auths if server_key(name) == key]
        for name in known:
            del auths[name]
        if known:
            self._write(document)
        return bool(known)

    def _helper(self, document: dict[str, Any], key: str) -> str:
        """The helper in charge of the host, "" when it is the file itself."""
        name = _entry(document, "credHelpers", key) or document.get("credsStore") or ""
        if not isinstance(name, str):
            raise UsageError(f"invalid {self.path}: the name of a credential helper is no text", field="credsStore")
        return name

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                raw = file.read(FILE_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}", field=self.path) from error
        try:
            document = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            raise UsageError(f"invalid {self.path}: {error}", field=self.path, hint="it is a JSON object") from None
        if not isinstance(document, dict) or len(raw) > FILE_LIMIT:
            raise UsageError(f"invalid {self.path}: not a JSON object", field=self.path)
        for name in ("auths", "credHelpers"):
            if not isinstance(document.get(name) or {}, dict):
                raise UsageError(f"invalid {self.path}: {name} is no object", field=f"/{name}")
        return document

    def _write(self, document: dict[str, Any]) -> None:
        """The new file takes the old one's place, through a symlink too; 0600 from its first byte on."""
        path = os.path.realpath(self.path)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        part = f"{path}.{secrets.token_hex(6)}"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(json.dumps(document, indent="\t") + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise


def _entry(document: dict[str, Any], table: str, key: str) -> Any:
    """The value of a table for a host, whose key may be written with scheme and path; the exact key first."""
    entries = document.get(table) or {}
    if key in entries:
        return entries[key]
    return next((value for name, value in entries.items() if server_key(name) == key), None)


def _from_helper(pair: tuple[str, str] | None) -> Credentials:
    if pair is None:
        return ANONYMOUS
    name, secret = pair
    return Credentials(identity_token=secret) if name == helpers.TOKEN_USER else Credentials(name, secret)
