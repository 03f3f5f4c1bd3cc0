from __future__ import annotations

from pathlib import Path

import pytest

from pyruntime.errors import UsageError
from pyruntime.image.changes import apply_changes
from pyruntime.image.changes_words import expand, split_words

SH = ["/bin/sh", "-c"]


@pytest.mark.parametrize(("base", "change", "expected"), [
    ({}, 'CMD ["a","b"]', {"Cmd": ["a", "b"]}),
    ({}, "cmd echo $HOME 'x'", {"Cmd": [*SH, "echo $HOME 'x'"]}),  # the shell's own matter
    ({"Shell": ["bash"]}, "CMD x", {"Cmd": ["bash", "x"]}),
    ({}, 'CMD ["a", 1]', {"Cmd": [*SH, '["a", 1]']}),
    ({"Cmd": ["old"]}, "ENTRYPOINT [\"e\"]", {"Entrypoint": ["e"], "Cmd": None}),
    ({"Cmd": ["old"]}, "CMD [\"new\"]\nENTRYPOINT [\"e\"]", {"Entrypoint": ["e"], "Cmd": ["new"]}),
    ({"Env": ["A=1", "B=2"]}, "ENV A=3 C=$A", {"Env": ["A=3", "B=2", "C=1"]}),  # the A from before
    ({}, "ENV A one two ", {"Env": ["A=one two"]}),
    ({}, 'ENV A="x y" B=\'$q\' C=a\\ b', {"Env": ["A=x y", "B=$q", "C=a b"]}),
    ({"Env": ["P=/bin"]}, "ENV P=/x:${P} Q=${N:-d}", {"Env": ["P=/x:/bin", "Q=d"]}),
    ({"Labels": {"a": "1"}}, "LABEL a=2 \"b c\"=\"d e\"", {"Labels": {"a": "2", "b c": "d e"}}),
    ({}, "EXPOSE 80 53/UDP 8000-8002", {"ExposedPorts": {k: {} for k in ("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")}}),
    ({"Volumes": {"/a": {}}}, 'VOLUME ["/b", "/c d"]', {"Volumes": {"/a": {}, "/b": {}, "/c d": {}}}),
    ({}, "VOLUME /b /c", {"Volumes": {"/b": {}, "/c": {}}}),
    ({"Env": ["U=7"]}, "USER $U:5", {"User": "7:5"}),
    ({"WorkingDir": "/a"}, "WORKDIR b/../c", {"WorkingDir": "/a/c"}),
    ({"WorkingDir": "/a"}, "WORKDIR /x", {"WorkingDir": "/x"}),
    ({"OnBuild": ["RUN a"]}, "ONBUILD COPY . .", {"OnBuild": ["RUN a", "COPY . ."]}),
    ({}, "STOPSIGNAL SIGRTMIN+3", {"StopSignal": "SIGRTMIN+3"}),
    ({}, "STOPSIGNAL 9", {"StopSignal": "9"}),
    ({}, "STOPSIGNAL term", {"StopSignal": "term"}),
    ({}, "HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    ({}, "HEALTHCHECK --interval=1m30s --retries=2 --start-period=0 CMD curl -f x",
     {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 90 * 10**9, "Retries": 2, "StartPeriod": 0}}),
    ({}, 'HEALTHCHECK CMD ["a"]', {"Healthcheck": {"Test": ["CMD", "a"]}}),
    ({}, "ENV A=1\\\nB=2\n# comment\n\nUSER u", {"Env": ["A=1B=2"], "User": "u"}),
], ids=str)  # fmt: skip
def test_changes(base, change, expected):
    before = dict(base)
    assert apply_changes(base, [change]) == base | expected
    assert base == before


@pytest.mark.parametrize(("change", "message"), [
    ("FROM x", "from is not a valid change command"),
    ("RUN x", "run is not a valid change command"),
    ("CMD", "CMD requires at least one argument"),
    ("ENV a", "ENV must have two arguments"),
    ("ENV a=1 b", "can't find = in 'b'. Must be of the form: name=value"),
    ("ENV =x", "ENV names can not be blank"),
    ("ENV a='x", "matching single-quote"),
    ('ENV a="x', "matching double-quote"),
    ("ENV a=${x", "unsupported modifier|is missing"),
    ("ENV a=${x:=1}", "unsupported modifier in substitution"),
    ("ENV a=${x:?none}", "x: none"),
    ("EXPOSE 0", "invalid containerPort: 0"),
    ("EXPOSE 127.0.0.1:80:80", "invalid containerPort"),
    ("EXPOSE 90-80", "invalid containerPort: 90-80"),
    ("EXPOSE 80/icmp", "invalid containerPort"),
    ('VOLUME [""]', "VOLUME specified can not be an empty string"),
    ("USER a b", "USER requires exactly one argument"),
    ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
    ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    ("STOPSIGNAL NOSUCH", "invalid signal: NOSUCH"),
    ("STOPSIGNAL 65", "invalid signal: 65"),
    ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
    ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
    ("HEALTHCHECK FOO x", r'Unknown type "FOO" in HEALTHCHECK \(try CMD\)'),
    ("HEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
    ("HEALTHCHECK --interval=fast CMD x", "invalid duration 'fast'"),
    ("HEALTHCHECK --retries=-1 CMD x", r"--retries cannot be negative \(-1\)"),
    ("HEALTHCHECK --speed=1 CMD x", "unknown flag: --speed"),
], ids=str)  # fmt: skip
def test_bad_changes(change, message):
    with pytest.raises(UsageError, match=message) as caught:
        apply_changes({}, [change])
    assert "\n" not in str(caught.value)


def test_words():
    assert split_words("a  'b c' d\\ e \"f 'g\" h'i j'k") == ["a", "'b c'", "d\\ e", "\"f 'g\"", "h'i j'k"]
    assert split_words("  ") == []
    assert expand("$a${b}. $1 \\$a", {"a": "x", "b": "y"}) == "xy.  $a"


EXPANSION = Path(__file__).resolve().parents[3].parent / "shared/data/dockerfile/expansion-cases.txt"
OUT_OF_REACH = ("%", "#", "/")  # the builder's own: pattern operators


def test_expansion_table():
    """Of the Dockerfile reference's table the rows for Unix that need no pattern operators."""
    if not EXPANSION.exists():
        pytest.skip(f"no {EXPANSION}: the shared data folder is not beside the repository")
    env = {"PWD": "/home", "SHELL": "bash", "NULL": "", "KOREAN": "한국어"}
    rows = wrong = 0
    for line in EXPANSION.read_text(encoding="utf-8").splitlines():
        platform, _, rest = line.partition("|")
        given, bar, expected = rest.partition("|")
        if not bar or platform.strip() not in {"A", "U"} or any(f"{name}{op}" in given for op in OUT_OF_REACH for name in ("PWD", "SHELL", "NULL", "KOREAN", "a", "}")):
            continue
        rows += 1
        try:
            found = expand(given.strip(), env)
        except UsageError:
            found = "error"
        wrong += found != expected.strip()
        if found != expected.strip():
            print(repr(given), "->", repr(found), "expected", repr(expected.strip()))
    assert rows > 50
    assert wrong == 0
