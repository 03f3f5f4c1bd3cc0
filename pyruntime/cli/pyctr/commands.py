"""Every command of pyctr as data: parser, help, completion and manual are made from here. Source: contract engine-api 10.

A row: name, arguments, least and most positionals (-1: no bound), summary, flags, `module.function` in this package, and
where a command line of the user's own is among the positionals, the number of its first word.
"""

from __future__ import annotations

from typing import Any

from pyruntime.cli.flags import BOOL, INT, LIST, TEXT, Flag, records
from pyruntime.record import Record

FORMAT = ("format", "f", TEXT, "", "", "Go template, `table TEMPLATE` or `json`")
LIST_FORMAT = ("format", "", TEXT, "", "", "Go template, `table TEMPLATE` or `json`")
FILTER = ("filter", "f", LIST, (), "filter", "only what fits, as in `key=value`")
NO_TRUNC = ("no-trunc", "", BOOL, False, "", "do not cut anything short")
PLATFORM = ("platform", "", TEXT, "", "", "which platform's image is meant, as in `linux/arm64`")
TRUST = ("disable-content-trust", "", BOOL, True, "", "no signatures are looked at", True)
FORCE_PRUNE = ("force", "f", BOOL, False, "", "do not ask")
# what a value is called where a row does not say
METAVARS = {BOOL: "", TEXT: "string", INT: "int", LIST: "list"}


def flags_of(rows: tuple[tuple[Any, ...], ...]) -> tuple[Flag, ...]:
    """Flags as records."""
    return tuple(flag if flag.metavar else flag.replace(metavar=METAVARS[flag.kind]) for flag in records(rows))


GLOBAL = flags_of((
    ("host", "H", LIST, (), "list", "the engine's socket (default: the user's own pyctrd, started when needed)"),
    ("debug", "D", BOOL, False, "", "show where an error comes from"),
    ("config", "", TEXT, "", "", "folder of config.json (default: $DOCKER_CONFIG or ~/.docker)"),
    ("version", "v", BOOL, False, "", "print the version"),
))  # fmt: skip


class Command(Record):
    """One command."""

    name: str
    arguments: str
    least: int
    most: int
    summary: str
    flags: tuple[Flag, ...]
    function: str
    stops: int = 0  # the positional that ends the flags; 0 for none


ROWS: dict[str, tuple[Any, ...]] = {
    "version": ("[OPTIONS]", 0, 0, "Show the versions of pyctr and the engine", (FORMAT,), "system.version"),
    "system info": ("[OPTIONS]", 0, 0, "Show the engine and its machine", (FORMAT,), "system.info"),
    "system events": ("[OPTIONS]", 0, 0, "Print what happens in the engine", (
        FILTER, LIST_FORMAT, ("since", "", TEXT, "", "", "from this time on: RFC 3339, seconds, or 10m for so long ago"),
        ("until", "", TEXT, "", "", "until this time")), "system.events"),
    "system df": ("[OPTIONS]", 0, 0, "Show what takes space on disk", (
        LIST_FORMAT, ("verbose", "v", BOOL, False, "", "every image")), "usage.usage"),
    "system prune": ("[OPTIONS]", 0, 0, "Remove what nothing uses", (
        ("all", "a", BOOL, False, "", "all unused images, not only those without a name"), FORCE_PRUNE,
        ("filter", "", LIST, (), "filter", "only what fits, as in `until=24h` or `label=key`"),
        ("volumes", "", BOOL, False, "", "anonymous volumes too")), "usage.prune"),
    "image ls": ("[OPTIONS] [REPOSITORY[:TAG]]", 0, 1, "List images", (
        ("all", "a", BOOL, False, "", "images without a name that others are built on, too"),
        ("digests", "", BOOL, False, "", "show digests"), FILTER, LIST_FORMAT,
        NO_TRUNC, ("quiet", "q", BOOL, False, "", "IDs only")), "images.images"),
    "image pull": ("[OPTIONS] NAME[:TAG|@DIGEST]", 1, 1, "Download an image from a registry", (
        ("all-tags", "a", BOOL, False, "", "every tag of the repository"), TRUST, PLATFORM,
        ("quiet", "q", BOOL, False, "", "print the name alone")), "transfer.pull"),
    "image push": ("[OPTIONS] NAME[:TAG]", 1, 1, "Upload an image to a registry", (
        ("all-tags", "a", BOOL, False, "", "every tag of the repository"), TRUST, PLATFORM,
        ("quiet", "q", BOOL, False, "", "print the name alone")), "transfer.push"),
    "image tag": ("SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", 2, 2, "Give an image a further name", (), "images.tag"),
    "image rm": ("[OPTIONS] IMAGE [IMAGE...]", 1, -1, "Remove images", (
        ("force", "f", BOOL, False, "", "also when several names or a stopped container use it"),
        ("no-prune", "", BOOL, False, "", "leave parents without a name")), "images.remove"),
    "image prune": ("[OPTIONS]", 0, 0, "Remove images that nothing uses", (
        ("all", "a", BOOL, False, "", "all unused images, not only those without a name"),
        ("filter", "", LIST, (), "filter", "only what fits, as in `until=24h` or `label=key`"), FORCE_PRUNE),
        "images.prune"),
    "image save": ("[OPTIONS] IMAGE [IMAGE...]", 1, -1, "Write images to an archive", (
        ("output", "o", TEXT, "", "", "a file instead of standard output"), PLATFORM), "transfer.save"),
    "image load": ("[OPTIONS]", 0, 0, "Read images from an archive", (
        ("input", "i", TEXT, "", "", "a file instead of standard input"), PLATFORM,
        ("quiet", "q", BOOL, False, "", "no progress")), "transfer.load"),
    "image import": ("[OPTIONS] file|URL|- [REPOSITORY[:TAG]]", 1, 2, "Make an image of a root file system", (
        ("change", "c", LIST, (), "list", "a Dockerfile instruction for its configuration, as in `CMD sh`"),
        ("message", "m", TEXT, "", "", "a comment for its history"), PLATFORM), "transfer.import_"),
    "image history": ("[OPTIONS] IMAGE", 1, 1, "Show how an image came about", (
        LIST_FORMAT, ("human", "H", BOOL, True, "", "sizes and ages in words (default)"), NO_TRUNC,
        ("quiet", "q", BOOL, False, "", "IDs only")), "images.history"),
    "image inspect": ("[OPTIONS] IMAGE [IMAGE...]", 1, -1, "Show images in detail", (FORMAT,), "images.inspect_image"),
    "inspect": ("[OPTIONS] NAME|ID [NAME|ID...]", 1, -1, "Show objects in detail", (
        FORMAT, ("size", "s", BOOL, False, "", "sizes of containers", True),
        ("type", "", TEXT, "", "", "container, image, network, plugin or volume")), "images.inspect"),
    "bundle": ("[OPTIONS] IMAGE DIR [COMMAND] [ARG...]", 2, -1, "Unpack an image into a bundle for an OCI runtime", (
        PLATFORM, ("tty", "t", BOOL, False, "", "the process gets a terminal")), "bundle.bundle", 3),
    "login": ("[OPTIONS] [SERVER]", 0, 1, "Log in to a registry", (
        ("password", "p", TEXT, "", "", "password or token"),
        ("password-stdin", "", BOOL, False, "", "read the password from standard input"),
        ("username", "u", TEXT, "", "", "user name")), "registry.login"),
    "logout": ("[SERVER]", 0, 1, "Log out of a registry", (), "registry.logout"),
    "search": ("[OPTIONS] TERM", 1, 1, "Search the hub for images", (
        FILTER, LIST_FORMAT, ("limit", "", INT, 0, "", "at most so many results"), NO_TRUNC), "registry.search"),
}  # fmt: skip
# short name -> the row it is
ALIASES = {"info": "system info", "events": "system events", "images": "image ls", "image list": "image ls",
           "pull": "image pull", "push": "image push", "tag": "image tag", "rmi": "image rm", "image remove": "image rm",
           "save": "image save", "load": "image load", "import": "image import", "history": "image history"}  # fmt: skip
# Commands of Docker's that want what the engine does not have yet.
CONTAINERS = ("attach", "container", "cp", "create", "diff", "exec", "kill", "logs", "pause", "port", "ps", "rename",
              "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait")  # fmt: skip
GROUPS = {"image": "Manage images", "system": "Manage the engine"}
SHOWN = ("bundle", "events", "history", "images", "import", "info", "inspect", "load", "login", "logout", "pull", "push",
         "rmi", "save", "search", "tag", "version")  # in the program's help


def command(name: str) -> Command | None:
    """The command of a name or alias, None when there is none."""
    row = ROWS.get(ALIASES.get(name, name))
    if row is None:
        return None
    arguments, least, most, summary, flags, function, *stops = row
    return Command(name, arguments, least, most, summary, flags_of(flags), function, *stops)


def names_of(name: str) -> list[str]:
    """All names of a command, the main one first."""
    main = ALIASES.get(name, name)
    return [main, *(alias for alias, target in ALIASES.items() if target == main)]


def find(words: list[str]) -> tuple[Command | None, list[str]]:
    """(the command that the first one or two words name, the words after it)."""
    if len(words) > 1 and words[0] in GROUPS:
        return command(f"{words[0]} {words[1]}"), words[2:]
    return command(words[0]), words[1:]
