"""--help and --version, from the tables of flags.py."""

from __future__ import annotations

import posix

from pyruntime.cli import terminal
from pyruntime.cli.flags import BOOL, GLOBAL, LIST, VERBS, Flag, records, verb
from pyruntime.version import SPEC_VERSION, VERSION

ABOUT = ("Runs containers from OCI bundles, with runc's commands and flags. A bundle is a folder with a config.json and a "
         "root filesystem.")  # fmt: skip
WIDTH = 100  # of paragraphs, where the terminal is not narrower


def help_text(name: str, width: int = 0) -> str:
    """Help of the verb `name`, of the whole program when it is "", for a terminal of `width` columns (0: none)."""
    called = verb(name) if name else None
    if called is None:
        return _program_help(width)
    usage = " ".join(["pyruntime", name, *(["[flags]"] if called.flags else []), called.arguments]).rstrip()
    text = f"NAME:\n   pyruntime {name} - {called.summary}\n\nUSAGE:\n   {usage}\n\n{_paragraph(called.about, width)}\n"
    return text + (f"\nOPTIONS:\n{_flag_lines(called.flags, width)}" if called.flags else "")


def _program_help(width: int) -> str:
    pairs = [*[(name, row[3]) for name, row in VERBS.items()], ("help", "print help of a command")]
    commands = terminal.rows(pairs, margin=3, gap=3, width=width)
    extra = (Flag("help", "h", BOOL, False, "", "print help"), Flag("version", "v", BOOL, False, "", "print versions"))
    return (f"NAME:\n   pyruntime - OCI container runtime\n\n{_paragraph(ABOUT, width)}\n\n"
            "USAGE:\n   pyruntime [global flags] COMMAND [flags] ARGUMENTS\n\n"
            f"VERSION:\n   {VERSION}\n\nCOMMANDS:\n{commands}\n"
            f"GLOBAL OPTIONS:\n{_flag_lines(records(GLOBAL) + extra, width)}")  # fmt: skip


def flag_words(flag: Flag) -> str:
    """The flag as help shows it: `--pid-file PATH`, `--force, -f`."""
    value = f" {flag.metavar}" if flag.metavar else ""
    return f"--{flag.name}{value}" + (f", -{flag.short}{value}" if flag.short else "")


def flag_help(flag: Flag) -> str:
    """The flag's text, with its default unless the text says it or it is empty."""
    if flag.kind in (BOOL, LIST) or not flag.default or "default" in flag.help:
        return flag.help
    value = f"{flag.default:g}s" if isinstance(flag.default, float) else flag.default
    return f"{flag.help} (default: {value})"


def _flag_lines(flags: tuple[Flag, ...], width: int) -> str:
    pairs = [(flag_words(flag), flag_help(flag)) for flag in flags if not flag.hidden]
    return terminal.rows(pairs, margin=3, gap=2, width=width)


def _paragraph(text: str, width: int) -> str:
    return "\n".join(terminal.wrap(text, min(width or WIDTH, WIDTH)))


def version_text() -> str:
    """Lines that docker and go-runc find by their beginnings (contract 1.1)."""
    lines = [f"pyruntime version {VERSION}"]
    if commit := _commit():
        lines.append(f"commit: {commit}")
    lines.append(f"spec: {SPEC_VERSION}")
    if library := _libseccomp():
        lines.append(f"libseccomp: {library}")
    return "\n".join(lines) + "\n"


def _commit() -> str:
    """The commit this was built from, "" when unknown."""
    try:
        fd = posix.open(__file__.rpartition("/cli/")[0] + "/COMMIT", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return posix.read(fd, 100).decode("ascii", "replace").strip()
    finally:
        posix.close(fd)


def _libseccomp() -> str:
    """The version of libseccomp that is loaded at run time, "" without one."""
    try:
        from pyruntime.native.seccomp import libseccomp_version

        return libseccomp_version()
    except ImportError:  # cffi itself, which the extension needs, may be missing
        return ""
