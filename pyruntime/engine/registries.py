"""Registries as the engine asks them: clients with a request's credentials, login, distribution, search."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pyruntime.errors import EngineError, RegistryError, UsageError
from pyruntime.image.media import CONFIG_TYPES, Index, Manifest, parse_config, parse_manifest
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry.client import RegistryClient
from pyruntime.image.registry.credentials import ANONYMOUS, Credentials, from_header, only_for, server_key
from pyruntime.image.registry.hosts import CERTS_FOLDERS, from_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyruntime.engine.engine import Engine
    from pyruntime.image.registry.hosts import HostConfig

HUB = "https://index.docker.io/v1/"
SEARCH = "https://index.docker.io/v1/search"
SEARCH_LIMIT, SEARCH_MAX = 25, 100
SEARCH_BYTES = 4 << 20
PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")
SEARCH_FILTERS = ("is-automated", "is-official", "stars")


def host_config(engine: Engine) -> HostConfig:
    """The registries' settings of this daemon; proxies of daemon.json go before those of its environment."""
    settings = engine.settings
    mirrors = (("docker.io", settings.registry_mirrors),) if settings.registry_mirrors else ()
    folders = tuple(dict.fromkeys((f"{settings.config_folder}/certs.d", *CERTS_FOLDERS)))
    found = from_environment(os.environ, mirrors=mirrors, insecure=settings.insecure_registries, certs_folders=folders)
    return found.replace(http_proxy=settings.http_proxy or found.http_proxy, no_proxy=settings.no_proxy or found.no_proxy,
                         https_proxy=settings.https_proxy or found.https_proxy)  # fmt: skip


@contextmanager
def client_for(engine: Engine, domain: str, header: str,
               warn: Callable[[str], None] | None = None) -> Iterator[RegistryClient]:  # fmt: skip
    """A client that shows the credentials of X-Registry-Auth to `domain` alone; none when they cannot be read."""
    try:
        credentials = from_header(header)
    except UsageError as error:
        engine.journal.warn(f"{error.message}: asking {domain} without credentials")
        credentials = ANONYMOUS
    client = RegistryClient(host_config(engine), only_for(domain, credentials), warn=warn)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def worded(name: str) -> Iterator[None]:
    """Turns a registry's refusals into the errors that Docker's users and tools look for; `name` as they typed it."""
    try:
        yield
    except RegistryError as error:
        text = error.message
        if error.code == "MANIFEST_UNKNOWN":
            raise EngineError(f"manifest for {name} not found: manifest unknown: manifest unknown", status=404) from error
        if error.unauthorized or error.code == "NAME_UNKNOWN":
            rest = text.partition("may require authorization: ")[2] or text
            repository = name.partition("@")[0]
            head, colon, tag = repository.rpartition(":")
            repository = head if colon and "/" not in tag else repository
            raise EngineError(f"pull access denied for {repository}, repository does not exist or may require "
                              f"'docker login': {rest}", status=404) from error  # fmt: skip
        raise


@contextmanager
def denied(name: str) -> Iterator[None]:
    """The same for a push."""
    try:
        yield
    except RegistryError as error:
        if error.unauthorized:
            raise EngineError(f"denied: requested access to the resource is denied: {error.message}", status=403,
                              value=name) from error  # fmt: skip
        raise


# ---- login ----------------------------------------------------------------------------------------------------------
def login(engine: Engine, body: dict[str, Any]) -> dict[str, str]:
    """POST /auth: whether the registry takes the credentials. Raises EngineError 401."""
    fields = {}
    for name in ("username", "password", "identitytoken", "serveraddress"):
        value = body.get(name) or ""
        if not isinstance(value, str):
            raise EngineError(f"invalid JSON: {name} has to be a string", status=400)
        fields[name] = value
    key = server_key(fields["serveraddress"] or HUB)
    domain = "docker.io" if key == HUB else key
    credentials = Credentials(fields["username"], fields["password"], fields["identitytoken"])
    client = RegistryClient(host_config(engine), only_for(domain, credentials))
    try:
        token = client.login(domain)
    except RegistryError as error:
        if error.unauthorized:
            raise EngineError(f'Get "https://{domain}/v2/": {error.message}', status=401) from error
        raise
    finally:
        client.close()
    return {"Status": "Login Succeeded", "IdentityToken": token}


# ---- distribution ---------------------------------------------------------------------------------------------------
def distribution(engine: Engine, name: str, header: str) -> dict[str, Any]:
    """GET /distribution/{name}/json: the descriptor behind a name, and its platforms; nothing is stored."""
    reference = parse_reference(name)
    with worded(reference.familiar), client_for(engine, reference.domain, header) as client:
        fetched = client.manifest(reference)
        found = parse_manifest(fetched.raw, fetched.content_type)
        if isinstance(found, Index):
            entries = json.loads(fetched.raw)["manifests"]
            platforms = [entry["platform"] for entry, parsed in zip(entries, found.manifests)
                         if parsed.platform and not parsed.is_attestation]  # fmt: skip
        else:
            platforms = _platform(client, reference.name, found)
    descriptor = {"mediaType": found.media_type, "digest": fetched.digest, "size": fetched.size}
    return {"Descriptor": descriptor, "Platforms": [_wire(platform) for platform in platforms]}


def _platform(client: RegistryClient, name: str, manifest: Manifest) -> list[dict[str, Any]]:
    """The platform of a single image, from its config; an artifact has none."""
    if manifest.config.media_type not in CONFIG_TYPES:
        return []
    raw = client.blob_bytes(name, manifest.config.digest, manifest.config.size, what="config")
    return [parse_config(raw).document]


def _wire(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a platform, as they are written."""
    return {key: value[key] for key in PLATFORM if value.get(key)}


# ---- search ---------------------------------------------------------------------------------------------------------
def search(engine: Engine, term: str, limit: int, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
    """GET /images/search: what the hub's index has for a term. No other registry can be searched."""
    for key in filters:
        if key not in SEARCH_FILTERS:
            raise EngineError(f"invalid filter '{key}'", status=400)
    if limit and not 1 <= limit <= SEARCH_MAX:
        raise EngineError(f"limit {limit} is outside the range of [1, {SEARCH_MAX}]", status=400)
    wanted = _chooser(filters)
    host, slash, rest = term.partition("/")
    if slash and (":" in host or "." in host) and host not in ("docker.io", "index.docker.io"):
        raise EngineError(f"the registry {host} cannot be searched: only Docker Hub has an index", status=400)
    term = rest if host in ("docker.io", "index.docker.io") else term
    client = RegistryClient(host_config(engine))
    query = urlencode({"q": term, "n": limit or SEARCH_LIMIT})
    try:
        with _answer(client, f"{SEARCH}?{query}") as answer:
            if answer.status != 200:
                raise EngineError(f"unexpected status code {answer.status} from {SEARCH}", status=500)
            value = json.loads(answer.read(SEARCH_BYTES))
    except ValueError as error:
        raise EngineError(f"the answer of {SEARCH} is no JSON: {error}", status=500) from None
    finally:
        client.close()
    rows = [row for row in value.get("results", []) if isinstance(row, dict) and wanted(row)]
    return [{"star_count": row.get("star_count", 0), "is_official": bool(row.get("is_official")),
             "name": row.get("name", ""), "is_automated": False, "description": row.get("description") or ""}
            for row in rows]  # fmt: skip


def _answer(client: RegistryClient, url: str) -> Any:
    from pyruntime.image.registry.exchange import follow
    from pyruntime.image.registry.http import Operation

    return follow(client.http, Operation(), "GET", url, {"Accept": "application/json"})


def _chooser(filters: dict[str, list[str]]) -> Callable[[dict[str, Any]], bool]:
    """Whether a result fits the filters. Raises EngineError 400."""
    from pyruntime.engine.images import boolean

    official, automated = boolean(filters, "is-official"), boolean(filters, "is-automated")
    try:
        stars = max(map(int, filters.get("stars", ["0"])))
    except ValueError:
        raise EngineError(f"invalid filter 'stars=[{' '.join(filters['stars'])}]'", status=400) from None

    def wanted(row: dict[str, Any]) -> bool:
        return (official in (None, bool(row.get("is_official"))) and not automated
                and int(row.get("star_count", 0)) >= stars)  # fmt: skip

    return wanted
