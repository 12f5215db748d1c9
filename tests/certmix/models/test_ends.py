"""The end of a model: the output that holds the logits, what is behind them; graphs whose nodes are in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from certmix.errors import UsageError
from certmix.models.model import from_module, load_model

FLOAT = onnx.TensorProto.FLOAT
WEIGHT = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["z"])


def node(op: str, source: str, name: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, [source], [name], **attributes)


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    rank: int = 2,
    **ints: list[int],
) -> Path:
    """A graph of a (4, 3) matrix `w` and integer constants, on inputs (batch, 4)."""
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", 4])
    ends = [helper.make_tensor_value_info(name, FLOAT, ["batch", *"abc"[: rank - 1]]) for name in outputs]
    initial = [numpy_helper.from_array(WEIGHT, "w")]
    initial += [numpy_helper.from_array(np.array(values, dtype=np.int64), name) for name, values in ints.items()]
    graph = helper.make_graph(nodes, "g", [x], ends, initial)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def given(path: Path, x: torch.Tensor) -> torch.Tensor:
    """What onnxruntime gives for the whole file, (N, K)."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.asarray(session.run(None, {"x": x.numpy()})[0]).reshape(len(x), -1))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
FOUR = {"s": [0, 3, 1, 1], "t": [0, 3]}
LOGARITHMS = {
    "at the end": ([node("LogSoftmax", "z", "y", axis=1)], 17),
    "along the last axis": ([node("LogSoftmax", "z", "y")], 13),
    "along all axes but the first, before opset 13": ([node("LogSoftmax", "z", "y")], 11),
    "of unit axes": (
        [helper.make_node("Reshape", ["z", "s"], ["i"]), node("LogSoftmax", "i", "y", axis=1)], 17,
    ),
    "before cells are put elsewhere": (
        [helper.make_node("Reshape", ["z", "s"], ["i"]), node("LogSoftmax", "i", "l", axis=-3),
         helper.make_node("Reshape", ["l", "t"], ["r"]), node("Identity", "r", "y")], 17,
    ),
    "as logarithm of softmax": ([node("Softmax", "z", "p", axis=1), node("Log", "p", "y")], 17),
}  # fmt: skip


@pytest.mark.parametrize("where", LOGARITHMS)
def test_a_logsoftmax_is_left_out_and_changes_no_probability_at_any_temperature(tmp_path: Path, where: str) -> None:
    tail, opset = LOGARITHMS[where]
    path = save(tmp_path, [PRODUCT, *tail], opset=opset, rank=4 if where == "of unit axes" else 2, **FOUR)
    model = load_model(path)
    torch.testing.assert_close(model.module(X), X @ torch.from_numpy(WEIGHT))
    assert "LogSoftmax, which is left out" in (model.note or "")
    for temperature in (0.3, 1.0, 7.0):
        expected, found = ((temperature * z).softmax(1) for z in (given(path, X), model.module(X)))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert model.compared_at(X.numpy()).largest < 1e-5


@pytest.mark.parametrize("op", ["LogSoftmax", "Softmax"])
@pytest.mark.parametrize(("shape", "axis"), [([-1, 3, 2, 2], 1), ([-1, 3, 2, 2], 3), ([-1, 6, 2], 2), ([-1, 12], 0)])
def test_what_is_not_over_the_classes_of_one_input_is_not_left_out(
    tmp_path: Path, op: str, shape: list[int], axis: int
) -> None:
    wide = helper.make_node("Concat", ["z"] * 4, ["c"], axis=1), helper.make_node("Reshape", ["c", "s"], ["r"])
    nodes = [PRODUCT, *wide, node(op, "r", "p", axis=axis), node("Flatten", "p", "y")]
    path = save(tmp_path, nodes, s=shape)
    if op == "LogSoftmax" or axis == 0:
        with pytest.raises(UsageError, match=f"operator {op} "):
            load_model(path).require_network()
    else:
        torch.testing.assert_close(load_model(path).module(X), given(path, X))


def test_a_softmax_at_the_end_is_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path, [PRODUCT, node("Softmax", "z", "y", axis=1)])
    with pytest.raises(UsageError, match=r"ends in Softmax.* --outputs probabilities"):
        load_model(path).require_network()
    torch.testing.assert_close(load_model(path, outputs="logits").module(X), given(path, X))
    model = load_model(path, outputs="probabilities")
    torch.testing.assert_close(model.module(X).softmax(1), given(path, X))
    assert "Softmax, which is left out" in (model.note or "")


@pytest.mark.parametrize("tail", [[node("Identity", "z", "y")], [node("LogSoftmax", "z", "y", axis=1)]])
def test_what_does_not_end_in_softmax_gives_no_probabilities(tmp_path: Path, tail: list[onnx.NodeProto]) -> None:
    with pytest.raises(UsageError, match="does not end in Softmax"):
        load_model(save(tmp_path, [PRODUCT, *tail]), outputs="probabilities")


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path: Path) -> None:
    nodes = [PRODUCT, node("Neg", "z", "n"), node("LogSoftmax", "n", "l", axis=1), node("Sin", "z", "e")]
    path = save(tmp_path, nodes, ("z", "l", "e"))
    with pytest.raises(UsageError, match=r"has 3 outputs, 'z', 'l', 'e': name the one that holds the logits"):
        load_model(path)
    with pytest.raises(UsageError, match=r"has no output 'w': its outputs are 'z', 'l', 'e'"):
        load_model(path, output="w")
    z = X @ torch.from_numpy(WEIGHT)
    for name, logits in {"z": z, "l": -z, "n": -z}.items():  # n is a value inside
        torch.testing.assert_close(load_model(path, output=name).module(X), logits)
    with pytest.raises(UsageError, match="operator Sin"):
        load_model(path, output="e").require_network()


def test_nodes_may_be_in_any_order(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(0.5)))
    nodes = [constant, PRODUCT, helper.make_node("Mul", ["z", "c"], ["m"]), node("Relu", "m", "y")]
    digest = load_model(save(tmp_path, nodes)).require_network().sha256
    for order in ([1, 2, 0, 3], [3, 2, 1, 0], [2, 3, 0, 1]):
        assert load_model(save(tmp_path, [nodes[k] for k in order])).require_network().sha256 == digest


def test_a_circle_is_refused(tmp_path: Path) -> None:
    last = helper.make_node("MatMul", ["b", "w"], ["y"])
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), node("Relu", "a", "b"), last]
    with pytest.raises(UsageError, match="not a complete ONNX model"):
        load_model(save(tmp_path, nodes))


def test_a_module_that_ends_in_logsoftmax_has_a_plain_network(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))
    model = from_module(module, (4,))
    torch.testing.assert_close(model.module(X), module[0](X))
    assert model.compared_at(X.numpy()).largest < 1e-5
    assert "LogSoftmax" in (model.note or "")


def test_a_module_that_ends_in_softmax_is_taken_for_probabilities_where_that_is_asked_for() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    model = from_module(module, (4,))
    assert model.network is None
    assert "ends in Softmax" in (model.no_network or "")
    model = from_module(module, (4,), outputs="probabilities")
    torch.testing.assert_close(model.module(X), module[0](X))
