"""The page of operators: what an ONNX file may hold, as g and as h, from the tables that files are read by."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from certmix.models.onnx.operators import CAN_FOLD, OPERATORS
from proofs_check import certificate
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

What the operators become, in g as in h. Affine nodes (a matrix, or cells that move) lose nothing but rounding. Of the
others the judge draws lines above and below, over intervals that it has proven: how, and what it charges for rounding,
says the file of the judge beside each. [FORMAT.md](../proofs_check/FORMAT.md), 5, specifies them.

**How far h may go.** Where intervals are narrow every node below is of use: attention, layer norm, softmax and gates,
too, which are products of bounded values, inverse powers and exponentials. On large balls their lines are far from
them, and certificates are small or none. Where a divisor or a root may leave its domain (x > 0, x >= 0) nothing is
proven. g needs none of this.
"""


def page() -> str:
    """In Markdown."""
    operators = ["| operator | as h |", "|---|---|"]
    operators += [f"| `{name}` | {first_line(written(function))} |" for name, function in sorted(OPERATORS.items())]
    folded = ", ".join(f"`{name}`" for name in sorted(CAN_FOLD - set(OPERATORS)))
    nodes = ["| node | value | judged in |", "|---|---|---|"]
    nodes += [f"| `{name}` | {first_line(kind)} | {judged(name)} |" for name, kind in NODE_TYPES.items()]
    return "\n".join([TOP, *operators, FOLDED, f"{folded}.", NODES, *nodes]) + "\n"


def judged(name: str) -> str:
    """Where the judge bounds this node: the link in its row of the format."""
    text = Path(certificate.__file__).with_name("FORMAT.md").read_text("utf-8").split("| op | fields |")[1]
    row = next(row for row in text.splitlines() if re.match(rf"\| (`\w+`, )?`{name}`", row))
    label, path = re.findall(r"\[(\w+)\]\((kernel/\S+)\)", row)[-1]
    return f"[{label}](../proofs_check/{path})"


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it was written, where the table holds it adapted."""
    inner = inspect.getclosurevars(function).nonlocals.get("function")
    return inner if callable(inner) else function


def first_line(of: Any) -> str:
    """Of its own documentation; "" if it has none."""
    text = inspect.cleandoc(of.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return text.replace("|", "\\|")
