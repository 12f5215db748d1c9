"""The table of layer kinds: every kind of FORMAT.md is there, and answers every question that a rule may ask."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_steps import layer
from layer_kinds import DRAWN
from small_networks import NORMS
from test_imports import ROOT, code_lines

from proofs_check import certificate as c
from proofs_check import witness
from proofs_check.kernel import bounds
from proofs_check.kernel.layers import KINDS
from proofs_check.kernel.layers.affine import Affine
from proofs_check.kernel.layers.curve import Curve
from proofs_check.kernel.layers.layer import Layer, Nonlinear
from proofs_check.kernel.linear_forms import LinearForms, image

F32 = np.float32


def small(op: str) -> tuple[c.Node, list[tuple[int, ...]]]:
    """A node of this kind, and the shapes of its inputs."""
    if op == "input":
        return c.Input((2, 4, 4)), []
    rng = np.random.default_rng(0)
    (*_, shape), draw = DRAWN[op]
    node: Any = draw(rng, 0, shape)
    return node, [shape for _ in node.inputs]


SMALL = {op: small(op) for op in c.NODE_TYPES}
CURVES = {op: kind for op, node in c.NODE_TYPES.items() if issubclass(kind := KINDS[node], Curve)}
REFUSED = {
    **{
        (op, "float32_error"): "curves such as sigmoid and tanh are not covered"
        for op in CURVES
        if "float32_error" not in vars(CURVES[op])
    },
    **{(op, "lower_slopes"): "takes no slopes" for op in CURVES},
    **{
        (op, question): "slopes of .* have no bound"
        for op, kind in CURVES.items()
        if not np.isfinite(kind.limits).all()
        for question in ("derivative", "slopes_anywhere", *(f"lipschitz {norm}" for norm in NORMS))
    },
    ("product", "float32_error"): "products of two values are not covered",
    **{("product", f"lipschitz {norm}"): "slopes of Product have no bound" for norm in NORMS},
    ("product", "slopes_anywhere"): "slopes of Product have no bound",
    ("product", "lower_slopes"): "takes no slopes",
    ("product", "derivative"): "no multipliers",
    ("max_pool2d", "lower_slopes"): "takes no slopes",
    ("max_pool2d", "derivative"): "no multipliers",
}


def questions(op: str) -> dict[str, Callable[[], Any]]:
    """Whatever a rule may ask of a kind, at a box around the points with coordinates of at most 1."""
    node, shapes = SMALL[op]
    asked: Any = layer(node, *map(image, shapes))
    uppers = [np.ones(image(s)) for s in shapes]
    lowers = [u / 2 if op in ("inverse_power", "square_root") else -u for u in uppers]
    found: dict[str, Callable[[], Any]] = {
        "float32_error": lambda: asked.float32_error(uppers, [0 * u for u in uppers]),
        **{f"lipschitz {norm}": lambda norm=norm: asked.lipschitz([1.0 for _ in shapes], norm) for norm in NORMS},
    }
    if isinstance(asked, Affine):
        shape = image(asked.shape(node, shapes, "here"))
        forms = LinearForms(np.ones((1, *shape[1:], shape[0])), None)
        found |= {
            "interval": lambda: asked.interval(lowers, uppers),
            "apply": lambda: asked.apply(*uppers),
            "adjoint": lambda: asked.adjoint(forms),
        }
    if isinstance(asked, Nonlinear):
        box = lowers[0], uppers[0]
        found |= {
            "neurons": lambda: asked.neurons(*box),
            "interval": lambda: asked.interval(*box),
            "relaxation": lambda: asked.relaxation(*box, None),
            "lower_slopes": lambda: asked.lower_slopes(*box, np.ones_like(box[0])),
            "slopes": lambda: asked.slopes(*box),
            "slopes_anywhere": asked.slopes_anywhere,
            "derivative": asked.derivative,
        }
    return found


def test_every_kind_of_the_format_has_its_layer_and_a_small_instance_here():
    assert set(KINDS) == set(c.NODE_TYPES.values())
    assert all(type(node) is c.NODE_TYPES[op] for op, (node, _) in SMALL.items())
    assert all(issubclass(kind, (Affine, Nonlinear)) for node, kind in KINDS.items() if node is not c.Input)


@pytest.mark.parametrize("op", c.NODE_TYPES)
def test_a_kind_answers_every_question_of_a_rule_or_refuses_with_a_reason(op: str):
    node, shapes = SMALL[op]
    assert all(n >= 1 for n in KINDS[type(node)].shape(node, shapes, "here"))
    for name, ask in questions(op).items():
        if (op, name) in REFUSED:
            with pytest.raises(c.RejectedError, match=REFUSED[op, name]):
                ask()
        else:
            assert ask() is not None, name


def test_every_question_to_a_layer_is_one_of_those_asked_here():
    asked = {name.split()[0] for op in SMALL for name in questions(op)}
    public = {n for kind in (Layer, Affine, Nonlinear) for n, v in vars(kind).items() if inspect.isfunction(v)}
    inner = {"operator_norm", "stretch"}  # answered in the course of other answers
    assert {n for n in public if not n.startswith("_")} - inner == asked


def test_kinds_with_slopes_in_a_witness_are_those_that_take_them():
    taking = {kind for op, kind in c.NODE_TYPES.items() if "lower_slopes" in questions(op)}
    taking -= {c.NODE_TYPES[op] for op, name in REFUSED if name == "lower_slopes"}
    assert taking == set(witness.SLOPED)


def test_a_network_with_a_node_that_no_step_would_bound_is_rejected():
    """The parser lets only node 0 be an input; if one came later, nodes and bounds would no longer be at one place."""
    nodes = (c.Input((2,)), c.Input((2,)), c.Shift((0,), np.array([9, 0], F32)), c.Shift((1,), np.zeros(2, F32)))
    with pytest.raises(c.RejectedError, match="neither affine nor nonlinear"):
        bounds.prepare(c.PlainNetwork(nodes, ((2,),) * 4, "", b""))


@pytest.mark.parametrize("op", c.NODE_TYPES)
def test_the_format_cites_the_file_of_every_kind(op: str):
    table = (ROOT / "FORMAT.md").read_text("utf-8").split("| op | fields |")[1]
    row = next(r for r in table.splitlines() if re.match(rf"\| (`\w+`, )?`{op}`", r))
    file = Path(inspect.getfile(KINDS[c.NODE_TYPES[op]]))
    assert f"({file.relative_to(ROOT)})" in row


@pytest.mark.parametrize("file", sorted((ROOT / "kernel/layers").glob("*.py")), ids=lambda f: f.stem)
def test_a_layers_file_is_short_enough_to_be_read(file: Path):
    assert len(code_lines(file)) <= 80
