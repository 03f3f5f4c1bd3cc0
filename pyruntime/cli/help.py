"""--help and --version, from the tables of flags.py."""

from __future__ import annotations

import posix

from pyruntime.cli.flags import BOOL, GLOBAL, LIST, VERBS, Flag, records, verb
from pyruntime.version import SPEC_VERSION, VERSION

ABOUT = """Runs containers from OCI bundles, with runc's commands and flags. A bundle is a folder with a config.json
and a root filesystem."""
WIDTH = 100


def help_text(name: str) -> str:
    """Help of the verb `name`, of the whole program when it is ""."""
    called = verb(name) if name else None
    if called is None:
        return _program_help()
    usage = " ".join(["pyruntime", name, *(["[flags]"] if called.flags else []), called.arguments]).rstrip()
    text = f"NAME:\n   pyruntime {name} - {called.summary}\n\nUSAGE:\n   {usage}\n\n{_wrap(called.about)}\n"
    return text + (f"\nOPTIONS:\n{_flag_lines(called.flags)}" if called.flags else "")


def _program_help() -> str:
    width = max(map(len, VERBS)) + 3
    commands = "".join([f"   {name.ljust(width)}{row[3]}\n" for name, row in VERBS.items()])
    extra = (Flag("help", "h", BOOL, False, "", "print help"), Flag("version", "v", BOOL, False, "", "print versions"))
    return (f"NAME:\n   pyruntime - OCI container runtime\n\n{ABOUT}\n\n"
            "USAGE:\n   pyruntime [global flags] COMMAND [flags] ARGUMENTS\n\n"
            f"VERSION:\n   {VERSION}\n\nCOMMANDS:\n{commands}   {'help'.ljust(width)}print help of a command\n\n"
            f"GLOBAL OPTIONS:\n{_flag_lines(records(GLOBAL) + extra)}")  # fmt: skip


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


def _flag_lines(flags: tuple[Flag, ...]) -> str:
    shown = [flag for flag in flags if not flag.hidden]
    width = max(len(flag_words(flag)) for flag in shown) + 2
    return "".join([f"   {flag_words(flag).ljust(width)}{flag_help(flag)}\n" for flag in shown])


def _wrap(text: str) -> str:
    """`text` in lines of at most WIDTH characters."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".lstrip()
    return "\n".join([*lines, line])


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
