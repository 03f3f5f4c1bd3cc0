"""The `pyctr` command's outermost frame: global flags, the command, and errors as docker words them.

Exit codes: 0, 1 for what failed, 125 for a flag that is wrong, 130 after Ctrl-C, 141 when nobody reads the answer.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from pyruntime.cli.advice import nearest
from pyruntime.cli.parse import HelpAsked
from pyruntime.cli.pyctr import commands
from pyruntime.cli.pyctr import help as help_
from pyruntime.cli.pyctr.call import Call, Failed, worded
from pyruntime.cli.pyctr.words import parse_words
from pyruntime.errors import RuntimeFailure, UsageError
from pyruntime.version import VERSION

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.commands import Command

FAILED, BAD_FLAG, INTERRUPTED = 1, 125, 130
NO_READER = 141  # what a shell makes of a program that SIGPIPE ended


def entry() -> NoReturn:
    """The installed command."""
    try:
        code = main(sys.argv[1:])
    except OSError as error:  # of what main itself prints
        code = _unwritten(error)
    sys.exit(_flush() or code)


def _flush() -> int:
    """Writes out what was printed; the exit code when that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _unwritten(error)
    return 0


def _unwritten(error: OSError) -> int:
    """The exit code of an answer that cannot be written, which is told unless its reader has gone, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return NO_READER
    print(f"cannot write to standard output: {(error.strerror or '').lower()}", file=sys.stderr)
    return FAILED


def main(words: list[str]) -> int:
    """The exit code of a command line without the program's name."""
    try:
        parsed = parse_words(commands.GLOBAL, words, stops=1)
    except HelpAsked:
        return _print(_program_help())
    except UsageError as error:
        return _complain(f"{error}\n\nUsage:  pyctr [OPTIONS] COMMAND [ARG...]\n\nRun 'pyctr --help' for more information",
                         BAD_FLAG)  # fmt: skip
    if parsed.values["version"]:
        return _print(f"pyctr version {VERSION}\n")
    rest = list(parsed.rest)
    if not rest or rest[0] == "help":
        return _help(rest[1:])
    found, after = commands.find(rest)
    if found is None:
        return _unknown(rest)
    if parsed.values["config"]:
        os.environ["DOCKER_CONFIG"] = parsed.values["config"]
    hosts = parsed.values["host"]
    if len(hosts) > 1:
        return _complain("Specify only one -H", FAILED)
    return _run(found, after, hosts[0] if hosts else os.environ.get("DOCKER_HOST", ""), debug=parsed.values["debug"])


def _run(command: Command, words: list[str], host: str, *, debug: bool) -> int:
    """Parses the command's words and calls its function."""
    try:
        parsed = parse_words(command.flags, words, stops=command.stops)
    except HelpAsked:
        return _print(help_.command_help(command, commands.names_of(command.name)))
    except UsageError as error:
        return _complain(f"{error}\n\n{_more(command)}", BAD_FLAG)
    if problem := count_problem(command, len(parsed.rest)):
        return _complain(f"pyctr: 'pyctr {command.name}' {problem}\n\n{_more(command)}", FAILED)
    try:
        _call(command.function, Call(host, parsed.values, parsed.given, parsed.rest))
    except Failed as failed:
        return failed.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError as error:
        return _unwritten(error)
    except (RuntimeFailure, OSError) as error:
        if debug:
            traceback.print_exc()
        return _complain(worded(error), getattr(error, "code", FAILED))
    return 0


def _call(name: str, call: Call) -> None:
    """Runs `module.function` of this package."""
    module, _, function = name.partition(".")
    getattr(import_module(f"pyruntime.cli.pyctr.{module}"), function)(call)


def count_problem(command: Command, count: int) -> str:
    """What is wrong with the number of positionals, "" when nothing is."""
    least, most = command.least, command.most
    if least <= count and (most < 0 or count <= most):
        return ""
    if most == 0:
        return "accepts no arguments"
    if least == most:
        return f"requires {least} argument{'s' * (least != 1)}"
    if count < least:
        return f"requires at least {least} argument{'s' * (least != 1)}"
    return f"requires at most {most} argument{'s' * (most != 1)}"


def _more(command: Command) -> str:
    """The usage line and where to read on."""
    return f"{help_.usage(command)}\n\nRun 'pyctr {command.name} --help' for more information"


def _help(words: list[str]) -> int:
    """`pyctr help [COMMAND]`."""
    if not words:
        return _print(_program_help())
    found, _ = commands.find(words)
    if found is not None:
        return _print(help_.command_help(found, commands.names_of(found.name)))
    if words[0] in commands.GROUPS:
        return _print(_group_help(words[0]))
    return _unknown(words)


def _unknown(words: list[str]) -> int:
    """A word that is no command, or a group without one."""
    group = words[0] if words[0] in commands.GROUPS else ""
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        return _print(_group_help(group))
    name = " ".join(words[: 2 if group else 1])
    return _complain(f"pyctr: unknown command: pyctr {name}\n\n{_guess(name, group)}"
                     f"Run 'pyctr {group}{' ' if group else ''}--help' for more information", FAILED)  # fmt: skip


def _guess(name: str, group: str) -> str:
    """What the user may have meant, and what there is instead; "" when that is not known."""
    if name in commands.CONTAINERS:
        return ("The engine has no containers yet: 'pyctr bundle IMAGE DIR' and 'pyruntime run DIR/' run an image, "
                "'pyruntime list' shows what runs.\n\n")  # fmt: skip
    known = [one for one in (*commands.ROWS, *commands.ALIASES, *commands.GROUPS) if one.count(" ") == bool(group)]
    meant = nearest(name, [one for one in known if not group or one.startswith(f"{group} ")])
    return f"Did you mean 'pyctr {meant}'?\n\n" if meant else ""


def _program_help() -> str:
    shown = [(name, row.summary) for name in commands.SHOWN if (row := commands.command(name))]
    return help_.program_help(list(commands.GROUPS.items()), shown, commands.GLOBAL)


def _group_help(group: str) -> str:
    rows = [(name.split()[1], row[3]) for name, row in commands.ROWS.items() if name.startswith(f"{group} ")]
    return help_.group_help(group, commands.GROUPS[group], rows)


def _print(text: str) -> int:
    print(text, end="")
    return 0


def _complain(text: str, code: int) -> int:
    code = _flush() or code
    print(text, file=sys.stderr)
    return code
