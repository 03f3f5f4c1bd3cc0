"""The words of the command line: contract 1.1."""

from __future__ import annotations

from typing import Any

import pytest

from pyruntime.cli.flags import GLOBAL, VERBS, records, verb
from pyruntime.cli.parse import HelpAsked, check_count, duration_s, parse_flags
from pyruntime.errors import UsageError


def parse(name: str, *words: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the flags that were given, the positionals)."""
    called = verb(name)
    assert called is not None
    parsed = parse_flags(called.flags, list(words), stops=called.stops)
    return {key: parsed.values[key] for key in parsed.given}, parsed.rest


@pytest.mark.parametrize(
    ("words", "given", "rest"),
    [
        (("delete", "--force", "x"), {"force": True}, ("x",)),
        (("delete", "-force", "x"), {"force": True}, ("x",)),
        (("delete", "x", "--force"), {"force": True}, ("x",)),
        (("delete", "-f", "x"), {"force": True}, ("x",)),
        (("delete", "--force=false", "x"), {"force": False}, ("x",)),
        (("delete", "--force=T", "x"), {"force": True}, ("x",)),
        (("delete", "--", "--force"), {}, ("--force",)),
        (("run", "-b", "dir", "x"), {"bundle": "dir"}, ("x",)),
        (("run", "-b=dir", "x"), {"bundle": "dir"}, ("x",)),
        (("run", "--bundle=", "x"), {"bundle": ""}, ("x",)),
        (("run", "--pid-file=a=b", "x"), {"pid_file": "a=b"}, ("x",)),
        (("run", "-no-subreaper", "-keep", "x"), {"no_subreaper": True, "keep": True}, ("x",)),
        (("run", "--preserve-fds", "0x10", "x"), {"preserve_fds": 16}, ("x",)),
        (("run", "--preserve-fds=010", "x"), {"preserve_fds": 8}, ("x",)),
        (("run", "--bundle", "--keep", "x"), {"bundle": "--keep"}, ("x",)),
        (("kill", "x", "--all", "KILL"), {}, ("x", "--all", "KILL")),
        (("kill", "--all", "x", "-9"), {"all": True}, ("x", "-9")),
        (("exec", "-e", "A=1", "--env", "B=2,3", "x", "ls", "-l"), {"env": ("A=1", "B=2,3")}, ("x", "ls", "-l")),
        (("exec", "--cgroup", "cpu,cpuacct:a", "x", "ls"), {"cgroup": ("cpu,cpuacct:a",)}, ("x", "ls")),
        (("ps", "-f", "json", "x", "-f"), {"format": "json"}, ("x", "-f")),
        (("update", "--resources=-", "x"), {"resources": "-"}, ("x",)),
        (("update", "-r", "-", "x"), {"resources": "-"}, ("x",)),
        (("update", "--memory", "-1", "x"), {"memory": "-1"}, ("x",)),
        (("events", "--interval", "1m30s", "x"), {"interval": 90.0}, ("x",)),
        (("state", "-"), {}, ("-",)),
    ],
    ids=str,
)
def test_words(words: tuple[str, ...], given: dict[str, Any], rest: tuple[str, ...]) -> None:
    assert parse(*words) == (given, rest)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("delete", "--foo", "x"), "flag provided but not defined: -foo"),
        (("delete", "-x"), "flag provided but not defined: -x"),
        (("delete", "--force=yes", "x"), 'invalid boolean value "yes" for -force: parse error'),
        (("run", "--bundle"), "flag needs an argument: -bundle"),
        (("run", "--preserve-fds=x", "y"), 'invalid value "x" for flag -preserve-fds: parse error'),
        (("run", "--preserve-fds=1.5", "y"), 'invalid value "1.5" for flag -preserve-fds: parse error'),
        (("run", f"--preserve-fds={1 << 63}", "y"), f'invalid value "{1 << 63}" for flag -preserve-fds: parse error'),
        (("events", "--interval=5", "y"), 'invalid value "5" for flag -interval: parse error'),
        (("delete", "---force"), "bad flag syntax: ---force"),
        (("delete", "--=1"), "bad flag syntax: --=1"),
    ],
    ids=str,
)
def test_bad_words(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert str(caught.value) == message


def test_a_near_flag_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse("run", "--console", "x")
    assert "--console-socket" in caught.value.hint


@pytest.mark.parametrize("word", ["-h", "--help", "-help", "--h"])
@pytest.mark.parametrize("name", VERBS)
def test_help_is_known_to_every_verb(name: str, word: str) -> None:
    with pytest.raises(HelpAsked):
        parse(name, word)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("1m", 60), ("1h2m3s", 3723), ("250ms", 0.25), ("1.5s", 1.5), ("0", 0), ("-1s", -1), ("+2s", 2)],
)
def test_duration(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "5s5", ".", "-", "1s 2s", "1..2s"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"^"):
        duration_s(text)


@pytest.mark.parametrize(
    ("rest", "least", "most", "wanted"),
    [
        ((), 1, 1, "exactly 1"),
        (("a", "b"), 1, 1, "exactly 1"),
        ((), 1, 2, "a minimum of 1"),
        (("a", "b", "c"), 1, 2, "a maximum of 2"),
        ((), 1, -1, "a minimum of 1"),
    ],
    ids=str,
)
def test_wrong_count(rest: tuple[str, ...], least: int, most: int, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_count("/bin/pyruntime", "verb", rest, least, most)
    assert str(caught.value) == f'/bin/pyruntime: "verb" requires {wanted} argument(s)'


def test_right_counts() -> None:
    check_count("p", "verb", ("a",), 1, 1)
    check_count("p", "verb", tuple("abcdef"), 1, -1)


# Every flag of contract 1.2 to 1.4 for the verbs that exist, with its letter.
CONTRACT = {
    "": "debug log log-format root systemd-cgroup cgroup-manager rootless criu log-level",
    "create": "bundle:b config:f console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds",
    "run": "bundle:b config:f console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds detach:d keep"
    " no-subreaper",
    "exec": "process:p cwd env:e user:u additional-gids:g tty:t process-label apparmor no-new-privs cap:c cgroup"
    " ignore-paused detach:d pid-file console-socket pidfd-socket preserve-fds",
    "kill": "all:a regex:r",
    "delete": "force:f regex:r",
    "list": "format:f quiet:q",
    "ps": "format:f",
    "events": "interval stats",
    "spec": "bundle:b rootless file:f",
    "update": "resources:r memory memory-reservation memory-swap cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period"
    " cpu-rt-runtime cpu-idle cpuset-cpus cpuset-mems blkio-weight pids-limit kernel-memory kernel-memory-tcp"
    " l3-cache-schema mem-bw-schema",
    "start": "",
    "state": "",
    "pause": "",
    "resume": "",
    "features": "",
    "checkpoint": "image-path work-path parent-path leave-running tcp-established tcp-skip-in-flight link-remap ext-unix-sk"
    " shell-job lazy-pages status-fd page-server file-locks pre-dump manage-cgroups-mode empty-ns auto-dedup network-lock",
    "restore": "image-path work-path tcp-established ext-unix-sk shell-job lazy-pages file-locks manage-cgroups-mode empty-ns"
    " auto-dedup network-lock bundle:b config:f pid-file console-socket detach:d no-pivot no-subreaper keep lsm-profile"
    " lsm-mount-context tcp-close",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_flags_of_the_contract(name: str) -> None:
    called = verb(name)
    flags = called.flags if called else records(GLOBAL)
    assert {f"{flag.name}:{flag.short}".rstrip(":") for flag in flags} == set(CONTRACT[name].split())


@pytest.mark.parametrize("name", VERBS)
def test_tables_are_consistent(name: str) -> None:
    called = verb(name)
    assert called is not None
    names = [flag.name for flag in called.flags]
    letters = [flag.short for flag in called.flags if flag.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)
    assert not {"h", "help"} & {*names, *letters}
    for flag in called.flags:
        assert flag.help, flag.name
        assert flag.help[0].islower() or flag.help[0].isupper() or flag.help[0].isdigit()
        assert not flag.help.endswith(".")
        assert bool(flag.metavar) == (flag.kind != "bool"), flag.name
