"""Choices that are one function become it: maxima, |x|, softplus with torch's threshold; nothing else does."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from certmix.errors import UsageError
from certmix.models.model import from_module
from certmix.models.onnx.choices import SAME_IN_FLOAT32
from certmix.models.onnx.reader import plain_network
from proofs_check.certificate import Linear, Relu, Softplus
from proofs_check.kernel import bounds
from proofs_check.rules.lipschitz.layer_norms import node_constants
from verifiers.network.module import PlainModule


@pytest.mark.parametrize("module", [torch.nn.Softplus(), torch.nn.Softplus(2.0, 30.0), torch.nn.Softplus(0.5)], ids=str)
def test_a_softplus_of_torch_is_one_curve(module: torch.nn.Module):
    network = from_module(torch.nn.Sequential(torch.nn.Linear(4, 5), module, torch.nn.Linear(5, 3)), (4,)).network
    assert network is not None
    assert sum(isinstance(node, Softplus) for node in network.nodes) == 1


def test_above_the_threshold_float32_has_the_value_itself():
    for u in (SAME_IN_FLOAT32, np.nextafter(np.float32(SAME_IN_FLOAT32), np.float32(99)), 17.5, 20.0, 31.9, 32.0, 88.0):
        assert np.float32(math.log1p(math.exp(-float(u))) + float(u)) == np.float32(u)


def graph(threshold: float, above: str = "y", otherwise: str = "s", compared: str = "y") -> onnx.ModelProto:
    """y = W x; Where(compared > threshold, above, otherwise), s = Softplus(y), z = 2 y, r = Relu(y)."""
    floats = helper.make_tensor_value_info
    constants = {"w": np.ones((4, 3), np.float32), "t": np.float32(threshold), "two": np.float32(2)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Softplus", ["y"], ["s"]),
        helper.make_node("Mul", ["y", "two"], ["z"]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Softplus", ["z"], ["sz"]),
        helper.make_node("Div", ["sz", "two"], ["d"]),
        helper.make_node("Greater", [compared, "t"], ["c"]),
        helper.make_node("Where", ["c", above, otherwise], ["out"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    ends = [floats("x", TensorProto.FLOAT, ["n", 4])], [floats("out", TensorProto.FLOAT, ["n", 3])]
    return helper.make_model(helper.make_graph(nodes, "g", *ends, tensors), opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("of", [(20.0,), (17.0,), (20.0, "y", "d", "z")], ids=str)
def test_files_that_torch_writes_load(of: tuple):
    assert any(isinstance(node, Softplus) for node in plain_network(graph(*of)).nodes)


@pytest.mark.parametrize(
    "of",
    [(16.9,), (math.nan,), (20.0, "z"), (20.0, "y", "r"), (20.0, "y", "s", "z"), (20.0, "z", "d", "z"),
     (20.0, "y", "sz", "y")],
    ids=str,
)  # fmt: skip
def test_another_choice_between_two_values_is_none(of: tuple):
    with pytest.raises(UsageError, match="Greater"):
        plain_network(graph(*of))


# ---------------------------------------------------------------- maxima, minima, |x|

FLOATS = helper.make_tensor_value_info
DECIDED = {
    "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
}  # fmt: skip
CONSTANTS = {
    "zero": np.float32(0), "zeros": np.zeros(1, np.float32), "tall": np.zeros((1, 1, 1), np.float32),
    "half": np.float32(0.5), "minus": np.float32(-1), "tenth": np.float32(0.1), "three": np.float32(3),
    "nearly": np.float32(-1 + 2**-20), "row": np.array([0.5, -0.5, 2.0], np.float32), "whole": np.float32(-1.5),
}  # fmt: skip


def chosen_by(kind: str, left: str, right: str, above: str, below: str, negated: bool = False) -> onnx.ModelProto:
    """Where(left kind right, above, below) of halves a, b of the input (6,) and of values made of a."""
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Neg", ["a"], ["-a"]),
        helper.make_node("Neg", ["b"], ["-b"]),
        helper.make_node("Mul", ["minus", "a"], ["-1 a"]),
        helper.make_node("Mul", ["a", "nearly"], ["about -a"]),
        helper.make_node("Sub", ["zero", "a"], ["0 - a"]),
        helper.make_node("Sub", ["half", "a"], ["half - a"]),
        helper.make_node("Mul", ["a", "tenth"], ["a / 10"]),
        helper.make_node("Mul", ["three", "a"], ["3 a"]),
        helper.make_node("Cast", ["whole"], ["-1 whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["-1 whole"], ["-1"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "-1"], ["whole a"]),
        helper.make_node("Identity", ["a"], ["also a"]),
        helper.make_node(kind, [left, right], ["c"]),
        helper.make_node("Not", ["c"], ["not c"]),
        helper.make_node("Where", ["not c" if negated else "c", above, below], ["out"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in CONSTANTS.items()]
    ends = [FLOATS("x", TensorProto.FLOAT, ["n", 6])], [FLOATS("out", TensorProto.FLOAT, ["n", 3])]
    return helper.make_model(helper.make_graph(nodes, "g", *ends, tensors), opset_imports=[helper.make_opsetid("", 17)])


def values(name: str, x: np.ndarray) -> np.ndarray:
    a, b = x[:, :3], x[:, 3:]
    made = {
        "a": a, "b": b, "-a": -a, "-b": -b, "-1 a": -a, "0 - a": -a, "a / 10": a * np.float32(0.1), "3 a": 3 * a,
        "also a": a,
    }  # fmt: skip
    return made[name] if name in made else CONSTANTS[name]


CHOICES = [
    ("a", "b", "a", "b"), ("a", "b", "b", "a"), ("a", "b", "also a", "b"), ("also a", "b", "a", "b"),
    ("a", "zero", "a", "zeros"), ("a", "half", "a", "half"), ("half", "a", "a", "half"), ("a", "row", "row", "a"),
    ("a", "zero", "a", "-a"), ("a", "zero", "-a", "a"), ("zero", "a", "a", "-a"), ("zeros", "a", "-a", "a"),
    ("a", "zeros", "a", "-1 a"), ("a", "zero", "a", "0 - a"), ("a", "zero", "a", "a / 10"), ("a", "zero", "a", "3 a"),
]  # fmt: skip


@pytest.mark.parametrize("kind", DECIDED)
@pytest.mark.parametrize("names", CHOICES, ids=str)
def test_a_choice_between_pieces_that_meet_is_their_function(names: tuple, kind: str):
    less = "Less" in kind
    if less and names[3] in ("a / 10", "3 a"):
        names = (names[0], names[1], names[3], names[2])
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    x[:8, 3:], x[8:12] = x[:8, :3], 0  # ties
    left, right, above, below = (values(n, x) for n in names)
    wanted = np.where(DECIDED[kind](left, right), above, below)
    swapped = (*names[:2], names[3], names[2])
    for model in (chosen_by(kind, *names), chosen_by(kind, *swapped, negated=True)):
        found = PlainModule(plain_network(model)).double()(torch.from_numpy(x).double()).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


LOOK_ALIKES = [
    ("a", "b", "a", "-b"), ("a", "b", "a", "zero"), ("a", "b", "-a", "a"), ("a", "half", "a", "zero"),
    ("a", "half", "a", "-a"), ("a", "zero", "b", "-b"), ("a", "zero", "a", "half - a"), ("b", "zero", "a", "-a"),
    ("a", "zero", "a / 10", "a"), ("a", "zero", "3 a", "a / 10"), ("a", "b", "a", "a / 10"), ("a", "zero", "-b", "a"),
    ("a", "tall", "a", "-a"), ("a", "zero", "a", "whole a"), ("a", "zero", "about -a", "a"),
    ("a", "row", "a", "half"), ("a", "half", "a", "tenth"),
]  # fmt: skip


@pytest.mark.parametrize("names", LOOK_ALIKES, ids=str)
def test_a_choice_that_is_none_of_these_is_refused(names: tuple):
    with pytest.raises(UsageError, match="Greater"):
        plain_network(chosen_by("Greater", *names))


def test_a_choice_between_stored_numbers_is_worked_out_as_before():
    nodes = [
        helper.make_node("Greater", ["w", "zero"], ["c"]),
        helper.make_node("Mul", ["w", "tenth"], ["w / 10"]),
        helper.make_node("Where", ["c", "w", "w / 10"], ["leaky"]),
        helper.make_node("MatMul", ["x", "leaky"], ["out"]),
    ]
    w = np.array([[1, -1], [-2, 3]], np.float32)
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in {**CONSTANTS, "w": w}.items()]
    ends = [FLOATS("x", TensorProto.FLOAT, ["n", 2])], [FLOATS("out", TensorProto.FLOAT, ["n", 2])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    (weight,) = (n.weight for n in plain_network(model).nodes if isinstance(n, Linear))
    np.testing.assert_array_equal(weight.T, np.where(w > 0, w, w * np.float32(0.1)))


class Chosen(torch.nn.Module):
    """MaxMin, then |x|, by torch.where."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 1)
        x = torch.cat([torch.where(a > b, a, b), torch.where(a > b, b, a)], 1)
        return torch.where(x >= 0, x, -x)


def test_choices_of_torch_keep_their_constant():
    torch.manual_seed(0)
    first, last = torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)
    torch.nn.init.orthogonal_(first.weight)
    torch.nn.init.orthogonal_(last.weight)
    module = torch.nn.Sequential(first, Chosen(), last).eval()
    network = from_module(module, (4,)).require_network()
    x = torch.randn(20, 4)
    torch.testing.assert_close(PlainModule(network)(x), module(x))
    assert node_constants(bounds.prepare(network), "L2")[0][-1] <= 1 + 1e-5
    assert sum(isinstance(node, Relu) for node in network.nodes) == 1  # shared by maximum and minimum
