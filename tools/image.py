"""Writes the image that the embedded launcher loads our modules from; csrc/launcher_embed.c has the format.

Usage: image.py TARGET. The interpreter that runs this is the one whose bytecode the image holds.

Beside each module the image has one set per fast verb, `@run` and so on: the modules which that verb loads, in the
order of their imports, in one piece, so that names and constants they share are read once; and `@all`, these together,
for a snapshot. What only readers, type checkers and tracebacks need is left out: docstrings, annotations of functions,
`if TYPE_CHECKING`, line tables (with --debug the launcher starts the plain interpreter). So is the import of
__future__, a module on disk, in favour of the compiler's own switch.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import marshal
import os
import struct
import sys
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEAD, ENTRY = "<8sII", "<8IQQ"
MASK = (1 << 64) - 1
BOOT = "pyruntime.cli.embed"
ENCODINGS = ("__init__", "aliases", "utf_8", "ascii", "latin_1")  # what the interpreter itself may look up
MAIN = "pyruntime.cli.main"
VERBS = "pyruntime.cli.verbs"
FAST = {"create": "create", "start": "start", "run": "run", "state": "state", "kill": "kill", "delete": "delete",
        "exec": "exec_"}  # fmt: skip
ALL = "all"  # the set for a snapshot
# What a snapshot holds beside the modules of the verbs; each module more costs memory, as its pages have neighbours.
OFTEN = ("pyruntime.lifecycle.pause", "pyruntime.lifecycle.filters")
UPPER = ("image", "engine", "api")  # rooms of other programs
LIGHT = "pyruntime.native.light"  # stands where the cffi extension is imported
# Imports inside functions that every call of the verb comes to, beside those of the verb's own function.
SETTINGS, INTERRUPT = "pyruntime.lifecycle.settings", "pyruntime.cli.interrupt"
MAKING = ("pyruntime.lifecycle.host_steps", "pyruntime.cgroup.manager", INTERRUPT)
LATE = {
    "create": MAKING,
    "run": (*MAKING, "pyruntime.lifecycle.foreground"),
    "start": (INTERRUPT, "pyruntime.host.probe"),
    "delete": (INTERRUPT,),
    "exec": (INTERRUPT, "pyruntime.lifecycle.host_steps", "pyruntime.lifecycle.foreground"),
}


def hash_bytes(data: bytes) -> int:
    """As in launcher_embed.c: FNV-1a by words of 8 bytes, with the high half folded in, then byte by byte."""
    value, whole = 0xCBF29CE484222325, len(data) & ~7
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        value = (value ^ word) * 0x100000001B3 & MASK
        value ^= value >> 32
    for byte in data[whole:]:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


class Module:
    """One module: where it is, what it compiles to, and what it imports when it is loaded."""

    def __init__(self, root: Path, path: Path, name: str) -> None:
        self.name, self.package = name, path.name == "__init__.py"
        self.source = path.read_bytes()
        self.relative = str(path.relative_to(root) if path.is_relative_to(root) else path)
        self.mtime_ns = path.stat().st_mtime_ns
        self.tree = Strip().visit(ast.parse(self.source, self.relative))
        flags = __future__.annotations.compiler_flag
        self.code = compile(self.tree, self.relative, "exec", flags=flags, dont_inherit=True, optimize=2)

    def imports(self, body: list[ast.stmt]) -> list[str]:
        """Names of modules that the statements import, also below `if` and `try`, but not inside functions."""
        names = []
        for statement in body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                names += [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
            elif isinstance(statement, ast.Import):
                names += [alias.name for alias in statement.names]
            elif isinstance(statement, (ast.If, ast.Try)):
                names += self.imports([node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt)])
        return names

    def function_imports(self, function: str) -> list[str]:
        """The same for one function's body."""
        found = [node for node in self.tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        return self.imports(found[0].body) if found else []


class Strip(ast.NodeTransformer):
    """Removes what a running program does not look at."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        """Drops imports from __future__."""
        return None if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """`if TYPE_CHECKING: … else: …` becomes its second half."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Drops the annotations of a function; those of a class body make a record's fields and stay."""
        self.generic_visit(node)
        node.returns = None
        for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
            if arg is not None:
                arg.annotation = None
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """The constant parts of an f-string have to stay constants."""
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Text with half surrogates is put together at run time: reading it back would load the codecs."""
        if not isinstance(node.value, str) or not any(0xD800 <= ord(char) < 0xE000 for char in node.value):
            return node
        text = ast.parse(f"''.join(map(chr, {tuple(map(ord, node.value))}))", mode="eval").body
        return ast.fix_missing_locations(ast.copy_location(text, node))


class Canon:
    """Makes equal names, constants and code without line tables one object each, so that marshal writes them once."""

    def __init__(self) -> None:
        self.seen: dict[Any, Any] = {}

    def text(self, value: Any) -> Any:
        """A str, bytes or tuple of such in its one form; anything else unchanged."""
        if isinstance(value, (str, bytes)):
            return self.seen.setdefault((type(value), value), value)
        if type(value) is tuple and all(isinstance(item, str) for item in value):
            return self.seen.setdefault((tuple, value), tuple(map(self.text, value)))
        return value

    def code(self, code: CodeType) -> CodeType:
        """The code, its nested codes included, in canonical pieces."""
        consts = tuple(self.code(item) if isinstance(item, CodeType) else self.text(item) for item in code.co_consts)
        return code.replace(co_consts=self.text(consts), co_linetable=b"", co_qualname=self.text(code.co_name),
                            co_name=self.text(code.co_name), co_filename=self.text(code.co_filename),
                            co_names=self.text(code.co_names), co_varnames=self.text(code.co_varnames),
                            co_freevars=self.text(code.co_freevars), co_cellvars=self.text(code.co_cellvars),
                            co_exceptiontable=self.text(code.co_exceptiontable))  # fmt: skip


def modules(root: Path) -> dict[str, Module]:
    """Every module of the package and the codecs, by name, sorted."""
    found = {}
    for path in (root / "pyruntime").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[1] in UPPER or (parts[1:2] == ("cli",) and parts[2].startswith("pyctr")):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(root, path, name)
    folder = Path(os.__file__).parent / "encodings"
    for stem in ENCODINGS:
        name = f"encodings.{stem}".removesuffix(".__init__")
        found[name] = Module(root, folder / f"{stem}.py", name)
    return dict(sorted(found.items(), key=lambda item: item[0].encode()))


def order(known: dict[str, Module], wanted: list[str]) -> list[Module]:
    """`wanted` and all that loading them imports, each after what it imports and after its package."""
    done: dict[str, Module] = {}
    open_names: set[str] = set()

    def visit(name: str) -> None:
        name = LIGHT if name == "pyruntime.native._ext" else name
        module = known.get(name)
        if module is None or name in done or name in open_names:
            return
        open_names.add(name)
        visit(name.rpartition(".")[0])
        for other in module.imports(module.tree.body):
            visit(other)
        done[name] = module

    for name in wanted:
        visit(name)
    return list(done.values())


def verb_set(known: dict[str, Module], verb: str) -> bytes:
    """The modules of a fast verb in the order of their loading, as one marshalled tuple of (name, package, code)."""
    if verb != ALL:
        return marshal_set(order(known, wanted_by(known, verb)))
    # What `run` needs comes first, so that in memory it lies together.
    wanted = [name for fast in ("run", *FAST) for name in wanted_by(known, fast)]
    return marshal_set(order(known, [*wanted, *OFTEN]))


def wanted_by(known: dict[str, Module], verb: str) -> list[str]:
    """Modules that a fast verb is sure to load, without what they load in turn."""
    return [MAIN, SETTINGS, *known[VERBS].function_imports(FAST[verb]), *LATE.get(verb, ())]


def marshal_set(loaded: list[Module]) -> bytes:
    """The modules as launcher_embed.c's load_set() gives them."""
    canon = Canon()
    rows = tuple((canon.text(module.name), module.package, canon.code(module.code)) for module in loaded)
    return marshal.dumps(rows)


def build(root: Path) -> bytes:
    """The image of the package below `root`."""
    known = modules(root)
    rows = [(f"@{verb}", "", verb_set(known, verb), b"", False, 0) for verb in sorted((*FAST, ALL))]
    rows += [(module.name, module.relative, marshal.dumps(Canon().code(module.code)), module.source, module.package,
              module.mtime_ns) for module in known.values()]  # fmt: skip
    at = struct.calcsize(HEAD) + len(rows) * struct.calcsize(ENTRY)
    entries, bodies = [], []
    for name, relative, code, source, package, mtime_ns in rows:
        body = name.encode() + relative.encode() + b"\0" + code
        offsets = (at, len(name), at + len(name), len(relative), at + len(name) + len(relative) + 1, len(code))
        entries.append(struct.pack(ENTRY, *offsets, len(source), package, mtime_ns, hash_bytes(source)))
        bodies.append(body)
        at += len(body)
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER, "little")
    return b"".join([struct.pack(HEAD, b"PYRIMG1\n", magic, len(rows)), *entries, *bodies])


def main() -> int:
    """Writes the image beside its target, then renames it there."""
    target = Path(sys.argv[1])
    fresh = target.with_name(target.name + ".new")
    fresh.write_bytes(build(ROOT))
    fresh.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
