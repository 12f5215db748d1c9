"""Mutation operators for the judge's source: each mutant is one small edit that ought to be noticed.

Aimed at what makes a bound wrong: error terms, directed rounding, strictness of comparisons, checks, constants.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Edit = tuple[str, int, int, bytes]  # operator, first byte, end byte, replacement

SWAPPED_CALLS = {
    name: other
    for pair in (
        ("up", "down"), ("arb_up", "arb_down"), ("exp_up", "exp_down"), ("log_up", "log_down"), ("floor", "ceil"),
        ("maximum", "minimum"), ("max", "min"), ("any", "all"), ("upper", "lower"), ("argmax", "argmin"),
        ("logical_and", "logical_or"),
    )
    for name, other in (pair, pair[::-1])
}  # fmt: skip
OUTWARD = {"up", "down", "abs", "nextafter", "sqrt"}
ERRORS = {"sum_error", "float_error"}
WEAKER = {ast.Lt: b"<=", ast.LtE: b"<", ast.Gt: b">=", ast.GtE: b">", ast.Eq: b"!=", ast.NotEq: b"=="}
SYMBOL = {
    ast.Lt: b"<", ast.LtE: b"<=", ast.Gt: b">", ast.GtE: b">=", ast.Eq: b"==", ast.NotEq: b"!=", ast.Add: b"+",
    ast.Sub: b"-", ast.BitAnd: b"&", ast.BitOr: b"|", ast.And: b"and", ast.Or: b"or",
}  # fmt: skip
FLIPPED = {ast.Add: b"-", ast.Sub: b"+", ast.BitAnd: b"|", ast.BitOr: b"&"}


@dataclass(frozen=True)
class Mutant:
    """One edit of one file. `function`, `before`, `after` name it whatever its line numbers become."""

    path: str
    function: str
    line: int  # the first and the last of the statement's that is edited, without the statements inside it
    last: int
    operator: str
    before: str
    after: str
    start: int
    end: int
    replacement: bytes

    def key(self) -> str:
        return f"{self.path} {self.function}: {self.before} => {self.after}"

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.replacement + source[self.end :]


def name_of(call: ast.AST) -> str:
    function = call.func if isinstance(call, ast.Call) else call
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


class Edits:
    """Every edit of one source file, in order."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.starts = [0]
        for text in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(text))

    def span(self, node: ast.AST) -> tuple[int, int]:
        end = self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return self.starts[node.lineno - 1] + node.col_offset, end  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> bytes:
        start, end = self.span(node)
        return self.source[start:end]

    def replace(self, operator: str, node: ast.AST, replacement: bytes) -> Edit:
        return operator, *self.span(node), replacement

    def symbol(self, operator: str, left: ast.AST, right: ast.AST, old: bytes, new: bytes) -> Iterator[Edit]:
        """Replace the symbol `old` between two operands."""
        first, last = self.span(left)[1], self.span(right)[0]
        found = re.search(rb"(?<![<>=!])" + re.escape(old) + rb"(?!=)", self.source[first:last])
        if found:
            yield operator, first + found.start(), first + found.end(), new

    def of(self, node: ast.AST, parent: ast.AST) -> Iterator[Edit]:
        match node:
            case ast.Call():
                yield from self.call(node)
            case ast.Compare(left=left, ops=ops, comparators=others):
                for a, op, b in zip([left, *others], ops, others, strict=False):
                    if type(op) in WEAKER:
                        yield from self.symbol("comparison", a, b, SYMBOL[type(op)], WEAKER[type(op)])
            case ast.BinOp(left=left, op=op, right=right):
                if type(op) in FLIPPED:
                    yield from self.symbol("sign", left, right, SYMBOL[type(op)], FLIPPED[type(op)])
                    yield self.replace("term removed", node, b"(" + self.text(left) + b")")
                    if isinstance(op, (ast.Add, ast.BitAnd, ast.BitOr)):
                        yield self.replace("term removed", node, b"(" + self.text(right) + b")")
            case ast.BoolOp(op=op, values=values):
                new = b"or" if isinstance(op, ast.And) else b"and"
                yield from self.symbol("condition", values[0], values[1], SYMBOL[type(op)], new)
                neutral = b"True" if isinstance(op, ast.And) else b"False"
                yield from (self.replace("condition removed", v, neutral) for v in values)
            case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
                yield self.replace("sign", node, b"(" + self.text(operand) + b")")
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                yield self.replace("condition", node, b"(" + self.text(operand) + b")")
            case ast.Constant(value=value) if type(value) in (int, float):
                yield from self.constant(node, parent, value)
            case ast.Expr(value=ast.Call() as call) if name_of(call).lstrip("_").startswith(("need", "wellformed")):
                yield self.replace("check removed", node, b"pass")
            case ast.If(test=test, body=[ast.Raise()]):
                yield self.replace("check removed", test, b"False")
            case ast.AugAssign(target=target, op=ast.Add(), value=value):
                yield from self.symbol("sign", target, value, b"+=", b"-=")
            case _:
                return

    def call(self, node: ast.Call) -> Iterator[Edit]:
        name, function = name_of(node), node.func
        if name in ERRORS:
            yield self.replace("error term zero", node, b"0.0")
        if name in OUTWARD and node.args:
            yield self.replace("rounding removed", node, b"(" + self.text(node.args[0]) + b")")
        if name in SWAPPED_CALLS:
            end = self.span(function)[1]
            yield "swapped", end - len(name), end, SWAPPED_CALLS[name].encode()

    def constant(self, node: ast.Constant, parent: ast.AST, value: float) -> Iterator[Edit]:
        """Half of a factor or a term; exponents one further from the safe side."""
        if isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.USub) and value > 20:
            yield self.replace("constant", node, repr(value + 1).encode())  # 2^-52
        if not isinstance(parent, ast.BinOp) or (isinstance(parent.op, ast.Pow) and parent.left is node):
            return
        if isinstance(parent.op, ast.Pow):
            yield self.replace("constant", node, repr(value - 1 if value <= 2 else value + 1).encode())
        elif value != 0:
            yield self.replace("constant", node, repr(value // 2 if type(value) is int else value / 2).encode())


def mutants(root: Path, path: str) -> list[Mutant]:
    """Every mutant of root / path that still compiles and is not the same text."""
    source = (root / path).read_bytes()
    edits, found = Edits(source), []

    def visit(node: ast.AST, parent: ast.AST, function: str, lines: tuple[int, int]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}".lstrip(".")
        lines = _lines(node) or lines
        for operator, start, end, replacement in edits.of(node, parent):
            found.append(_mutant(path, source, function, lines, operator, start, end, replacement))
        for name, child in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "bases"} or isinstance(child, ast.JoinedStr):
                continue
            for item in child if isinstance(child, list) else [child]:
                if isinstance(item, ast.AST) and not isinstance(item, ast.JoinedStr):
                    visit(item, node, function, lines)

    tree = ast.parse(source)
    visit(tree, tree, "", (1, 1))
    return [m for m in dict.fromkeys(found) if m.before != m.after and _compiles(m.apply(source))]


def _lines(node: ast.AST) -> tuple[int, int] | None:
    """The lines of a statement's own text: up to its body, where it has one. None: it is no statement."""
    match node:
        case ast.match_case(pattern=pattern, guard=guard):
            return pattern.lineno, (guard or pattern).end_lineno or pattern.lineno
        case ast.Match(subject=subject):
            return node.lineno, subject.end_lineno or node.lineno
        case ast.stmt():
            body = getattr(node, "body", None)
            last = node.end_lineno or node.lineno
            return node.lineno, max(node.lineno, body[0].lineno - 1) if body else last
        case _:
            return None


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _mutant(
    path: str,
    source: bytes,
    function: str,
    lines: tuple[int, int],
    operator: str,
    start: int,
    end: int,
    replacement: bytes,
) -> Mutant:
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end)
    before = source[first:last]
    after = source[first:start] + replacement + source[end:last]
    words = [" ".join(text.decode().split()) for text in (before, after)]
    return Mutant(path, function, *lines, operator, words[0], words[1], start, end, replacement)
