"""The spec room: bytes of config.json in, validated records out. Pure, but for reading the file it is given.

`document.py` turns bytes into plain data strictly (R1: bounded size and depth, no NaN, no NUL, no trailing data).
`config.py` and `linux.py` hold one record per object of runtime-spec 1.3, with the spec's words in snake_case, and
`parse.py` fills them. Every rule that a file breaks becomes a Violation with its JSON pointer; the runtime raises the
first one in the peers' order (contract 4.13), `validate` shows all. Keys that the spec does not define are ignored.

Absent is always told apart from zero where the spec does: an optional number is None when absent, an optional string
"" and an optional list ().
"""
