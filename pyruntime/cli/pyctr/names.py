"""Image names as the command line needs them: name and tag apart, the registry's host, and what travels in headers."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from pyruntime.image.reference import parse_familiar

if TYPE_CHECKING:
    from pyruntime.image.reference import Reference
    from pyruntime.image.registry.credentials import Credentials

HUB = "https://index.docker.io/v1/"


def split_name(text: str) -> tuple[str, str]:
    """(full name, tag): the tag is "" when none is written, or the digest. Raises InvalidReference."""
    found = parse_familiar(text)
    return found.name, found.digest or found.tag


def auth_header(reference: Reference) -> dict[str, str]:
    """X-Registry-Auth with the calling user's own credentials for the reference's registry."""
    from pyruntime.image.registry.credentials import ConfigFile

    return {"X-Registry-Auth": encode(ConfigFile()(reference.domain), server_of(reference.domain))}


def server_of(domain: str) -> str:
    """The registry's name in config files."""
    return HUB if domain == "docker.io" else domain


def encode(found: Credentials, server: str) -> str:
    """Credentials as a header; no credentials are an empty object."""
    value = {"username": found.username, "password": found.password, "identitytoken": found.identity_token,
             "registrytoken": found.registry_token}  # fmt: skip
    value = {key: text for key, text in value.items() if text}
    if value:
        value["serveraddress"] = server
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()
