"""Laws of every layer kind, over the table of kinds: each question's answer is tied to the kind's exact value."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_network import exact, exact_values
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import DRAWN, OPS, alone
from small_networks import NORMS
from torch import Tensor

import verifiers.layers
from proofs_check import certificate as c
from verifiers.crown.network import prepare
from verifiers.layers import KINDS
from verifiers.layers.affine import Affine
from verifiers.layers.curve import Curve
from verifiers.layers.layer import AnyLayer, Layer, LayerError
from verifiers.layers.nonlinear import Nonlinear
from verifiers.linear_forms.blocks import space_to_depth
from verifiers.linear_forms.forms import (
    BlockForms,
    DenseForms,
    LinearForms,
    PatchForms,
    Summand,
    consecutive_forms,
    dot,
)
from verifiers.linear_forms.patches import Patches
from verifiers.network import lowering
from verifiers.network.module import PlainModule

FORMS = 6
SLACK = 1e-9
seeds = st.integers(0, 2**31 - 1)
ops = pytest.mark.parametrize("op", OPS)
LAYOUTS = ("dense", "blocks", "patches")
FEW = settings(max_examples=12, deadline=None)
AFFINE = tuple(op for op in OPS if KINDS[c.NODE_TYPES[op]].affine)
NONLINEAR = tuple(op for op in OPS if op not in AFFINE)


class Instance:
    """A layer in float64, boxes of its inputs and points in these, (N, *shape) each."""

    def __init__(self, op: str, seed: int, inputs: int = 2) -> None:
        self.network, self.k = alone(op, seed)
        net = prepare(self.network, torch.float64, torch.device("cpu"))
        self.layer: AnyLayer = net.layers[self.k]
        self.parents = net.parents(self.k)
        self.rng = torch.Generator().manual_seed(seed)
        center, width = self.random(inputs, *self.network.input_shape), self.random(inputs, *self.network.input_shape)
        self.lower, self.upper = (
            PlainModule(self.network).double().values(center + sign * width.abs()) for sign in (-1, 1)
        )
        self.boxes = [(self.lower[i], self.upper[i]) for i in self.parents]

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, dtype=torch.float64)

    def points(self, share: float) -> list[Tensor]:
        """Of every input, cell by cell at an end of the box, or at this share of it."""
        ends = torch.rand(self.network.input_shape, generator=self.rng) < 0.5
        inputs = torch.where(ends, self.lower[0] + share * (self.upper[0] - self.lower[0]), self.upper[0])
        values = PlainModule(self.network).double().values(inputs)
        return [values[i] for i in self.parents]

    def forms(self, layout: str, inputs: int = 2) -> LinearForms:
        """Random forms on the value, some of their coefficients zero."""
        shape, count = self.layer.shape, FORMS * inputs
        dense = self.random(count, *shape) * (self.random(count, *shape) > -0.5)
        if layout == "dense" or len(shape) != 3:
            return DenseForms(dense)
        if layout == "blocks":
            blocks = space_to_depth(dense, (2, 2))
            return BlockForms(
                blocks + self.random(*blocks.shape) * (space_to_depth(dense * 0 + 1, (2, 2)) == 0), (2, 2), shape
            )
        positions = torch.randint(0, 4, (count,), generator=self.rng)
        patches = Patches(positions, (2, 2), (1, 1), (-1, 0))
        return PatchForms(self.random(count, shape[0], 2, 2), patches, shape)


def applied(forms: Summand, value: Tensor) -> Tensor:
    """(R,): the forms at a value (N, *shape), the same number of them for each of the N."""
    complete = forms.complete()
    gathered = complete.gather(value, consecutive_forms(len(value), FORMS, value.device))
    return dot(complete.grouped(gathered), gathered)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=SLACK, atol=SLACK)


# ---------------------------------------------------------------- the table


def test_every_kind_of_the_format_is_in_both_tables_and_answers_every_question() -> None:
    assert set(KINDS) == set(c.NODE_TYPES.values())
    assert {*OPS, "input"} == set(c.NODE_TYPES)
    for op in OPS:
        assert type(Instance(op, 0).layer.node) is c.NODE_TYPES[op]  # an unanswered question would be a TypeError
    assert all(not inspect.isabstract(kind) for kind in KINDS.values())


def test_a_kind_that_lacks_an_answer_cannot_be_made() -> None:
    for asked, kind in ((Affine, KINDS[c.Flatten]), (Nonlinear, KINDS[c.Relu])):
        for question in Layer.__abstractmethods__ | asked.__abstractmethods__:
            unanswered = getattr(Layer, question, None) or getattr(asked, question)
            forgetful = type("Forgetful", (kind,), {question: unanswered})
            with pytest.raises(TypeError, match=question):
                forgetful(c.Relu((0,)), ((3,),), (3,), {})


WHAT_AFFINE_KINDS_REFUSE = {"default_slopes", "relaxation", "forms_below", "derivative_range"}
WHAT_NONLINEAR_KINDS_REFUSE = {"adjoint", "offset"}
NO_SLOPES = {"default_slopes"}
CURVED = {op: kind for op in OPS if issubclass(kind := KINDS[c.NODE_TYPES[op]], Curve)}
STEEP = [
    "product",
    *(op for op, kind in CURVED.items() if math.inf in map(abs, kind.limits)),
]  # no Lipschitz constant everywhere
NATIVE_ONLY = [
    "product",
    *(op for op, kind in CURVED.items() if kind.lower is Curve.lower),
]  # which auto_LiRPA does not get


def questions(made: Instance) -> dict[str, Callable[[], Any]]:
    """Every question of `Layer`, asked."""
    layer, (lower, upper), points = made.layer, made.boxes[0], made.points(0.5)
    forms, index = made.forms("dense"), torch.tensor([0])
    return {
        "value": lambda: layer.value(*points),
        "interval": lambda: layer.interval(*made.boxes),
        "lipschitz": lambda: layer.lipschitz([1.0 for _ in made.boxes], "L2"),
        "lower": lambda: lowering.lower(made.network),
        "adjoint": lambda: layer.adjoint(forms),
        "offset": lambda: layer.offset(forms),
        "gain": layer.gain,
        "unit_forms": lambda: layer.unit_forms(index),
        "slope_range": lambda: layer.slope_range,
        "default_slopes": lambda: layer.default_slopes(lower, upper),
        "neurons": lambda: layer.neurons(lower, upper),
        "relaxation": lambda: layer.relaxation(lower, upper, None),
        "forms_below": lambda: layer.forms_below(forms),
        "derivative_range": lambda: layer.derivative_range(lower, upper),
    }


@ops
def test_a_kind_answers_every_question_or_refuses_it_with_the_way_out(op: str) -> None:
    made = Instance(op, 1)
    refused = WHAT_AFFINE_KINDS_REFUSE if made.layer.affine else WHAT_NONLINEAR_KINDS_REFUSE
    if not made.layer.affine and made.layer.slope_range is None:
        refused = refused | NO_SLOPES
    refused = refused | ({"lower"} if op in NATIVE_ONLY else set()) | ({"lipschitz"} if op in STEEP else set())
    asked = questions(made)
    assert set(asked) >= Layer.__abstractmethods__
    for question, ask in asked.items():
        if question in refused:
            with pytest.raises(LayerError, match=rf"^{type(made.layer).__name__} layers have no .+: .+"):
                ask()
        else:
            ask()


def test_engines_ask_layers_and_name_no_kind() -> None:
    """The rooms that ask: a kind's name there is a question that the layer should answer."""
    root = Path(verifiers.layers.__file__).parent.parent
    for file in [*(root / "crown").glob("*.py"), *(root / "lipschitz").glob("*.py"), root / "network/module.py"]:
        source = file.read_text("utf-8")
        assert not [kind.__name__ for kind in KINDS if kind is not c.Input and f"c.{kind.__name__}" in source], file


# ---------------------------------------------------------------- values


@ops
@given(seed=seeds)
@FEW
def test_the_value_is_the_exact_one_up_to_rounding(op: str, seed: int) -> None:
    made = Instance(op, seed, inputs=1)
    point = made.points(0.25)[0] / 2.0 if made.parents == (1,) else made.lower[0]
    values = PlainModule(made.network).double().values(point)
    exactly = exact_values(made.network, exact(point[0].numpy()))
    expected = torch.from_numpy(np.array([float(v) for v in exactly[made.k].ravel()])).view(1, *made.layer.shape)
    arguments = [values[i] for i in made.parents]
    for answer in (values[made.k], made.layer.value(*arguments), made.layer.at(*arguments)):
        assert close(answer, expected)
    assert all(close(end, expected) for end in made.layer.interval(*((x, x) for x in arguments)))


@ops
@given(seed=seeds, share=st.floats(0, 1))
@FEW
def test_an_interval_contains_the_values_of_points(op: str, seed: int, share: float) -> None:
    made = Instance(op, seed)
    lower, upper = made.layer.interval(*made.boxes)
    value = made.layer.value(*made.points(share))
    assert (value >= lower - SLACK).all()
    assert (value <= upper + SLACK).all()


# ---------------------------------------------------------------- affine kinds


@pytest.mark.parametrize("op", AFFINE)
@given(seed=seeds, layout=st.sampled_from(LAYOUTS))
@FEW
def test_forms_on_the_value_are_their_adjoints_on_the_inputs_plus_the_offset(op: str, seed: int, layout: str) -> None:
    made = Instance(op, seed)
    forms, points = made.forms(layout), made.points(0.5)
    below = made.layer.adjoint(forms)
    assert [f.shape for f in below] == list(made.layer.shapes)
    offset = made.layer.offset(forms)
    total = sum((applied(f, x) for f, x in zip(below, points, strict=True)), torch.zeros(2 * FORMS).double())
    assert close(applied(forms, made.layer.value(*points)), total if offset is None else total + offset)


@ops
@given(seed=seeds)
@FEW
def test_unit_forms_are_the_neurons(op: str, seed: int) -> None:
    made = Instance(op, seed)
    points = made.points(0.5)
    index = torch.randint(0, value_size(made), (FORMS,), generator=made.rng)
    units = made.layer.unit_forms(index)
    if units is None:
        return
    forms, constant = units
    value = made.layer.value(*points)
    for n in range(len(value)):
        row = slice(n, n + 1)
        assert close(applied(forms, points[0][row]) + constant, value[n].flatten()[index])


@ops
@given(seed=seeds)
@FEW
def test_what_is_known_of_how_neurons_depend_on_inputs_is_so(op: str, seed: int) -> None:
    made = Instance(op, seed)
    points, gain = made.points(0.5), made.layer.gain()
    moved = [x + 0.5 for x in points]
    difference = made.layer.value(*moved) - made.layer.value(*points)
    if gain is not None:
        assert close(difference, (0.5 * gain).expand_as(difference))
    if made.layer.adds:
        assert close(made.layer.value(*points), torch.stack(points).sum(0))
    if not made.layer.mixes and made.layer.affine:
        ones = DenseForms(torch.eye(value_size(made)).double().view(-1, *made.layer.shape))
        below = [f.complete().to_dense().coefficients for f in made.layer.adjoint(ones)]
        assert (sum((b != 0).flatten(1).sum(1) for b in below) <= 1).all()  # type: ignore[union-attr]  # of tensors


def value_size(made: Instance) -> int:
    return int(np.prod(made.layer.shape))


@pytest.mark.parametrize("op", AFFINE)
@given(seed=seeds)
@FEW
def test_the_linear_part_and_absolute_weights_are_those_of_the_layer(op: str, seed: int) -> None:
    made = Instance(op, seed)
    layer: Affine[Any] = made.layer  # type: ignore[assignment]  # AFFINE
    points, zeros = made.points(0.5), [torch.zeros_like(x) for x in made.points(0.5)]
    assert close(layer.linear().value(*points), layer.value(*points) - layer.value(*zeros))
    units = DenseForms(torch.eye(value_size(made)).double().view(-1, *layer.shape))
    for below, absolute in zip(layer.adjoint(units), layer.absolute().adjoint(units), strict=True):
        matrix, sizes = (f.complete().to_dense().coefficients for f in (below, absolute))
        assert close(matrix.abs(), sizes)
        assert (matrix != 0).flatten(1).sum(1).max() <= layer.terms + 16
        assert (matrix != 0).sum(0).max() <= layer.terms + 16
    assert not layer.absolute().value(*zeros).any()


@pytest.mark.parametrize("op", [op for op in OPS if op not in STEEP])
@given(seed=seeds, share=st.floats(0, 1), norm=st.sampled_from(NORMS))
@FEW
def test_values_of_two_points_differ_by_no_more_than_the_lipschitz_constant(
    op: str, seed: int, share: float, norm: c.Norm
) -> None:
    made = Instance(op, seed)
    order = {"Linf": np.inf, "L2": 2.0, "L1": 1.0}[norm]

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.vector_norm((a - b).flatten(1), order, dim=1)

    one, other = made.points(share), made.points(0.5)
    values = made.layer.value(*one), made.layer.value(*other)
    moved = distances(*values)
    apart = [distances(a, b) for a, b in zip(one, other, strict=True)]
    rounding = 2.0**-45 * sum(float(v.abs().sum()) for v in (*values, *one, *other))  # of points next to one another
    for n in range(len(moved)):
        assert moved[n] <= made.layer.lipschitz([float(d[n]) for d in apart], norm) * (1 + 2.0**-40) + rounding


# ---------------------------------------------------------------- nonlinear kinds


@pytest.mark.parametrize("op", NONLINEAR)
@given(seed=seeds, layout=st.sampled_from(LAYOUTS), share=st.floats(0, 1), inputs=st.integers(1, 2))
@FEW
def test_a_relaxation_bounds_forms_from_above(op: str, seed: int, layout: str, share: float, inputs: int) -> None:
    """With any slopes it may take; one input alone takes the sparse way where few neurons are unstable."""
    made = Instance(op, seed, inputs)
    (lower, upper), slopes = made.boxes[0], None
    if made.layer.slope_range is not None:
        least, most = made.layer.slope_range
        slopes = least + (most - least) * torch.rand(lower.shape, generator=made.rng, dtype=torch.float64)
    forms = made.forms(layout, inputs)
    form_to_input = consecutive_forms(inputs, FORMS, lower.device)
    relaxation = made.layer.relaxation(lower, upper, slopes)
    below, constant = relaxation.backward(forms, form_to_input)
    layout_below = made.layer.forms_below(forms)
    assert (type(below), below.coefficients.shape) == (type(layout_below), layout_below.coefficients.shape)
    for x in (*made.points(share), lower, upper, (lower + upper) / 2):
        bound = applied(below, x) + constant
        assert (applied(forms, made.layer.value(x)) <= bound + SLACK * (1 + bound.abs())).all()


@pytest.mark.parametrize("op", [op for op in NONLINEAR if Instance(op, 0).layer.slope_range is not None])
@given(seed=seeds)
@FEW
def test_a_kind_with_slopes_is_linear_where_its_neurons_are_stable(op: str, seed: int) -> None:
    made = Instance(op, seed)
    lower, upper = made.boxes[0]
    relaxation: Any = made.layer.relaxation(lower, upper, made.layer.default_slopes(lower, upper))
    stable = ~made.layer.neurons(lower, upper)
    assert torch.equal(relaxation.upper_slope[stable], relaxation.lower_slope[stable])
    assert not relaxation.upper_intercept[stable].any()


@pytest.mark.parametrize("op", NONLINEAR)
@given(seed=seeds, share=st.floats(0, 1))
@FEW
def test_derivatives_at_points_are_in_their_range(op: str, seed: int, share: float) -> None:
    made = Instance(op, seed)
    lower, upper = made.boxes[0]
    least, most = made.layer.derivative_range(lower, upper)
    assert (least <= most).all()
    x = made.points(share)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(made.layer.value(x).sum(), [x])
    layer: Nonlinear[Any] = made.layer  # type: ignore[assignment]  # NONLINEAR
    # the gradient of tanh is 1 - tanh² here, which cancels
    assert (gradient >= layer.from_taps(least) - 2.0**-50).all()
    assert (gradient <= layer.from_taps(most) + 2.0**-50).all()


@pytest.mark.parametrize("op", NONLINEAR)
@given(seed=seeds)
@FEW
def test_forms_reach_the_input_over_taps_as_values_reach_the_output(op: str, seed: int) -> None:
    made = Instance(op, seed)
    layer: Nonlinear[Any] = made.layer  # type: ignore[assignment]  # NONLINEAR
    slopes = layer.derivative_range(*made.boxes[0])[1]
    (x,), forms = made.points(0.5), made.random(2, *layer.shape)
    forward = layer.sum_of_taps(layer.at_taps(x) * slopes)
    backward = layer.from_taps(layer.over_taps(forms) * slopes)
    assert close((forms * forward).flatten(1).sum(1), (backward * x).flatten(1).sum(1))
    assert slopes.numel() == layer.taps * forms.numel()


@pytest.mark.parametrize("op", NONLINEAR)
@given(seed=seeds)
@FEW
def test_the_rounding_of_a_value_is_inside_its_bound(op: str, seed: int) -> None:
    made = Instance(op, seed, inputs=1)
    layer: Nonlinear[Any] = made.layer  # type: ignore[assignment]  # NONLINEAR
    (point,) = made.points(0.3)
    (x,) = [PlainModule(made.network).double().values(point / 2.0)[i] for i in made.parents]
    exactly = exact_values(made.network, exact((point[0] / 2.0).numpy()))[made.k].ravel()
    value, error = (exact(t.numpy()).ravel() for t in (layer.value(x), layer.rounding(x)))
    assert all(abs(a - b) <= e for a, b, e in zip(value, exactly, error, strict=True))


def test_drawn_instances_take_every_form() -> None:
    """The laws see padding even and uneven, groups, strides and dilations, constants per channel and per element."""
    nodes = {op: [alone(op, seed)[0].nodes[2] for seed in range(30)] for op in DRAWN}
    convolutions: Any = nodes["conv2d"]
    assert {node.groups for node in convolutions} == {1, 2}
    assert {node.dilation == (1, 1) for node in convolutions} == {node.stride == (1, 1) for node in convolutions}
    for op in ("max_pool2d", "average_pool2d"):
        pools: Any = nodes[op]
        assert {node.padding[:2] == node.padding[2:] for node in pools} == {True, False}
    for op in ("shift", "scale", "divide"):
        constants: Any = nodes[op]
        assert {node.constant.shape for node in constants} == {(2, 1, 1), (2, 6, 5), (5,)}
