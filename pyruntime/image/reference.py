"""References: the names users and registries give images (distribution's reference grammar, Docker's short form).

    reference = name [":" tag] ["@" digest]     name = [domain "/"] path, 255 characters at most

`ubuntu` is short for `docker.io/library/ubuntu:latest`. The first component is a domain when it has a dot, a colon
or an upper-case letter, or is `localhost`.
"""

from __future__ import annotations

import re

from pyruntime.errors import ImageError, InvalidReference
from pyruntime.image.digest import check_digest
from pyruntime.record import Record

DEFAULT_DOMAIN = "docker.io"
OFFICIAL = "library/"
NAME_MAX = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHORT = re.compile(r"[^:]*:.{0,31}")
_ID = re.compile(r"[0-9a-f]{64}")


class Reference(Record):
    """A name with its tag, digest or both; `tag` and `digest` are "" when not given. `domain` is never empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The full name without tag and digest: `docker.io/library/x`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as users see it: `x`, `user/x`, `host:5000/x`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        path = self.path
        if path.startswith(OFFICIAL) and path.count("/") == 1:
            return path[len(OFFICIAL) :]
        # `docker.io/a.b/c` without its domain would be read as host a.b
        return self.name if _is_domain(path.partition("/")[0]) else path

    @property
    def familiar(self) -> str:
        """The whole reference as users see it: `x:latest`, `x@sha256:…`; also `x:1@sha256:…`."""
        return self.familiar_name + self._suffix()

    @property
    def repo_digest(self) -> str:
        """`x@sha256:…`, "" without a digest."""
        return f"{self.familiar_name}@{self.digest}" if self.digest else ""

    @property
    def endpoint(self) -> str:
        """Host and port of the registry: docker.io is served by registry-1.docker.io."""
        return "registry-1.docker.io" if self.domain == DEFAULT_DOMAIN else self.domain

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest when there is one, else the tag."""
        return self.digest or self.tag

    def with_tag(self, tag: str) -> Reference:
        """The same name with this tag alone. Raises InvalidReference."""
        return Reference(self.domain, self.path, check_tag(tag))

    def with_digest(self, digest: str) -> Reference:
        """The same name with this digest alone."""
        return Reference(self.domain, self.path, "", digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def check_tag(tag: str) -> str:
    """`tag` itself, when it is one. Raises InvalidReference."""
    if not _TAG.fullmatch(tag):
        raise InvalidReference("invalid tag format", value=tag,
                               hint="a tag is 1 to 128 letters, digits, _ . - and begins with no . or -")
    return tag


def parse_familiar(text: str) -> Reference:
    """The reference a user typed; a missing tag stays missing. Raises InvalidReference."""
    if _ID.fullmatch(text):
        raise InvalidReference(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings", value=text,
                               hint="64 hexadecimal digits are an image ID, not a name")
    domain, rest = _split_domain(text)
    rest, at, digest = rest.partition("@")
    # a tag has no "/" and a path no ":": the first colon ends the path
    path, colon, tag = rest.partition(":")
    if path.lower() != path:
        raise InvalidReference(f"invalid reference format: repository name ({path}) must be lowercase", value=text,
                               hint=f"write {path.lower()}")
    if not _PATH.fullmatch(path) or not _DOMAIN.fullmatch(domain) or (colon and not _TAG.fullmatch(tag)):
        raise InvalidReference("invalid reference format", value=text, hint="write [host[:port]/]name[:tag][@digest]")
    if len(domain) + 1 + len(path) > NAME_MAX:
        raise InvalidReference(f"repository name must not be more than {NAME_MAX} characters", value=f"{text[:64]}...")
    if at:
        if _SHORT.fullmatch(digest):  # no digest by the reference grammar, whatever its algorithm
            raise InvalidReference("invalid reference format", value=text, hint="a digest has 32 hexadecimal digits or more")
        try:
            check_digest(digest, computable=True)
        except ImageError as error:
            message = "invalid reference format" if "format" in error.message else error.message
            raise InvalidReference(message, value=text, hint=error.hint) from None
    return Reference(domain, path, tag, digest)


def parse_reference(text: str) -> Reference:
    """The reference a user typed, `latest` when it has neither tag nor digest. Raises InvalidReference."""
    found = parse_familiar(text)
    return found if found.tag or found.digest else found.replace(tag="latest")


def _is_domain(word: str) -> bool:
    return "." in word or ":" in word or word == "localhost" or word.lower() != word


def _split_domain(text: str) -> tuple[str, str]:
    """(domain, the rest); Docker's own hub and its `library/` when they are not written."""
    first, slash, rest = text.partition("/")
    if not slash or not _is_domain(first):
        first, rest = DEFAULT_DOMAIN, text
    if first == "index.docker.io":
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in rest.partition("@")[0]:
        rest = OFFICIAL + rest
    return first, rest
