"""Softplus with torch's threshold becomes Softplus where float32 knows no difference, and nothing else does."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from certmix.errors import UsageError
from certmix.models.model import from_module
from certmix.models.onnx.reader import plain_network
from certmix.models.onnx.thresholds import SAME_IN_FLOAT32
from proofs_check.certificate import Softplus


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
