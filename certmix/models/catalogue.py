"""The page of operators: what an ONNX file may hold, as g and as h, from the tables that files are read by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from certmix.models.onnx.operators import CAN_FOLD, OPERATORS
from proofs_check.certificate import NODE_TYPES

TOP = """# Operators

Written by `python benchmarks/operators.py`.

**As g**, the standard model, any operator that onnxruntime runs: certificates by Lemma 3.2 hold for every g. With all
its operators in the table below g is a plain network, too: `--use-standard` needs that, and attacks have its gradients.

**As h**, the robust model, the operators of the table: h becomes a plain network, of which the judge bounds every node.
`certmix models DIR` says which files of a folder can be what, and names the node that stands in the way.

## ONNX operators of a plain network
"""
FOLDED = """
Of constants alone these are worked out when the file is read, as are those of the table:
"""
NODES = """
## Nodes of a plain network

What the operators become. What each computes, and which file of the judge bounds it, stands in
[FORMAT.md](../proofs_check/FORMAT.md), 5; how it is bounded, in that file.
"""


def page() -> str:
    """In Markdown."""
    operators = ["| operator | in what is particular |", "|---|---|"]
    operators += [f"| `{name}` | {first_line(written(function))} |" for name, function in sorted(OPERATORS.items())]
    folded = ", ".join(f"`{name}`" for name in sorted(CAN_FOLD - set(OPERATORS)))
    nodes = ["| node | value |", "|---|---|", *(f"| `{n}` | {first_line(kind)} |" for n, kind in NODE_TYPES.items())]
    return "\n".join([TOP, *operators, FOLDED, f"{folded}.", NODES, *nodes]) + "\n"


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it was written, where the table holds it adapted."""
    inner = inspect.getclosurevars(function).nonlocals.get("function")
    return inner if callable(inner) else function


def first_line(of: Any) -> str:
    """Of its own documentation; "" if it has none."""
    text = inspect.cleandoc(of.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return text.replace("|", "\\|")
