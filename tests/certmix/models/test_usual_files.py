"""What classifiers in files usually look like: each becomes a plain network that computes what onnxruntime does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from certmix.errors import UsageError
from certmix.models.model import Model, load_model

Shape = Sequence[object]


@dataclass
class File:
    """A graph from x to y: each line an operator, its inputs and its output; attributes by name."""

    x: Shape
    y: Shape
    lines: list[tuple[object, ...]]
    constants: dict[str, object] = field(default_factory=dict)
    opset: int = 15
    given: Shape | None = None  # of the inputs at hand, where it is not what the file says

    def model(self, values_in_inputs: bool = False) -> onnx.ModelProto:
        nodes = []
        for op, inputs, output, *attributes in self.lines:
            more = attributes[0] if attributes else {}
            nodes.append(helper.make_node(op, inputs.split(), output.split(), **more))  # type: ignore[union-attr, arg-type]
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", self.x), ("y", self.y))]
        tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in self.constants.items()]
        inputs = ends[:1]
        if values_in_inputs:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
        graph = helper.make_graph(nodes, "g", inputs, ends[1:], tensors)
        version = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[version], ir_version=3 if values_in_inputs else 8)


def w(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 2


def i(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def loads(model: onnx.ModelProto, folder: Path, given: Shape | None = None, **how: str) -> Model:
    """As h, with onnxruntime's values at inputs one by one."""
    onnx.save(model, folder / "m.onnx")
    asked = None if given is None else tuple(given)
    loaded = load_model(folder / "m.onnx", input_shape=asked, **how)  # type: ignore[arg-type]
    loaded.require_network()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).random((5, *loaded.input_shape), dtype=np.float32)
    own = [d if isinstance(d, int) else 1 for d in session.get_inputs()[0].shape]
    batch = own[0] if own and own[0] > 1 and len(own) == len(loaded.input_shape) + 1 else 1
    rows = [session.run(None, {"x": np.repeat(row[None], batch, 0).reshape(own)})[0] for row in x]
    expected = np.stack([np.asarray(r).reshape(batch, -1)[0] for r in rows])
    if how.get("outputs") == "probabilities":
        found = torch.softmax(loaded.module(torch.from_numpy(x)), 1).numpy()
    else:
        found = loaded.module(torch.from_numpy(x)).numpy()
        if loaded.note:
            found = found - np.log(np.exp(found).sum(1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    return loaded


HEAD = [("Flatten", "last", "flat"), ("MatMul", "flat head", "y")]
CONV = [("Conv", "x k", "c"), ("Relu", "c", "last"), *HEAD]
NHWC = ("n", 6, 6, 2)
KERAS = [("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}), ("Conv", "t k", "c"), ("Relu", "c", "r"),
         ("Transpose", "r", "last", {"perm": [0, 2, 3, 1]})]  # fmt: skip
K33 = w(3, 2, 3, 3)

FILES: dict[str, File] = {
    # channels last
    "NHWC, flattened channels last": File(NHWC, ("n", 4), [*KERAS, *HEAD], {"k": K33, "head": w(48, 4)}),
    "NHWC, reshaped by computed shape": File(NHWC, ("n", 4), [
        *KERAS, ("Shape", "last", "s"), ("Slice", "s zero one zero", "n"), ("Concat", "n rest", "to", {"axis": 0}),
        ("Reshape", "last to", "flat"), ("MatMul", "flat head", "y"),
    ], {"k": K33, "head": w(48, 4), "zero": i(0), "one": i(1), "rest": i(-1)}),
    "NHWC, bias and batch norm along the last axis": File(NHWC, ("n", 4), [
        *KERAS, ("Add", "last b", "a"), ("Mul", "a m", "d"), ("ReduceMean", "d", "p", {"axes": [1, 2], "keepdims": 0}),
        ("MatMul", "p head", "z"), ("Add", "z v", "y"),
    ], {"k": K33, "b": w(1, 1, 1, 3), "m": w(3), "head": w(3, 4), "v": w(4)}),
    "NHWC, padded before": File(NHWC, ("n", 4), [
        ("Pad", "x pads", "p"), ("Transpose", "p", "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", "t k", "c", {"strides": [2, 2]}),
        ("LeakyRelu", "c", "last", {"alpha": 0.3}), *HEAD,
    ], {"pads": i(0, 1, 1, 0, 0, 0, 0, 0), "k": K33, "head": w(27, 4)}),
    "NHWC, a depthwise convolution and ReLU6": File(NHWC, ("n", 4), [
        ("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}), ("Conv", "t k", "c", {"group": 2, "auto_pad": "SAME_UPPER"}),
        ("Clip", "c low high", "r"), ("Transpose", "r", "last", {"perm": [0, 2, 3, 1]}), *HEAD,
    ], {"k": w(2, 1, 3, 3), "low": np.float32(0), "high": np.float32(0.5), "head": w(72, 4)}),
    "NHWC, prelu of channels, without batch axis": File((6, 6, 2), (4,), [
        ("PRelu", "x slope", "a"), ("Unsqueeze", "a zero", "b"), ("Transpose", "b", "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", "t k", "c"), ("GlobalAveragePool", "c", "p"), ("Squeeze", "p axes", "last"),
        ("MatMul", "last head", "y"),
    ], {"slope": w(1, 1, 2), "zero": i(0), "k": K33, "axes": i(0, 2, 3), "head": w(3, 4)}),
    "NHWC given channels as they are": File(("n", 6, 6, 1), ("n", 4), [
        ("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}), ("Conv", "t k", "c"), ("Relu", "c", "last"), *HEAD,
    ], {"k": w(2, 1, 3, 3), "head": w(32, 4)}, given=(1, 6, 6)),
    # other ranks
    "one number": File(("n",), ("n", 3), [("Unsqueeze", "x one", "u"),
        ("MatMul", "u a", "y")], {"one": i(1), "a": w(1, 3)}),
    "one number, given as a row": File(
        ("n",), ("n", 3), [("Unsqueeze", "x one", "u"), ("MatMul", "u a", "y")], {"one": i(1), "a": w(1, 3)}, given=(1,)
    ),
    "grey image without channel axis": File(("n", 6, 6), ("n", 4), [
        ("Unsqueeze", "x one", "u"), ("Conv", "u k", "c"), ("Relu", "c", "last"), *HEAD,
    ], {"one": i(1), "k": w(2, 1, 3, 3), "head": w(32, 4)}),
    "grey image without channel axis, given one": File(("n", 6, 6), ("n", 4), [
        ("Unsqueeze", "x one", "u"), ("Conv", "u k", "c"), ("Relu", "c", "last"), *HEAD,
    ], {"one": i(1), "k": w(2, 1, 3, 3), "head": w(32, 4)}, given=(1, 6, 6)),
    "tokens, mixed along both axes": File(("n", 5, 3), ("n", 4), [
        ("MatMul", "x a", "p"), ("Relu", "p", "r"), ("Transpose", "r", "t", {"perm": [0, 2, 1]}),
        ("MatMul", "t b", "q"),
        ("Add", "q v", "last"), ("ReduceMean", "last", "m", {"axes": [-1], "keepdims": 0}), ("MatMul", "m head", "y"),
    ], {"a": w(3, 6), "b": w(5, 5), "v": w(5), "head": w(6, 4)}),
    "a column without batch axis": File((1, 9, 1), (1, 4, 1), [
        ("Reshape", "x s", "f"), ("MatMul", "a f", "p"), ("Add", "p b", "q"), ("Relu", "q", "r"),
        ("MatMul", "c r", "z"),
        ("Reshape", "z t", "y"),
    ], {"s": i(9, 1), "a": w(5, 9), "b": w(5, 1), "c": w(4, 5), "t": i(1, 4, 1)}),
    "a vector without batch axis": File((9,), (4,), [("MatMul", "x a", "y")], {"a": w(9, 4)}),
    "five axes": File(("n", 2, 2, 3, 2), ("n", 4), [
        ("Transpose", "x", "t", {"perm": [0, 4, 2, 1, 3]}), ("Reshape", "t s", "c"), ("Relu", "c", "last"), *HEAD,
    ], {"s": i(0, 4, -1), "head": w(24, 4)}),
    "a series": File(("n", 2, 9), ("n", 4), [
        ("Conv", "x k", "c", {"strides": [2], "pads": [1, 0]}), ("Relu", "c", "r"),
        ("MaxPool", "r", "p", {"kernel_shape": [2], "strides": [2], "ceil_mode": 1}), ("Flatten", "p", "last"), *HEAD,
    ], {"k": w(3, 2, 3), "head": w(6, 4)}),
    "an image made of a vector and back": File(("n", 8), ("n", 4), [
        ("Reshape", "x s", "c"), ("Conv", "c k", "d"), ("Reshape", "d t", "last"), *HEAD,
    ], {"s": i(-1, 2, 2, 2), "k": w(3, 2, 1, 1), "t": i(-1, 12), "head": w(12, 4)}),
    "a batch fixed to 6": File((6, 8), (6, 4), [("MatMul", "x a", "h"), ("Relu", "h", "r"), ("MatMul", "r b", "y")],
                               {"a": w(8, 5), "b": w(5, 4)}),
    # shapes of outputs
    "logits (N, K, 1, 1)": File(("n", 2, 6, 6), ("n", 4, 1, 1), [
        ("Conv", "x k", "c"), ("GlobalMaxPool", "c", "p"), ("Conv", "p o", "y"),
    ], {"k": K33, "o": w(4, 3, 1, 1)}),
    "logits (N, K, 1)": File(("n", 2, 9), ("n", 4, 1), [("Conv", "x k", "y")], {"k": w(4, 2, 9)}),
    "logits (N, 1, K)": File(("n", 1, 8), ("n", 1, 4), [("MatMul", "x a", "y")], {"a": w(8, 4)}),
    "logits (N, 1, 1, K)": File(NHWC, ("n", 1, 1, 4), [
        *KERAS[:3], ("GlobalAveragePool", "r", "p"), ("Transpose", "p", "q", {"perm": [0, 2, 3, 1]}),
        ("MatMul", "q o", "y"),
    ], {"k": K33, "o": w(3, 4)}),
    "LogSoftmax and a Reshape": File(("n", 8), ("n", 4), [
        ("MatMul", "x a", "h"), ("LogSoftmax", "h", "l", {"axis": -1}), ("Reshape", "l s", "y"),
    ], {"a": w(8, 4), "s": i(-1, 4)}),
    "LogSoftmax of an old opset, over (N, K, 1, 1)": File(("n", 2, 6, 6), ("n", 4, 1, 1), [
        ("Conv", "x k", "c"), ("GlobalAveragePool", "c", "p"), ("LogSoftmax", "p", "y", {"axis": 1}),
    ], {"k": w(4, 2, 3, 3)}, opset=11),
    "Log of Softmax": File(("n", 8), ("n", 4), [
        ("MatMul", "x a", "h"), ("Softmax", "h", "s"), ("Log", "s", "y"),
    ], {"a": w(8, 4)}),
    # pieces
    "pooling beyond the edge": File(("n", 2, 6, 6), ("n", 4), [
        ("MaxPool", "x", "p", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 0, 0]}),
        ("Flatten", "p", "last"), *HEAD,
    ], {"head": w(18, 4)}),
    "average pooling beyond the edge, padding counted": File(("n", 2, 6, 6), ("n", 4), [
        ("AveragePool", "x", "p", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1,
                                   "pads": [1, 1, 1, 1]}), ("Flatten", "p", "last"), *HEAD,
    ], {"head": w(32, 4)}, opset=19),
    "pooling with auto_pad": File(("n", 2, 6, 6), ("n", 4), [
        ("MaxPool", "x", "p", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ("AveragePool", "p", "last", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}), *HEAD,
    ], {"head": w(18, 4)}),
    "ReLU6 by Min and Max": File(("n", 8), ("n", 4), [
        ("MatMul", "x a", "h"), ("Max", "zero h", "m"), ("Min", "m six", "r"), ("MatMul", "r b", "y"),
    ], {"a": w(8, 5), "zero": np.float32(0), "six": np.float32(0.6), "b": w(5, 4)}),
    "Clip of an old opset": File(("n", 8), ("n", 4), [
        ("MatMul", "x a", "h"), ("Clip", "h", "r", {"min": 0.0, "max": 0.6}), ("MatMul", "r b", "y"),
    ], {"a": w(8, 5), "b": w(5, 4)}, opset=9),
    "Clip from below alone": File(("n", 8), ("n", 4), [
        ("MatMul", "x a", "h"), ("Clip", "h low", "r"), ("MatMul", "r b", "y"),
    ], {"a": w(8, 5), "low": np.float32(-0.1), "b": w(5, 4)}),
    "a sum of three and a constant": File(("n", 8), ("n", 4), [
        ("MatMul", "x a", "h"), ("Relu", "h", "r"), ("Abs", "h", "s"), ("Sum", "h r s k", "last"), *HEAD,
    ], {"a": w(8, 5), "k": w(1, 5), "head": w(5, 4)}),
    "constants after what they are for, and by nodes": File(("n", 8), ("n", 4), [
        ("Mul", "x two", "h"), ("Constant", "", "two", {"value": numpy_helper.from_array(np.float32(2.0))}),
        ("MatMul", "h a", "y"),
    ], {"a": w(8, 4)}),
    "a mean by reduction of opset 18": File(("n", 2, 6, 6), ("n", 2), [
        ("ReduceMean", "x axes", "m", {"keepdims": 0}), ("Relu", "m", "y"),
    ], {"axes": i(2, 3)}, opset=18),
    "hard sigmoid and hard swish": File(("n", 8), ("n", 4), [
        ("HardSigmoid", "x", "s", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "x s", "h"), ("HardSwish", "h", "r"),
        ("MatMul", "r a", "y"),
    ], {"a": w(8, 4)}),
    "a choice by constants": File(("n", 8), ("n", 4), [
        ("Relu", "x", "r"), ("Where", "which x r", "h"), ("MatMul", "h a", "y"),
    ], {"which": np.arange(8) % 2 == 0, "a": w(8, 4)}),
    "local response normalisation": File(("n", 2, 6, 6), ("n", 4), [
        ("Conv", "x k", "c"), ("LRN", "c", "last", {"size": 3, "alpha": 0.7, "beta": 0.75, "bias": 1.1}), *HEAD,
    ], {"k": w(5, 2, 3, 3), "head": w(80, 4)}),
    "channels shuffled, half of them turned": File(("n", 4, 3, 3), ("n", 4), [
        ("Reshape", "x s", "a"), ("Transpose", "a", "b", {"perm": [0, 2, 1, 3, 4]}), ("Reshape", "b t", "c"),
        ("Split", "c", "d e", {"axis": 1}), ("Slice", "e m o three m", "f"),
        ("Concat", "f d", "last", {"axis": 1}), *HEAD,
    ], {"s": i(0, 2, 2, 3, 3), "t": i(0, -1, 3, 3), "m": i(-1), "o": i(-9), "three": i(3), "head": w(36, 4)}, opset=12),
    "rolled by nothing": File(("n", 4, 3), ("n", 4), [
        ("Slice", "x three end one", "a"), ("Slice", "x zero three one", "b"),
        ("Concat", "a b", "last", {"axis": 2}), *HEAD,
    ], {"zero": i(0), "one": i(2), "three": i(3), "end": i(2**31), "head": w(12, 4)}),
    "squeeze and excitation": File(("n", 2, 6, 6), ("n", 4), [
        ("GlobalAveragePool", "x", "p"), ("Conv", "p k", "q"), ("Sigmoid", "q", "s"), ("Mul", "x s", "last"), *HEAD,
    ], {"k": w(2, 2, 1, 1), "head": w(72, 4)}),
    "layer norm spelled out": File(("n", 8), ("n", 4), [
        ("ReduceMean", "x", "m", {"axes": [-1]}), ("Sub", "x m", "d"), ("Pow", "d two", "q"),
        ("ReduceMean", "q", "v", {"axes": [-1]}), ("Add", "v e", "s"), ("Sqrt", "s", "r"),
        ("Div", "d r", "last"), *HEAD,
    ], {"two": np.float32(2), "e": np.float32(1e-5), "head": w(8, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_it_is_a_plain_network_of_the_same_values(name: str, tmp_path: Path) -> None:
    file = FILES[name]
    loads(file.model(), tmp_path, file.given)


@pytest.mark.parametrize("name", ["a batch fixed to 6", "ReLU6 by Min and Max", "tokens, mixed along both axes"])
def test_weights_that_are_inputs_too_as_old_files_have_them_are_constants(name: str, tmp_path: Path) -> None:
    loads(FILES[name].model(values_in_inputs=True), tmp_path)


def test_a_softmax_at_the_end_is_left_out_where_it_is_asked_for(tmp_path: Path) -> None:
    of = {"a": w(8, 4), "s": i(-1, 4, 1, 1)}
    lines = [("MatMul", "x a", "h"), ("Reshape", "h s", "z"), ("Softmax", "z", "y", {"axis": 1})]
    loads(File(("n", 8), ("n", 4, 1, 1), lines, of).model(), tmp_path, outputs="probabilities")


@pytest.mark.parametrize("name", ["y", "aux"])
def test_of_two_outputs_the_one_that_is_named(name: str, tmp_path: Path) -> None:
    lines = [("MatMul", "x a", "h"), ("Relu", "h", "r"), ("MatMul", "r b", "y"), ("MatMul", "h b", "aux")]
    model = File(("n", 8), ("n", 4), lines, {"a": w(8, 5), "b": w(5, 4)}).model()
    model.graph.output.append(helper.make_tensor_value_info("aux", TensorProto.FLOAT, ("n", 4)))
    onnx.save(model, tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx", output=name)
    x = torch.rand(3, 8)
    h = x @ torch.from_numpy(w(8, 5))
    expected = (h if name == "aux" else h.relu()) @ torch.from_numpy(w(5, 4))
    torch.testing.assert_close(loaded.module(x), expected)


def of_classes() -> onnx.ModelProto:
    lines = [("MatMul", "x a", "h"), ("ArgMax", "h", "y", {"axis": 1, "keepdims": 0})]
    model = File(("n", 8), ("n",), lines, {"a": w(8, 4)}).model()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a fixed batch whose number is used": (
        lambda: File((6, 8), (6, 4), [("Reshape", "x s", "h"),
            ("MatMul", "h a", "y")], {"s": i(6, 8), "a": w(8, 4)}).model(),
        r"operator Reshape \(node 'h'\): .* has no shape \(6, 8\)(.*); its batch axis is fixed",
    ),
    "nothing is left": (
        lambda: File(("n", 8), ("n", 4), [("Slice", "x e e one", "h"), ("Relu", "h", "r"), ("MatMul", "r a", "y")],
                     {"e": i(8), "one": i(1), "a": w(0, 4)}).model(),
        r"operator (Relu|MatMul) .* takes a value without cells",
    ),
    "volumes": (
        lambda: File(("n", 1, 4, 4, 4), ("n", 1), [("GlobalMaxPool", "x", "y")]).model(),
        r"operator GlobalMaxPool .* needs a 2-d image, got a value of shape \(1, 4, 4, 4\): volumes have no plain form",
    ),
    "one logit": (
        lambda: File(("n", 8), ("n", 1), [("MatMul", "x a", "y")], {"a": w(8, 1)}).model(),
        r"gives float32 of shape \(1, 1\): two classes have two logits: append a 0",
    ),
    "a class in place of logits": (
        of_classes,
        r"name the value inside that holds the logits \(--output NAME\); no plain network either: operator ArgMax",
    ),
    "a value that is not a number": (
        lambda: File(("n", 8), ("n", 8), [("Neg", "x", "h"), ("Sqrt", "h", "y")]).model(),
        r"the model gives nan in logit 0 of input 0: repair it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_h_says_which_node_why_and_what_would_help(name: str, tmp_path: Path) -> None:
    make, why = REFUSED[name]
    onnx.save(make(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=why):
        load_model(tmp_path / "m.onnx").require_network()
