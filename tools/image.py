"""Writes the image that the embedded launcher loads our modules from; csrc/launcher_embed.c has the format.

Usage: image.py TARGET. The interpreter that runs this is the one whose bytecode the image holds. What only readers and
type checkers need is left out: docstrings, annotations of functions, `if TYPE_CHECKING`. So is the import of
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

ROOT = Path(__file__).resolve().parent.parent
HEAD, ENTRY = "<8sII", "<8IQQ"
ENCODINGS = ("__init__", "aliases", "utf_8", "ascii", "latin_1")  # what the interpreter itself may look up
MASK = (1 << 64) - 1


def hash_bytes(data: bytes) -> int:
    """As in launcher_embed.c: FNV-1a by words of 8 bytes, with the high half folded in, then byte by byte."""
    value, whole = 0xCBF29CE484222325, len(data) & ~7
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        value = (value ^ word) * 0x100000001B3 & MASK
        value ^= value >> 32
    for byte in data[whole:]:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def modules(root: Path) -> list[tuple[str, Path, bool]]:
    """(name, path, is package) of every module of the package, sorted by name."""
    found = []
    for path in (root / "pyruntime").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[-1] == "__init__"
        found.append((".".join(parts[:-1] if package else parts), path, package))
    folder = Path(os.__file__).parent / "encodings"
    found += [(f"encodings.{name}".removesuffix(".__init__"), folder / f"{name}.py", name == "__init__")
              for name in ENCODINGS]  # fmt: skip
    return sorted(found, key=lambda module: module[0].encode())


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


def compile_module(source: bytes, name: str) -> bytes:
    """The module's code, marshalled."""
    tree = Strip().visit(ast.parse(source, name))
    flags = __future__.annotations.compiler_flag
    return marshal.dumps(compile(tree, name, "exec", flags=flags, dont_inherit=True, optimize=2))


def build(root: Path) -> bytes:
    """The image of the package below `root`."""
    rows = modules(root)
    at = struct.calcsize(HEAD) + len(rows) * struct.calcsize(ENTRY)
    entries, bodies = [], []
    for name, path, package in rows:
        source = path.read_bytes()
        relative = str(path.relative_to(root) if path.is_relative_to(root) else path)
        code = compile_module(source, relative)
        body = name.encode() + relative.encode() + b"\0" + code
        offsets = (at, len(name), at + len(name), len(relative), at + len(name) + len(relative) + 1, len(code))
        entries.append(struct.pack(ENTRY, *offsets, len(source), package, path.stat().st_mtime_ns, hash_bytes(source)))
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
