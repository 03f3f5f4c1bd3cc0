"""Strict JSON in, Go-shaped JSON out: with the C accelerator and without it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from pyruntime.errors import SpecError
from pyruntime.spec import document
from pyruntime.spec.document import MAX_BYTES, MAX_DEPTH, MAX_VALUES, dump, load, quote, shown

# (bytes, line 1, part of the hint)
REFUSED = [
    (b"", "unexpected EOF", "is empty"),
    (b" \n", "unexpected EOF", "is empty"),
    (b"{", "unexpected EOF", "line 1, column 2: the file ends inside"),
    (b'{"a"', "unexpected EOF", "column 5"),
    (b'{"a":', "unexpected EOF", "column 6"),
    (b'{"a":tr', "unexpected EOF", "column 8"),
    (b'{"a":"x', "unexpected EOF", "column 8"),
    (b'{"a":1,\n', "unexpected EOF", "line 2, column 1"),
    (b'{"a":"\\u12', "unexpected EOF", "column 11"),
    (b"null", "config cannot be null", "one JSON object"),
    (b"[]", "cannot unmarshal array into config.json of type object", "one JSON object"),
    (b'"x"', "cannot unmarshal string into config.json of type object", "one JSON object"),
    (b"{} x", 'invalid character "x" after top-level value', "column 4"),
    (b"{}{}", 'invalid character "{" after top-level value', "column 3"),
    (b"{]", 'invalid character "]" looking for beginning of object key string', "column 2"),
    (b'{"a" 1}', 'invalid character "1" after object key', "column 6"),
    (b'{"a":1 "b":2}', 'invalid character "\\"" after value', "column 8"),
    (b'{"a":1,}', 'invalid character "}" looking for beginning of object key string', "column 8"),
    (b'{"a":[1,]}', 'invalid character "]" looking for beginning of value', "column 9"),
    (b'{"a":+1}', 'invalid character "+" looking for beginning of value', "column 6"),
    (b'{"a":0x10}', 'invalid character "x" after value', "column 7"),
    (b'{"a":01}', 'invalid character "1" after value', "column 7"),
    (b"{'a':1}", 'invalid character "\'" looking for beginning of object key string', "column 2"),
    (b'{"a":NaN}', 'invalid character "N" looking for beginning of value', "column 6"),
    (b'{"NaN":[1,\n-Infinity]}', 'invalid character "-" looking for beginning of value', "line 2, column 1"),
    (b'{"a":Infinity}', 'invalid character "I" looking for beginning of value', "column 6"),
    (b'{"a":"\n"}', 'invalid character "\\n" in string literal', "column 7"),
    (b'{"a":"\\x"}', "invalid escape in string literal", "column 7"),
    (b'{"a":' + b"9" * 5000 + b"}", "number has too many digits", "20 digits"),
    (b"\xef\xbb\xbf{}", 'invalid character "\\ufeff" looking for beginning of value', "column 1"),
    (b'{"a":"\xff"}', "config.json is not UTF-8: byte 0xff at offset 6", "line 1"),
    (b"\xff\xfe{\x00}\x00", "config.json is not UTF-8: byte 0xff at offset 0", "line 1"),
    (b"[" * 100_000, "config.json nests too deep", "ten levels"),
    (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "config.json nests too deep", "ten levels"),
    (b'{"a":[' + b"0," * MAX_VALUES + b"0]}", "config.json is too large: more than", "hundreds"),
    (b" " * (MAX_BYTES + 1), "config.json is too large: ", "bytes are read"),
]

STRINGS = [
    (b'{"a":[{"b/c":"x\\u0000y"}]}', "string contains a NUL character", "/a/0/b~1c"),
    (b'{"a":{"k\\u0000":1}}', "string contains a NUL character", "/a"),
    (b'{"a":"\\ud800"}', "string contains half a surrogate pair", "/a"),
    (b'{"a":"\\uDCFF"}', "string contains half a surrogate pair", "/a"),
]

ACCEPTED = [
    (b"{}", {}),
    (b'\t{"a": 1}\r\n', {"a": 1}),
    (b'{"a":1,"a":2}', {"a": 2}),
    (b'{"A":1,"a":2}', {"A": 1, "a": 2}),
    (b'{"a":[true,false,null,-0,1.5,1e3]}', {"a": [True, False, None, 0, 1.5, 1000.0]}),
    (b'{"a":18446744073709551616}', {"a": 1 << 64}),
    (b'{"a":"\\\\u0000 \\ud83d\\ude00 \xc3\xa9"}', {"a": "\\u0000 \U0001f600 \u00e9"}),
    (b'{"a":"[[[{{{\\"[[","b":"' + b"[" * 200 + b'"}', {"a": '[[[{{{"[[', "b": "[" * 200}),
    (b'{"a":' * (MAX_DEPTH - 1) + b"[]" + b"}" * (MAX_DEPTH - 1), None),
    (b'{"a":[' + b"[],{}," * 200 + b"0]}", {"a": [[], {}] * 200 + [0]}),
    (b'{"a":"' + b"," * (MAX_VALUES + 1) + b'"}', {"a": "," * (MAX_VALUES + 1)}),
]


@pytest.fixture(params=["C", "Python"])
def scanner(request, monkeypatch):
    """Both ways through the module: the C scanner, and the public package that stands in for it."""
    if request.param == "Python":
        from json.scanner import py_make_scanner

        monkeypatch.setattr(document, "ACCELERATED", False)
        monkeypatch.setattr(document, "make_scanner", py_make_scanner)


@pytest.mark.parametrize(("data", "message", "hint"), REFUSED, ids=lambda value: repr(value)[:30])
@pytest.mark.usefixtures("scanner")
def test_refused_with_peers_text_and_position(data, message, hint):
    began = time.thread_time()
    with pytest.raises(SpecError) as caught:
        load(data)
    assert str(caught.value).startswith(message)
    assert hint in caught.value.hint
    assert str(caught.value).isprintable()
    assert time.thread_time() - began < 2


@pytest.mark.parametrize(("data", "message", "pointer"), STRINGS, ids=repr)
def test_strings_that_the_kernel_cannot_take(data, message, pointer):
    with pytest.raises(SpecError, match=message) as caught:
        load(data)
    assert caught.value.field == pointer


@pytest.mark.parametrize(("data", "value"), ACCEPTED, ids=lambda value: repr(value)[:30])
@pytest.mark.usefixtures("scanner")
def test_accepted(data, value):
    assert load(data) == (json.loads(data) if value is None else value)


def test_unbalanced_megabytes_are_refused_quickly():
    for data in (b"[{" * (1 << 20), b"[}" * (1 << 20), b"]" * (1 << 20), b'{"a":"' + b"\\" * (1 << 20)):
        began = time.thread_time()
        with pytest.raises(SpecError):
            load(data)
        assert time.thread_time() - began < 2


COMPACT = [
    ({}, "{}"),
    ({"b": 1, "a": [1, 2.5, None, True, "x"]}, '{"b":1,"a":[1,2.5,null,true,"x"]}'),
    (("tuple", ()), '["tuple",[]]'),
    ({"a": 'q"\\\n\x01\u00e9'}, '{"a":"q\\"\\\\\\n\\u0001\u00e9"}'),
    ({"a": "\udcff\u00e9"}, '{"a":"\\udcff\\u00e9"}'),
    ((1 << 64), "18446744073709551616"),
]


@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize(("value", "text"), COMPACT, ids=repr)
def test_compact_has_no_spaces(value, text, accelerated, monkeypatch):
    if not accelerated:
        monkeypatch.setattr(document, "make_encoder", None)
    assert dump(value) == text


def test_indented_is_laid_out_as_go_does():
    value = {"z": {"list": [1, {"a": None}], "empty": [], "none": {}}, "a": "x"}
    assert dump(value, indent="  ") == json.dumps(value, indent=2)
    assert dump(value, indent="\t", sort_keys=True) == json.dumps(value, indent="\t", sort_keys=True)
    assert dump(value, sort_keys=True).startswith('{"a":"x","z":{"empty"')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": -float("inf")}], ids=repr)
def test_numbers_that_json_has_not_are_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        dump(value)


def test_objects_without_json_form_are_refused():
    with pytest.raises(TypeError, match="bytes"):
        dump({"a": b"x"})


def test_our_own_files_keep_bytes_that_are_no_text():
    value = {"bundle": b"/srv/\xff\xc3".decode("utf-8", "surrogateescape")}
    text = dump(value)
    assert load(text.encode("utf-8"), ours=True) == value
    with pytest.raises(SpecError):
        load(text.encode("utf-8"))


def test_quoted_text_is_one_bounded_line():
    assert quote("a\nb\u2028\x1b\x7f") == '"a\\nb\\u2028\\u001b\\u007f"'
    assert shown(["\x7f", "\u2028"]) == '["\\u007f","\\u2028"]'
    assert len(quote("x" * 10_000)) < 300
    assert shown([1] * 1000) == "array of 1000"
    assert len(shown({"a": ["x" * 10_000]})) < 300


SCRIPT = """
import sys
{before}
from pyruntime.spec.document import ACCELERATED, dump, load
value = load(b'{{"a":[1,"\\\\u00e9"]}}')
assert dump(value) == '{{"a":[1,"\\u00e9"]}}', dump(value)
assert dump(value, indent=" ") == '{{\\n "a": [\\n  1,\\n  "\\u00e9"\\n ]\\n}}', dump(value, indent=" ")
try:
    load(b'{{"a":1,}}')
except Exception as error:
    assert "looking for beginning of object key" in str(error), error
else:
    raise AssertionError("not refused")
print(ACCELERATED, {names})
"""


@pytest.mark.parametrize(("before", "names", "said"), [
    ("", "'json.decoder' in sys.modules", "True True"),  # only to say what is wrong
    ("sys.modules['_json'] = None", "1", "False 1"),
], ids=["with _json", "without _json"])
def test_a_fresh_interpreter_reads_with_and_without_the_accelerator(before, names, said):
    script = SCRIPT.format(before=before, names=names)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == said


def test_reading_and_writing_imports_no_json_package():
    script = ("import sys\nfrom pyruntime.spec.document import dump, load\ndump(load(b'{\"a\":1}'), indent=' ')\n"
              "print(sorted(name for name in ('json', 're', 'enum', 'functools') if name in sys.modules))")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{script}"],
                          capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
