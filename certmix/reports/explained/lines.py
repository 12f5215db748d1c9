"""How many lines of the judge a verdict rests on: of the files in which a function ran, and of those functions."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from certmix.reports.explained.observed import JUDGE

BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
PROVING = ("judge.py", "witness.py", "kernel", "rules")  # values to verdict; all else reads, or names types


@dataclass(frozen=True)
class FileLines:
    """file: below proofs_check. lines: that hold code. ran: numbers of those in functions that ran."""

    file: str
    lines: int
    ran: frozenset[int]

    @property
    def proves(self) -> bool:
        return self.file.partition("/")[0] in PROVING


def code_lines(path: Path) -> frozenset[int]:
    """Numbers of the lines that hold code: no blank ones, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in BLANK:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return frozenset(lines - docstrings)


@functools.cache
def _functions(path: Path) -> tuple[frozenset[int], dict[int, range]]:
    """The lines that hold code; and of every function, by the line in which it begins, its lines."""
    found: dict[int, range] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[first] = range(first, (node.end_lineno or node.lineno) + 1)
    return code_lines(path), found


def files_of(ran: Iterable[CodeType]) -> list[FileLines]:
    """Of the judge's functions that ran, file by file."""
    begun: dict[str, set[int]] = {}
    for code in ran:
        begun.setdefault(code.co_filename, set()).add(code.co_firstlineno)
    result: list[FileLines] = []
    for name, firsts in sorted(begun.items()):
        lines, functions = _functions(Path(name))
        inside = {n for first in firsts for n in functions.get(first, ())}
        result.append(FileLines(name.removeprefix(JUDGE), len(lines), lines & inside))
    return result
