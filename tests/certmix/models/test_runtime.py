"""An ONNX model without plain network runs as onnxruntime runs it, one input's answer apart from the others'."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from certmix.errors import UsageError
from certmix.models.front import reshaped, same_pixels
from certmix.models.model import Model, load_model, reopened
from certmix.models.runtime import Runtime, RuntimeModule, differentiable, ends_of
from verifiers.network.module import PlainModule

node = helper.make_node


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def graph(
    nodes: list[onnx.NodeProto],
    shape: tuple[object, ...] = ("n", 4),
    kind: int = TensorProto.FLOAT,
    out: tuple[object, ...] = ("n", 3),
    **constants: object,
) -> onnx.ModelProto:
    """x -> y through `nodes`; w (4, 3) and b (3) are there."""
    values = {"w": weights(4, 3), "b": weights(3), **constants}
    initial = [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()]
    ends = [helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", kind, out)]
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends, initial), opset_imports=opsets, ir_version=8)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


LINEAR = [node("MatMul", ["a", "w"], ["z"]), node("Add", ["z", "b"], ["y"])]
SIN = [node("Sin", ["x"], ["a"]), *LINEAR]
NORM = [node("LayerNormalization", ["x", "one", "zero"], ["l"]), node("Sin", ["l"], ["a"]), *LINEAR]
ONE = {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
# a reshape to one row, although the batch axis is open
ROWS = [node("Sin", ["x"], ["e"]), node("Reshape", ["e", "row"], ["a"]), *LINEAR]
KINDS = {
    "an operator without counterpart": graph(SIN),
    "a layer normalisation": graph(NORM, **ONE),
    "a batch of one": graph(SIN, (1, 4), out=(1, 3)),
    "a batch of seven": graph(SIN, (7, 4), out=(7, 3)),
    "an open batch that only one input fits": graph(ROWS, row=np.array([1, 4])),
    "double precision": graph(
        [node("Cast", ["x"], ["c"], to=1), node("Sin", ["c"], ["a"]), LINEAR[0],
         node("Add", ["z", "b"], ["s"]), node("Cast", ["s"], ["y"], to=11)], kind=TensorProto.DOUBLE,
    ),
    "half precision": graph(
        [node("Cast", ["x"], ["c"], to=1), node("Sin", ["c"], ["a"]), LINEAR[0],
         node("Add", ["z", "b"], ["s"]), node("Cast", ["s"], ["y"], to=10)], kind=TensorProto.FLOAT16,
    ),
    "no batch axis": graph(SIN, (4,), out=(3,)),
    "axes of length one behind the classes": graph(
        [*SIN[:2], node("Add", ["z", "b"], ["s"]), node("Unsqueeze", ["s", "axes"], ["y"])],
        out=("n", 3, 1, 1), axes=np.array([2, 3]),
    ),
}  # fmt: skip


def by_hand(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Row by row, in a batch that repeats it."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    dims = model.graph.input[0].type.tensor_type.shape.dim
    kind = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    rows = [(np.repeat(r[None], dims[0].dim_value or 1, axis=0) if len(dims) > 1 else r).astype(kind) for r in x]
    return np.stack([np.asarray(session.run(None, {"x": r})[0]).ravel()[:3] for r in rows]).astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_model_without_plain_network_gives_what_onnxruntime_gives(tmp_path: Path, name: str, count: int) -> None:
    model = load_model(saved(tmp_path, KINDS[name]))
    assert model.network is None
    assert model.no_network
    assert not differentiable(model.module)
    assert (model.input_shape, model.classes) == ((4,), 3)
    x = np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)
    given = model.module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(given, by_hand(KINDS[name], x), rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="can still be g, the standard one"):
        model.require_network()


def test_it_can_be_pickled_kept_and_run_on_nothing(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path, KINDS["an open batch that only one input fits"]))
    x = torch.rand(3, 4)
    expected = model.module(x)
    assert torch.equal(pickle.loads(pickle.dumps(model.module))(x), expected)
    assert model.onnx is not None
    assert torch.equal(reopened(model.onnx, "kept").module(x), expected)
    assert model.module(x[:0]).shape == (0, 3)


MIXED = [node("ReduceMax", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["s"]), node("Sin", ["s"], ["a"]), *LINEAR]
INFINITE = [node("Sin", ["x"], ["r"]), node("Log", ["zero"], ["i"]), node("Mul", ["r", "i"], ["a"]), *LINEAR]
MATRIX = [node("Sin", ["x"], ["e"]), node("Reshape", ["e", "s"], ["y"])]
REFUSED = {
    "depends on the others of the batch": graph(MIXED),
    "not finite": graph(INFINITE, **ONE),
    "of shape \\(1, 2, 2\\)": graph(MATRIX, s=np.array([-1, 2, 2]), out=("n", 2, 2)),
    "holds int64": graph([node("Cast", ["x"], ["a"], to=1), *LINEAR], kind=TensorProto.INT64),
    "leaves its shape open": graph(SIN, ("n", "features")),
    "onnxruntime cannot run it": graph([node("Mine", ["x"], ["a"], domain="own"), *LINEAR]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_classifier_at_all_is_refused_with_both_reasons(tmp_path: Path, reason: str) -> None:
    model = REFUSED[reason]
    model.opset_import.append(helper.make_opsetid("own", 1))
    path = saved(tmp_path, model)
    with pytest.raises(UsageError, match=reason) as caught:
        load_model(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the shape of the inputs at hand


def test_open_axes_are_filled_in_and_the_network_is_plain(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "k"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    path = saved(tmp_path, graph(nodes, ("n", "c", "h", "w"), k=weights(3, 2, 3, 3)))
    with pytest.raises(UsageError, match="leaves its shape open"):
        load_model(path)
    model = load_model(path, input_shape=(2, 5, 6))
    assert model.require_network().input_shape == (2, 5, 6)
    assert load_model(path, input_shape=(2, 4, 4)).require_network().input_shape == (2, 4, 4)


SHAPES = [(12,), (1, 3, 4), (3, 4, 1), (3, 4), (12, 1), (1, 12)]


@pytest.mark.parametrize("own", SHAPES)
@settings(max_examples=10, deadline=None)
@given(wanted=st.sampled_from(SHAPES), seed=st.integers(0, 9))
def test_the_same_pixels_in_another_shape_give_the_same_logits(own: tuple[int, ...], wanted, seed: int) -> None:
    assert same_pixels(own, wanted)
    nodes = [node("Flatten", ["x"], ["f"]), node("Sin", ["f"], ["a"]), *LINEAR]
    model = graph(nodes, ("n", *own), w=weights(12, 3))
    x = np.random.default_rng(seed).random((3, 12), dtype=np.float32)
    other = Runtime(reshaped(model, ends_of(model), wanted).SerializeToString())
    assert other.ends.shape == wanted
    expected = Runtime(model.SerializeToString()).logits(x.reshape(3, *own))
    np.testing.assert_array_equal(other.logits(x.reshape(3, *wanted)), expected)


@pytest.mark.parametrize("found", [(12,), (2, 2, 3), (2, 3, 2), (4, 3), (6, 2)])
def test_channels_may_be_in_either_order_so_their_shape_is_never_changed(found: tuple[int, ...]) -> None:
    assert not same_pixels(found, (3, 2, 2))


def test_a_plain_network_takes_the_inputs_at_hand_too(tmp_path: Path) -> None:
    path = saved(tmp_path, graph([node("Flatten", ["x"], ["a"]), *LINEAR]))
    model = load_model(path, input_shape=(1, 2, 2))
    assert isinstance(model.module, PlainModule)
    assert model.input_shape == model.require_network().input_shape == (1, 2, 2)
    x = torch.rand(2, 1, 2, 2)
    torch.testing.assert_close(model.module(x), load_model(path).module(x.flatten(1)))
    assert load_model(path, input_shape=(7,)).input_shape == (4,)


def test_a_runtime_module_has_no_gradient_and_says_so(tmp_path: Path) -> None:
    model: Model = load_model(saved(tmp_path, KINDS["an operator without counterpart"]))
    assert isinstance(model.module, RuntimeModule)
    assert not model.module(torch.rand(2, 4, requires_grad=True)).requires_grad
    assert differentiable(torch.nn.Sequential(torch.nn.Linear(4, 3)))
    assert not differentiable(torch.nn.Sequential(torch.nn.Identity(), model.module))
