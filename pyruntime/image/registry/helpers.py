"""Credential helpers: programs `docker-credential-NAME get|store|erase|list` that keep secrets for config.json.

The server or a JSON object goes in on stdin, JSON comes out on stdout; a failure is exit code 1 with its text on
stdout. Secrets are in no argument and in no error text.
"""

from __future__ import annotations

import json
import re

from pyruntime.errors import RegistryError

TOKEN_USER = "<token>"  # noqa: S105 # the name that says the secret is an identity token
NOT_FOUND = "credentials not found in native keychain"
TIMEOUT_S = 120  # a helper may ask its user for a passphrase
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def get(name: str, server: str) -> tuple[str, str] | None:
    """(user, secret) of a server, None when the helper has none. Raises RegistryError that names the helper."""
    code, out = _run(name, "get", server)
    if code != 0:
        if NOT_FOUND in out:
            return None
        said = "" if "Secret" in out else out.strip()[:200]  # an answer all the same is in no error text
        raise _failure(name, f"get failed: {said or f'exit code {code}'}")
    try:
        answer = json.loads(out)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, TypeError, KeyError):
        raise _failure(name, "get answered no JSON object with Username and Secret") from None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise _failure(name, "get answered a Username or Secret that is no text")
    return (user, secret) if user or secret else None


def store(name: str, server: str, user: str, secret: str) -> None:
    """Hands a secret to the helper. Raises RegistryError."""
    code, out = _run(name, "store", json.dumps({"ServerURL": server, "Username": user, "Secret": secret}))
    if code != 0:
        raise _failure(name, f"store failed: {out.strip()[:200].replace(secret, '***') or f'exit code {code}'}")


def erase(name: str, server: str) -> bool:
    """Makes the helper forget a server; False when it knew none. Raises RegistryError."""
    code, out = _run(name, "erase", server)
    if code != 0 and NOT_FOUND not in out:
        raise _failure(name, f"erase failed: {out.strip()[:200] or f'exit code {code}'}")
    return code == 0


def servers(name: str) -> dict[str, str]:
    """What `list` gives: user by server. Raises RegistryError."""
    code, out = _run(name, "list", "")
    try:
        answer = json.loads(out or "{}") if code == 0 else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _failure(name, f"list failed: {out.strip()[:200] if code else 'no JSON object'}")
    return {str(server): str(user) for server, user in answer.items()}


def _run(name: str, verb: str, stdin: str) -> tuple[int, str]:
    import subprocess

    if not _NAME.fullmatch(name):
        raise _failure(name, "is no name of a helper")
    try:
        done = subprocess.run([f"docker-credential-{name}", verb], input=stdin.encode(), stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise _failure(name, "is not in PATH") from None
    except OSError as error:
        raise _failure(name, f"cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise _failure(name, f"{verb} did not end within {TIMEOUT_S} s") from None
    return done.returncode, done.stdout.decode(errors="replace")


def _failure(name: str, said: str) -> RegistryError:
    return RegistryError(f"credential helper docker-credential-{name} {said}", field="credsStore", value=name,
                         hint="install the helper, or take its name out of config.json (credHelpers, credsStore)")
