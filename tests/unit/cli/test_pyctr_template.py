"""Go templates of --format: what docker prints for the same text and value (rows taken from its output)."""

from __future__ import annotations

import pytest

from pyruntime.cli.pyctr.listing import columns, render, show_objects
from pyruntime.cli.pyctr.template import Template, TemplateError
from pyruntime.errors import UsageError

VALUE = {"OSType": "linux", "NCPU": 2, "Debug": False, "Memory": True, "Name": "box", "List": ["b", "a"], "Empty": [],
         "Pairs": [["x", "1"], ["y", "2"]], "Map": {"b": "2", "a": "1"}, "Nil": None, "Big": 8335798272, "Ratio": 1.5,
         "RepoTags": None, "Labels": None, "Deep": {"A": {"B": "c"}}}


@pytest.mark.parametrize(("text", "result"), [
    ("{{.OSType}}", "linux"), ("a{{.NCPU}}b", "a2b"), ("{{json .Map}}", '{"b":"2","a":"1"}'), ("{{.Map}}", "map[a:1 b:2]"),
    ("{{.List}} {{.Empty}} {{.Debug}} {{.Nil}}", "[b a] [] false <no value>"), ("{{.RepoTags}} {{.Labels}}", "[] map[]"), ("{{json .RepoTags}}", "null"),
    ("{{.Big}} {{.Ratio}}", "8335798272 1.5"), ("{{.Deep.A.B}} {{(.Deep).A.B}}", "c c"), ("{{len .List}} {{len .Nil}}", "2 0"),
    ("{{index .Pairs 1 0}}", "y"), ("{{index .Map \"b\"}}{{index .Map \"z\"}}|", "2|"), ("{{join .List \",\"}}", "b,a"), ("{{split \"a:b\" \":\"}}", "[a b]"),
    ("{{range .List}}{{println .}}{{end}}", "b\na\n"), ("{{range .Empty}}x{{else}}none{{end}}", "none"),
    ("{{range $i, $v := .Pairs}}{{$i}}={{index $v 0}};{{end}}", "0=x;1=y;"), ("{{range $k, $v := .Map}}{{$k}}{{$v}} {{end}}", "a1 b2 "),
    ("{{range .List}}{{$.Name}}{{end}}", "boxbox"), ("{{range .List}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "b"),
    ("{{range .List}}{{.}}{{break}}{{end}}", "b"), ("{{if .Debug}}d{{else if .Memory}}m{{else}}n{{end}}", "m"), ("{{with .Name}}<{{.}}>{{end}}", "<box>"),
    ("{{with .Nil}}x{{else}}none{{end}}", "none"), ("{{$x := .NCPU}}{{if gt $x 1}}many{{end}}", "many"), ("{{$x := 1}}{{range .List}}{{$x = 2}}{{end}}{{$x}}", "2"),
    ("{{upper .OSType | printf \"%s-%s\" \"x\"}}", "x-LINUX"), ("{{printf \"%v %5d|%-4s|%q\" true 42 \"a\" \"b\\\"\"}}", 'true    42|a   |"b\\""'),
    ("{{printf \"%d\" \"x\"}} {{printf \"%s\"}}", "%!d(string=x) %!s(MISSING)"), ("{{print \"a\" 1 2 \"b\"}}", "a1 2b"), ("{{println \"a\" 1}}", "a 1\n"),
    ("{{- .OSType -}} x", "linuxx"), ("a {{- /* note */ -}} b", "ab"), ("{{title \"ab cd\"}} {{lower \"AB\"}} {{truncate \"abcdef\" 3}} {{pad \"x\" 1 2}}|", "Ab Cd ab abc  x  |"),
    ("{{eq .OSType \"bsd\" \"linux\"}} {{ne 1 2}} {{and true 0}} {{or \"\" \"z\"}} {{not true}} {{le 2 2}}", "true true 0 z false true"),
    ("{{.NCpu}}{{.OsType}}", "2linux"), ("{{slice \"abcdef\" 1 3}} {{`raw\\n`}} {{\"a\\tb\"}}", "bc raw\\n a\tb"), ("{{1.5}} {{0x10}} {{true}}", "1.5 16 true"), ("no action", "no action"),
], ids=str)
def test_templates(text, result):
    assert Template(text).render(VALUE) == result


@pytest.mark.parametrize(("text", "message", "code"), [
    ("{{.Name", "template parsing error: template: :1: unclosed action", 64), ("{{nope .Name}}", 'template parsing error: template: :1: function "nope" not defined', 64),
    ("{{end}}", "template parsing error: template: :1: unexpected {{end}}", 64), ("{{if}}x{{end}}", "template parsing error: template: :1: missing value for if", 64),
    ("\n{{if .Name}}", "template parsing error: template: :2: unexpected EOF", 64), ("{{\"x}}", "template parsing error: template: :1: unterminated quoted string", 64),
    ("{{$y}}", 'template parsing error: template: :1: undefined variable "$y"', 64), ("{{}}", "template parsing error: template: :1: missing value for command", 64),
    ("{{(.Name}}", "template parsing error: template: :1: unclosed left paren", 64), ("{{.Name )}}", 'template parsing error: template: :1: unexpected ")" in command', 64),
    ("{{.Nope}}", 'template parsing error: template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope"', 1),
    ("ab{{.Name.X}}", "template parsing error: template: :1:9: executing \"\" at <.Name.X>: can't evaluate field X in type string", 1),
    ("{{index .List 5}}", 'template parsing error: template: :1:2: executing "" at <index>: error calling index: index out of range: 5', 1),
    ("{{eq 1 \"a\"}}", 'template parsing error: template: :1:2: executing "" at <eq>: error calling eq: incompatible types for comparison', 1),
    ("{{.Name 1}}", 'template parsing error: template: :1:2: executing "" at <.Name>: Name has arguments but cannot be invoked as function', 1),
    ("{{\"a\" 1}}", "template parsing error: template: :1: can't give argument to non-function \"a\"", 64),
], ids=str)
def test_wrong_templates(text, message, code):
    with pytest.raises(TemplateError) as error:
        Template(text).render(VALUE)
    assert (str(error.value), error.value.code) == (message, code)


HEADS = {"Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID"}
ROWS = [{"Repository": "busybox", "Tag": "latest", "ID": "0123456789ab"}, {"Repository": "host:5000/a/long", "Tag": "1", "ID": "f"}]


@pytest.mark.parametrize(("layout", "text"), [
    ("", "REPOSITORY         TAG       IMAGE ID\nbusybox            latest    0123456789ab\nhost:5000/a/long   1         f\n"),
    ("table {{.ID}}\\t{{upper .Repository}}", "IMAGE ID       REPOSITORY\n0123456789ab   BUSYBOX\nf              HOST:5000/A/LONG\n"),
    ("{{.Repository}}:{{.Tag}}", "busybox:latest\nhost:5000/a/long:1\n"),
    ("json", '{"ID":"0123456789ab","Repository":"busybox","Tag":"latest"}\n{"ID":"f","Repository":"host:5000/a/long","Tag":"1"}\n'),
])
def test_lists(layout, text):
    assert render(ROWS, HEADS, layout, "{{.Repository}}\t{{.Tag}}\t{{.ID}}") == text


def test_a_table_without_rows_has_its_head():
    assert render([], HEADS, "table", "{{.ID}}\t{{.Tag}}") == "IMAGE ID   TAG\n"
    assert render([], HEADS, "json", "{{.ID}}") == ""
    assert columns(["a\tb", "c"]) == "a         b\nc\n"


def test_a_row_names_the_column_it_has_not():
    with pytest.raises(UsageError, match=r"can't evaluate field Nope in type"):
        render(ROWS, HEADS, "{{.Nope}}", "")


def test_objects():
    assert show_objects([{"A": [1]}], "") == '[\n    {\n        "A": [\n            1\n        ]\n    }\n]\n'
    assert show_objects([{"A": 1}, {"A": 2}], "json") == '{"A":1}\n{"A":2}\n'
    assert show_objects([{"A": 1}, {"A": 2}], "{{.A}}") == "1\n2\n"
