"""login, logout, search. Credentials are kept where docker keeps them, in the calling user's config.json or its helper."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

from pyruntime.api.client.connection import ApiError
from pyruntime.cli.pyctr.listing import parse_filters, render
from pyruntime.cli.pyctr.names import HUB
from pyruntime.errors import UsageError
from pyruntime.image.registry.credentials import ConfigFile, Credentials, server_key

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call

HEADS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL"}
TABLE = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
TEXT_WIDTH = 45  # of a description


def login(call: Call) -> None:
    """Checks credentials with the registry, by the engine, and keeps them."""
    server = server_key(call.rest[0]) if call.rest else HUB
    if call["password"]:
        if call["password_stdin"]:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        call.tell("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if call["password_stdin"] and not call["username"]:
        raise UsageError("Must provide --username with --password-stdin")
    config = ConfigFile()
    found = _credentials(call, config, server)
    try:
        value = call.client.post("/auth", None, {"username": found.username, "password": found.password,
                                 "serveraddress": server, "identitytoken": found.identity_token})  # fmt: skip
    except ApiError as error:
        if error.status == 401 and "unauthorized" not in error.message:
            raise ApiError(401, f"login attempt to {server} failed with status: 401 Unauthorized") from None
        raise
    if token := (value or {}).get("IdentityToken"):
        found = Credentials(found.username, "", token)
    where = config.store(server, found)
    if where == config.path:
        call.tell(f"WARNING! Your credentials are stored unencrypted in '{where}': a helper that its credsStore names keeps "
                  "them safely.")  # fmt: skip
    print((value or {}).get("Status") or "Login Succeeded")


def _credentials(call: Call, config: ConfigFile, server: str) -> Credentials:
    """Those of the flags, those that are kept, or those somebody types. Raises UsageError without a terminal."""
    name, secret = call["username"], call["password"]
    if call["password_stdin"]:
        secret = sys.stdin.read().rstrip("\r\n")
    if not name and not secret:
        kept = config(server)
        if kept.username or kept.identity_token:
            print(f"Authenticating with existing credentials... [Username: {kept.username}]", flush=True)
            return kept
    if not (name and secret) and not sys.stdin.isatty():
        raise UsageError("Error: Cannot perform an interactive login from a non TTY device")
    name = name or input("Username: ").strip()
    if not name:
        raise UsageError("username is required")
    secret = secret or getpass.getpass("Password: ")
    if not secret:
        raise UsageError("password is required")
    return Credentials(name, secret)


def logout(call: Call) -> None:
    """Forgets credentials."""
    server = server_key(call.rest[0]) if call.rest else HUB
    if ConfigFile().erase(server):
        print(f"Removing login credentials for {server}")
    else:
        print(f"Not logged in to {server}")


def search(call: Call) -> None:
    """Names on the hub."""
    query = {"term": call.rest[0], "limit": call["limit"] or None, "filters": parse_filters(call["filter"])}
    found = call.client.get("/images/search", query)
    rows = []
    for entry in found:
        text = " ".join(entry.get("description", "").split())
        if not call["no_trunc"] and len(text) > TEXT_WIDTH:
            text = f"{text[: TEXT_WIDTH - 1]}…"
        rows.append({"Name": entry["name"], "Description": text, "StarCount": str(entry["star_count"]),
                     "IsOfficial": "[OK]" if entry["is_official"] else ""})  # fmt: skip
    print(render(rows, HEADS, call["format"], TABLE), end="")
