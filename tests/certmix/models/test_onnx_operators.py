"""Every supported ONNX operator: random small graphs compute in torch what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, shape_inference

from certmix.models.model import from_module, load_model
from certmix.models.onnx.operators import OPERATORS
from proofs_check import certificate as c

Draw = Callable[..., int]


@dataclass
class Graph:
    """An ONNX graph in the making; `last` names the latest value."""

    shape: tuple[int, ...]
    rng: np.random.Generator
    opset: int = 17
    last: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initial: dict[str, np.ndarray] = field(default_factory=dict)

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.initial)}"
        self.initial[name] = np.asarray(value)
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape).astype(np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        self.last = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs) or [self.last_input()], [self.last], **attributes))
        return self.last

    def last_input(self) -> str:
        return f"v{len(self.nodes) - 1}" if self.nodes else "x"

    def model(self, batch: str | int = "batch", classes: int | None = 3) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, *self.shape])
        logits = None if classes is None else [batch, classes]
        y = helper.make_tensor_value_info(self.last, onnx.TensorProto.FLOAT, logits)
        initial = [numpy_helper.from_array(value, name) for name, value in self.initial.items()]
        graph = helper.make_graph(self.nodes, "g", [x], [y], initial)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def output_shape(self) -> tuple[int, ...]:
        """Shape of the latest value, without the batch axis."""
        if not self.nodes:
            return self.shape
        inferred = shape_inference.infer_shapes(self.model(1, None), strict_mode=True, data_prop=True)
        dims = inferred.graph.output[0].type.tensor_type.shape.dim
        return tuple(d.dim_value for d in dims)[1:]

    def head(self) -> onnx.ModelProto:
        """The model, closed with a flattening and a linear layer to three logits."""
        size = int(np.prod(self.output_shape()))
        assume(size > 0)
        flat = self.add("Flatten", self.last)
        self.add("Gemm", flat, self.weight(size, 3), self.weight(3))
        return self.model()


def pads(draw: Draw, most: int) -> list[int]:
    return [draw(st.integers(0, most)) for _ in range(4)]


def conv(g: Graph, draw: Draw) -> None:
    channels, groups = g.output_shape()[0], draw(st.sampled_from([1, 1, 2]))
    assume(channels % groups == 0)
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    out = groups * draw(st.integers(1, 2))
    inputs = [g.last, g.weight(out, channels // groups, *kernel)]
    if draw(st.booleans()):
        inputs.append(g.weight(out))
    where = draw(st.sampled_from([{"pads": pads(draw, 2)}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {}]))
    dilations = [1, 1] if "auto_pad" in where else [draw(st.integers(1, 2)), 1]
    size, around = g.output_shape()[1:], where.get("pads", [0] * 4)
    spans = [dilations[a] * (kernel[a] - 1) + 1 - size[a] - around[a] - around[a + 2] for a in (0, 1)]
    assume("auto_pad" in where or max(spans) <= 0)
    g.add("Conv", *inputs, group=groups, strides=[draw(st.integers(1, 2)), 1], dilations=dilations, **where)


def pool(g: Graph, draw: Draw) -> None:
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    padding = [draw(st.integers(0, kernel[a % 2] - 1)) for a in range(4)]
    size = g.output_shape()[1:]
    assume(all(size[a] + padding[a] + padding[a + 2] >= kernel[a] for a in (0, 1)))
    where = {"kernel_shape": kernel, "strides": [draw(st.integers(1, 3)), draw(st.integers(1, 4))], "pads": padding}
    where["ceil_mode"] = int(draw(st.booleans()))
    starts = [
        -(-(size[a] + padding[a] + padding[a + 2] - kernel[a]) // where["strides"][a]) * where["strides"][a]
        for a in (0, 1)
    ]  # of the last windows; where one starts beyond the image, onnx and onnxruntime disagree on shapes
    assume(not where["ceil_mode"] or all(starts[a] < size[a] + padding[a] for a in (0, 1)))
    if draw(st.booleans()):
        g.add("MaxPool", g.last, **where)
    else:
        g.add("AveragePool", g.last, count_include_pad=int(draw(st.booleans())), **where)


def sequence(g: Graph, draw: Draw) -> None:
    """An image as a sequence of its rows, through a one-dimensional operator."""
    channels, length = g.output_shape()[0], int(np.prod(g.output_shape()[1:]))
    x = g.add("Reshape", g.last, g.ints(-1, channels, length))
    kernel, stride, dilation = draw(st.integers(1, min(3, length))), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    around = [draw(st.integers(0, kernel - 1)), draw(st.integers(0, kernel - 1))]
    pools = ["MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"]
    op = draw(st.sampled_from(["Conv", "ConvTranspose", *pools]))
    where: dict[str, object] = {} if op.startswith("Global") else {"strides": [stride], "pads": around}
    if op in ("MaxPool", "AveragePool"):
        where["kernel_shape"] = [kernel]
    if op == "Conv" and draw(st.booleans()):
        where = {"strides": [stride], "auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}
    elif op in ("Conv", "ConvTranspose"):
        where["dilations"] = [dilation]
        assume(op == "ConvTranspose" or length + sum(around) > dilation * (kernel - 1))
        assume(op == "Conv" or stride * (length - 1) + dilation * (kernel - 1) + 1 > sum(around))
    weights = {"Conv": (2, channels, kernel), "ConvTranspose": (channels, 2, kernel)}
    g.add(op, x, *([g.weight(*weights[op])] if op in weights else []), **where)


def conv_transpose(g: Graph, draw: Draw) -> None:
    channels, groups = g.output_shape()[0], draw(st.sampled_from([1, 1, 2]))
    assume(channels % groups == 0)
    kernel, strides, dilations = ([draw(st.integers(1, n)), draw(st.integers(1, n))] for n in (3, 3, 2))
    more = [draw(st.integers(0, strides[a] - 1)) for a in (0, 1)]
    around, size = pads(draw, 2), g.output_shape()[1:]
    out = [strides[a] * (size[a] - 1) + dilations[a] * (kernel[a] - 1) + 1 + more[a] for a in (0, 1)]
    assume(all(out[a] > around[a] + around[a + 2] for a in (0, 1)))
    inputs = [g.last, g.weight(channels, draw(st.integers(1, 2)), *kernel)]
    if draw(st.booleans()):
        inputs.append(g.weight(groups * g.initial[inputs[1]].shape[1]))
    where = {"strides": strides, "dilations": dilations, "output_padding": more, "pads": around}
    g.add("ConvTranspose", *inputs, group=groups, **where)


def resize(g: Graph, draw: Draw) -> None:
    factors = [draw(st.sampled_from([0.5, 0.7, 1.0, 1.5, 2.0, 2.6])) for _ in (0, 1)]
    size = g.output_shape()[1:]
    assume(all(int(f * n) > 0 for f, n in zip(factors, size, strict=True)))
    if all(2 * f == int(2 * f) for f in factors):  # else where onnx and onnxruntime agree on the shape
        inputs = ["", g.constant(np.array([1, 1, *factors], dtype=np.float32))]
    else:
        target = [int(f * n) for f, n in zip(factors, size, strict=True)]
        inputs = ["", "", g.ints(1, g.output_shape()[0], *target)]
    places = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
    nearest = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
    place, near = draw(st.sampled_from(places)), draw(st.sampled_from(nearest))
    g.add("Resize", g.last, *inputs, mode="nearest", coordinate_transformation_mode=place, nearest_mode=near)


def einsum(g: Graph, draw: Draw) -> None:
    """Of a value with a constant that has axes in common with it and its own; or of a value alone."""
    shape = g.output_shape()
    own = dict(zip("abcdefgh", shape, strict=False))
    term = "n" + "".join(own)
    shared = [letter for letter in own if draw(st.booleans())]
    over = draw(st.permutations([*shared, *draw(st.sampled_from(["", "y", "yz"]))]))
    sizes = {**own, "y": 2, "z": 3}
    kept = [letter for letter in own if draw(st.booleans())]
    output = "n" + "".join(draw(st.permutations([*kept, *(x for x in over if x in "yz")])))
    if not over or draw(st.integers(0, 4)) == 0:
        output = "n" + "".join(x for x in output if x in own)
        g.add("Einsum", g.last, equation=f"{term} -> {output}")
        return
    constant = g.weight(*(sizes[x] for x in over))
    first, second = f"{term},{''.join(over)}", f"{''.join(over)},{term}"
    if draw(st.booleans()):
        g.add("Einsum", g.last, constant, equation=f"{first}->{output}")
    else:
        g.add("Einsum", constant, g.last, equation=f"{second}->{output}")


def ellipsis(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    assume(shape)
    equation = draw(st.sampled_from(["...k,km->...m", "...k,km", "...k,k->...k"]))
    g.add("Einsum", g.last, g.weight(shape[-1], *([2] if "m" in equation else [])), equation=equation)


def stacks_of_matrices(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    assume(len(shape) > 1)
    stack = [n if draw(st.booleans()) else 1 for n in (1, *shape[:-2])][draw(st.integers(0, len(shape) - 2)) :]
    if draw(st.booleans()):
        g.add("MatMul", g.last, g.weight(*stack, shape[-1], 2))
    else:
        g.add("MatMul", g.weight(*stack, 2, shape[-2]), g.last)


def batch_norm(g: Graph, draw: Draw) -> None:
    channels = g.output_shape()[0]
    variance = g.constant(g.rng.uniform(0.1, 2, channels).astype(np.float32))
    parts = [g.weight(channels), g.weight(channels), g.weight(channels), variance]
    g.add("BatchNormalization", g.last, *parts, epsilon=draw(st.sampled_from([1e-5, 1e-3])))


def activation(g: Graph, draw: Draw) -> None:
    curves = ["Relu", "LeakyRelu", "Abs", "HardSigmoid", "Sigmoid", "Tanh"]
    op = draw(st.sampled_from([*curves, "Neg", "Identity", "Dropout", "Cast"]))
    slopes = st.sampled_from([0.0, 0.01, 0.3, 1.0, -0.5, 1.5])
    line = st.sampled_from([{}, {"alpha": 0.7, "beta": -0.2}, {"alpha": -1.0, "beta": 0.1}])
    attributes = {"Cast": {"to": 1}, "LeakyRelu": {"alpha": draw(slopes)}, "HardSigmoid": draw(line)}.get(op, {})
    g.add(op, g.last, **attributes)


def curve(g: Graph, draw: Draw) -> None:
    op = draw(st.sampled_from(["Softplus", "Erf", "Elu", "Selu", "Celu", "HardSwish", "Exp", "Pow"]))
    if op in ("Exp", "Pow"):  # which soon leave float32
        g.add("Tanh", g.last)
    inputs = [g.constant(np.float32(draw(st.sampled_from([1, 2, 3]))))] if op == "Pow" else []
    alpha = {"alpha": draw(st.sampled_from([0.5, 1.0, 1.7]))} if op in ("Elu", "Selu", "Celu") else {}
    g.add(op, g.last, *inputs, **alpha)


def gate(g: Graph, draw: Draw) -> None:
    """GELU, SiLU and hard swish, as exporters spell them out; squares and cubes."""
    x, number = g.last, lambda value: g.constant(np.float32(value))
    kind, twice = draw(st.sampled_from(["erf", "tanh", "fast", "silu", "quick", "clip", "square", "cube"])), False
    inner = draw(st.booleans())  # the factor 1/2 is of x, not of the product
    if kind == "erf":
        divided = draw(st.booleans())
        v = g.add(*(("Div", x, number(2**0.5)) if divided else ("Mul", x, number(0.5**0.5))))
        side, twice = g.add("Add", g.add("Erf", v), number(1)), True
    elif kind == "tanh":
        cube = g.add("Pow", x, number(3)) if draw(st.booleans()) else g.add("Mul", g.add("Mul", x, x), x)
        total = g.add("Add", *draw(st.permutations([x, g.add("Mul", cube, number(0.044715))])))
        side, twice = g.add("Add", number(1), g.add("Tanh", g.add("Mul", total, number(0.7978846)))), True
    elif kind == "fast":
        growth = g.add("Add", g.add("Mul", number(0.044715), g.add("Mul", x, x)), number(1))
        total = g.add("Mul", g.add("Mul", x, number(0.7978846)), growth)
        side, twice = g.add("Add", g.add("Tanh", total), number(1)), True
    elif kind in ("silu", "quick"):
        side = g.add("Sigmoid", x if kind == "silu" else g.add("Mul", x, number(1.702)))
    elif kind == "clip":
        side = g.add("Clip", g.add("Add", x, number(3)), number(0), number(6))
    else:
        x = side = g.add("HardSigmoid", x)
        side = g.add("Mul", x, x) if kind == "cube" else side
    x = g.add("Mul", x, number(0.5)) if twice and inner else x
    g.add("Mul", *draw(st.permutations([x, side])))
    if twice and not inner:
        g.add("Mul", g.last, number(0.5))
    if kind == "clip":
        g.add("Div", g.last, number(6))


def positive(g: Graph, x: str) -> str:
    """Numbers between 0.2 and 1.8 that depend on the input."""
    return g.add("Add", g.add("Mul", g.add("Tanh", x), g.constant(np.float32(0.8))), g.constant(np.float32(1)))


def product_of_values(g: Graph, draw: Draw) -> None:
    before = g.last
    draw(st.sampled_from([activation, curve, clip]))(g, draw)  # type: ignore[operator]
    g.add(*draw(st.sampled_from([("Mul", before, g.last), ("Mul", g.last, before), ("Mul", g.last, g.last)])))


def quotient(g: Graph, draw: Draw) -> None:
    """By a value, by a root, and powers."""
    before, below = g.last, positive(g, g.last)
    below = g.add("Sqrt", below) if draw(st.booleans()) else below
    one = g.constant(np.float32(draw(st.sampled_from([1.0, -2.5]))))
    power = g.constant(np.float32(draw(st.sampled_from([0.5, -0.5, -1, -2]))))
    steps = [("Div", before, below), ("Div", one, below), ("Reciprocal", below), ("Pow", below, power)]
    g.add(*draw(st.sampled_from(steps)))


def gate_of_one_name(g: Graph, draw: Draw) -> None:
    g.add(draw(st.sampled_from(["Softsign", *(["Mish"] if g.opset >= 18 else [])])), g.last)


def softmax(g: Graph, draw: Draw) -> None:
    along = axis(g, draw)
    assume(g.output_shape()[along - 1 if along > 0 else along] > 1)
    g.add("Softmax", g.last, axis=along)


def normalization(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    assume(shape)
    epsilon = draw(st.sampled_from([1e-5, 1e-2]))
    if len(shape) > 1 and draw(st.booleans()):
        parts = [g.weight(shape[0]), g.weight(shape[0])]
        g.add("InstanceNormalization", g.last, *parts, epsilon=epsilon)
        return
    first = draw(st.integers(1, len(shape)))
    parts = [g.weight(*shape[first - 1 :]) for _ in range(draw(st.integers(1, 2)))]
    g.add(
        "LayerNormalization",
        g.last,
        *parts,
        axis=draw(st.sampled_from([first, first - len(shape) - 1])),
        epsilon=epsilon,
    )


def two_values_summed(g: Graph, draw: Draw) -> None:
    """Attention's products, and others that Einsum writes."""
    shape, before = g.output_shape(), g.last
    assume(shape)
    activation(g, draw)
    rank = len(shape)
    if rank > 1 and draw(st.booleans()):
        turned = g.add("Transpose", g.last, perm=[*range(rank - 1), rank, rank - 1])
        g.add("MatMul", *draw(st.sampled_from([(before, turned), (turned, before)])))
        return
    letters = "abcdefgh"[:rank]
    kept = "".join(draw(st.permutations([letter for letter in letters if draw(st.booleans())])))
    g.add("Einsum", before, g.last, equation=f"n{letters},n{letters}->n{kept}")


def norm(g: Graph, draw: Draw) -> None:
    rank, op = len(g.output_shape()), draw(st.sampled_from(["ReduceL1", "ReduceL2", "ReduceSumSquare"]))
    assume(rank)
    axes = draw(st.lists(st.integers(1, rank), unique=True, min_size=1, max_size=rank))
    given = ([g.ints(*axes)], {}) if g.opset >= 18 else ([], {"axes": axes})
    g.add(op, g.last, *given[0], keepdims=int(draw(st.booleans())), **given[1])


def response_norm(g: Graph, draw: Draw) -> None:
    """Over an odd number of channels: onnxruntime knows no other."""
    exponent = draw(st.sampled_from([0.75, 0.5, 2.0]))
    g.add("LRN", g.last, size=draw(st.sampled_from([1, 3, 5])), alpha=0.3, beta=exponent, bias=1.5)


def broadcastable(g: Graph, draw: Draw) -> np.ndarray:
    """A constant that broadcasts against the latest value without enlarging it."""
    kept = [n if draw(st.booleans()) else 1 for n in g.output_shape()]
    cut = draw(st.integers(-1, len(kept)))
    return g.rng.normal(size=[1, *kept] if cut < 0 else kept[cut:]).astype(np.float32)


def clip(g: Graph, draw: Draw) -> None:
    ends = [g.constant(np.float32(end)) for end in g.rng.normal(size=2)]
    g.add("Clip", g.last, *draw(st.sampled_from([ends, ends[:1], ["", ends[1]], []])))


def extreme(g: Graph, draw: Draw) -> None:
    before = g.last
    activation(g, draw)
    inputs = draw(st.permutations([before, g.last, g.constant(broadcastable(g, draw)), before]))
    g.add(draw(st.sampled_from(["Max", "Min"])), *inputs[draw(st.integers(0, 2)) :])


def prelu(g: Graph, draw: Draw) -> None:
    g.add("PRelu", g.last, g.constant(broadcastable(g, draw)))


def many_summands(g: Graph, draw: Draw) -> None:
    before = g.last
    activation(g, draw)
    inputs = draw(st.permutations([before, g.last, g.constant(broadcastable(g, draw)), before]))
    g.add(draw(st.sampled_from(["Sum", "Mean"])), *inputs[draw(st.integers(0, 2)) :])


def where(g: Graph, draw: Draw) -> None:
    before = g.last
    activation(g, draw)
    condition = g.constant(broadcastable(g, draw) > 0)
    sides = draw(st.sampled_from([[before, g.last], [g.last, before], [g.last, g.constant(broadcastable(g, draw))]]))
    g.add("Where", condition, *draw(st.permutations(sides)))


def with_constant(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    kept = [n if draw(st.booleans()) else 1 for n in shape]
    cut = draw(st.integers(-1, len(kept)))
    value = g.rng.uniform(0.2, 2, ([1, *kept] if cut < 0 else kept[cut:])).astype(np.float32)
    constant = g.constant(value * draw(st.sampled_from([1, -1])))
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    swapped = op != "Div" and draw(st.booleans())
    g.add(op, *((constant, g.last) if swapped else (g.last, constant)))


def residual(g: Graph, draw: Draw) -> None:
    before = g.last
    activation(g, draw)
    g.add(draw(st.sampled_from(["Add", "Sub"])), *draw(st.permutations([before, g.last])))


def concat(g: Graph, draw: Draw) -> None:
    before = g.last
    activation(g, draw)
    g.add(
        "Concat",
        *draw(st.permutations([before, g.last, before])),
        axis=draw(st.sampled_from([1, -len(g.output_shape())])),
    )


def mean(g: Graph, draw: Draw) -> None:
    g.add(draw(st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"])), g.last)


def reduction(g: Graph, draw: Draw) -> None:
    op = draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]))
    rank = len(g.output_shape())
    assume(rank)
    axes = draw(st.lists(st.integers(1, rank), unique=True, min_size=1, max_size=rank))
    axes = [axis - rank - 1 if draw(st.booleans()) else axis for axis in axes]
    keep = int(draw(st.booleans()))
    if g.opset >= 18 or op == "ReduceSum":
        g.add(op, g.last, g.ints(*axes), keepdims=keep)
    else:
        g.add(op, g.last, axes=axes, keepdims=keep)


def sort(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    assume(shape)
    axis = draw(st.integers(1, len(shape)))
    count = draw(st.sampled_from([1, shape[axis - 1]]))
    given = g.ints(count)
    g.last = f"v{len(g.nodes)}"
    outputs = [g.last, f"places of {g.last}"]
    largest = int(draw(st.booleans()))
    before = g.last_input()
    g.nodes.append(helper.make_node("TopK", [before, given], outputs, axis=axis, largest=largest))


def pad(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    rank = len(shape)
    amounts = [draw(st.integers(-1 if n > 2 else 0, 2)) for n in shape * 2]
    value = g.constant(np.float32(draw(st.sampled_from([0.0, 0.5]))))
    g.add("Pad", g.last, g.ints(0, *amounts[:rank], 0, *amounts[rank:]), value)


def slice_(g: Graph, draw: Draw) -> None:
    axis = draw(st.integers(1, len(g.output_shape())))
    start, stop, step = draw(st.integers(-4, 3)), draw(st.sampled_from([-1, 2, 5, 2**31 - 1])), draw(st.integers(1, 3))
    g.add("Slice", g.last, g.ints(start), g.ints(stop), g.ints(axis), g.ints(step))


def flattening(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    targets = [(0, -1), (-1, int(np.prod(shape))), (0, *shape), (0, *[0 for _ in shape])]
    if draw(st.booleans()):
        g.add("Flatten", g.last, axis=draw(st.sampled_from([1, -len(shape)])))
    else:
        g.add("Reshape", g.last, g.ints(*draw(st.sampled_from(targets))))


def view_by_batch_size(g: Graph, draw: Draw) -> None:
    """x.view(x.size(0), -1), as torch exports it."""
    before = g.last
    size = g.add("Gather", g.add("Shape", before), g.constant(np.array(0, dtype=np.int64)), axis=0)
    one = g.add("Unsqueeze", size, g.ints(0))
    g.add("Reshape", before, g.add("Concat", one, g.ints(-1), axis=0))


def axes_of_length_one(g: Graph, draw: Draw) -> None:
    g.add("GlobalAveragePool", g.last)
    if draw(st.booleans()):
        g.add("Transpose", g.last, perm=[0, 1, 3, 2])
    g.add("Squeeze", g.last, g.ints(*draw(st.sampled_from([(2, 3), (-1, -2)]))))


# ---------------------------------------------------------------- moves of cells, of values of any rank


def axis(g: Graph, draw: Draw) -> int:
    """Not the batch axis."""
    rank = len(g.output_shape())
    assume(rank)
    return draw(st.sampled_from([*range(1, rank + 1), *range(-rank, 0)]))


def transpose(g: Graph, draw: Draw) -> None:
    g.add("Transpose", g.last, perm=[0, *draw(st.permutations(range(1, 1 + len(g.output_shape()))))])


def reshape(g: Graph, draw: Draw) -> None:
    """To up to four axes, and sometimes back."""
    before = g.output_shape()
    left, target = int(np.prod(before)), []
    for _ in range(draw(st.integers(0, 3))):
        factor = draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0]))
        target.append(factor)
        left //= factor
    target = draw(st.permutations([*target, left]))
    g.add("Reshape", g.last, g.ints(-1 if draw(st.booleans()) else 0, *target))
    if draw(st.booleans()):
        draw(st.sampled_from([transpose, activation]))(g, draw)
        g.add("Reshape", g.last, g.ints(-1, *before))


def unit_axes(g: Graph, draw: Draw) -> None:
    at = draw(st.integers(1, 1 + len(g.output_shape())))
    g.add("Unsqueeze", g.last, g.ints(at))
    if draw(st.booleans()):
        g.add("Squeeze", g.last, g.ints(at))


def gather(g: Graph, draw: Draw) -> None:
    along = axis(g, draw)
    length = g.output_shape()[along - 1 if along > 0 else along]
    count = draw(st.sampled_from([(), (1,), (length,), (2, 2)]))
    g.add("Gather", g.last, g.constant(g.rng.integers(-length, length, count)), axis=along)


def gather_cells(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    assume(shape)
    if draw(st.booleans()):
        g.add("GatherElements", g.last, g.constant(g.rng.integers(-shape[0], shape[0], (1, *shape))), axis=1)
    else:
        indices = np.stack([0 * g.rng.integers(0, n, 3) + g.rng.integers(0, n, 3) for n in shape], axis=-1)
        g.add("GatherND", g.last, g.constant(indices[None]), batch_dims=1)


def split(g: Graph, draw: Draw) -> None:
    """In two parts, of which both are used, in any order, or one."""
    along = axis(g, draw)
    length = g.output_shape()[along - 1 if along > 0 else along]
    assume(length > 1)
    first, name = draw(st.integers(1, length - 1)), f"v{len(g.nodes)}"
    sizes = g.ints(first, length - first)
    g.nodes.append(helper.make_node("Split", [g.last, sizes], [name, f"{name}b"], axis=along))
    g.last = name
    if draw(st.booleans()):
        activation(g, draw)
    if draw(st.booleans()):
        g.add("Concat", *draw(st.permutations([g.last, f"{name}b"])), axis=along)


def split_to_sequence(g: Graph, draw: Draw) -> None:
    along = axis(g, draw)
    length = g.output_shape()[along - 1 if along > 0 else along]
    step = draw(st.integers(1, length))
    given = draw(st.sampled_from([[], [g.constant(np.int64(step))], [g.ints(step, length - step)]]))
    assume(len(given) == 0 or g.initial[given[0]].min() > 0)
    keeps = {} if given else {"keepdims": draw(st.integers(0, 1))}
    parts = g.add("SplitToSequence", g.last, *given, axis=along, **keeps)
    g.add("SequenceAt", parts, g.constant(np.int64(draw(st.integers(-1, 0)))))


def depth(g: Graph, draw: Draw) -> None:
    size = int(np.prod(g.output_shape()))
    assume(size % 4 == 0)
    g.add("Reshape", g.last, g.ints(-1, *draw(st.sampled_from([(4, size // 4, 1), (size, 1, 1), (1, 2, size // 2)]))))
    if g.output_shape()[0] % 4 == 0:
        g.add("DepthToSpace", g.last, blocksize=2, mode=draw(st.sampled_from(["DCR", "CRD"])))
    else:
        g.add("SpaceToDepth", g.last, blocksize=2)


def repeat(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    if draw(st.booleans()):
        g.add("Tile", g.last, g.ints(1, *[draw(st.integers(1, 2)) for _ in shape]))
    else:
        g.add("Expand", g.last, g.ints(1, *[draw(st.integers(1, 2)) if n == 1 else n for n in shape]))


def concat_along(g: Graph, draw: Draw) -> None:
    """With itself, moved or not, or with constants."""
    before, shape, along = g.last, g.output_shape(), axis(g, draw)
    if draw(st.booleans()):
        activation(g, draw)
    other = g.last if draw(st.booleans()) else g.weight(1, *shape)
    g.add("Concat", *draw(st.permutations([before, g.last, other])), axis=along)


def pad_anywhere(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
    least, most = (-1, 2) if mode == "constant" else (0, 1)
    amounts = [draw(st.integers(least if n > 2 else 0, most if n > 1 else 0)) for n in shape * 2]
    rank = len(shape)
    value = [g.constant(np.float32(draw(st.sampled_from([0.0, 0.5]))))] if mode == "constant" else []
    g.add("Pad", g.last, g.ints(0, *amounts[:rank], 0, *amounts[rank:]), *value, mode=mode)


def slice_back(g: Graph, draw: Draw) -> None:
    start, stop, step = (
        draw(st.sampled_from([-1, 2, 9])),
        draw(st.sampled_from([-(2**31), 0, -9])),
        -draw(st.integers(1, 2)),
    )
    g.add("Slice", g.last, g.ints(start), g.ints(stop), g.ints(axis(g, draw)), g.ints(step))


def vectors_by_matrix(g: Graph, draw: Draw) -> None:
    shape = g.output_shape()
    assume(shape)
    if len(shape) > 1 and draw(st.booleans()):
        g.add("MatMul", g.weight(draw(st.integers(1, 3)), shape[-2]), g.last)
    else:
        g.add("MatMul", g.last, g.weight(shape[-1], draw(st.integers(1, 3))))


def gemm(g: Graph, draw: Draw) -> None:
    size, out = g.output_shape()[0], draw(st.integers(1, 4))
    transposed = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:  # the constant first
        columns = g.last if transposed else g.add("Transpose", g.last)
        g.add("Transpose", g.add("Gemm", g.weight(out, size), columns, transB=int(transposed), alpha=0.5))
        return
    inputs = [g.last, g.weight(out, size) if transposed else g.weight(size, out)]
    inputs += draw(st.sampled_from([[], [g.weight(out)], [g.weight(1, out)], [g.weight(1)]]))
    scales = st.sampled_from([1.0, 0.5, -1.7])
    g.add("Gemm", *inputs, transB=int(transposed), alpha=draw(scales), beta=draw(scales))


def matmul(g: Graph, draw: Draw) -> None:
    size, out = g.output_shape()[0], draw(st.integers(1, 4))
    product = g.add("MatMul", g.last, g.weight(size, out))
    if draw(st.booleans()):
        g.add("Add", *draw(st.permutations([product, g.weight(out)])))


MOVES = [
    transpose, reshape, unit_axes, gather, gather_cells, split, split_to_sequence, depth, repeat, concat_along,
    pad_anywhere, slice_back,
]  # fmt: skip
ANY_RANK = [
    activation, with_constant, residual, clip, extreme, prelu, many_summands, where, reduction, sort,
    vectors_by_matrix, einsum, ellipsis, stacks_of_matrices, *MOVES,
]  # fmt: skip
ANY = [
    *ANY_RANK, curve, gate, concat, pad, slice_, product_of_values, quotient, gate_of_one_name, softmax, normalization,
    two_values_summed, norm,
]  # fmt: skip
IMAGE = [
    *ANY, conv, conv_transpose, sequence, resize, pool, batch_norm, mean, flattening, view_by_batch_size,
    axes_of_length_one, response_norm,
]  # fmt: skip
VECTOR = [*ANY, gemm, matmul, batch_norm, flattening]


@st.composite
def graphs(draw: Draw) -> onnx.ModelProto:
    """One to four random operators on a small input, then three logits."""
    shape = draw(st.sampled_from([(2, 5, 4), (2, 3, 3), (4,), (4, 6), (2, 2, 3, 2), ()]))  # type: ignore[type-var]
    g = Graph(shape, np.random.default_rng(draw(st.integers(0, 2**16))), draw(st.sampled_from([17, 18])))  # type: ignore[arg-type]
    for _ in range(draw(st.integers(1, 4))):
        now = g.output_shape()
        assume(all(n > 0 for n in now))
        choices = IMAGE if len(now) == 3 else VECTOR if len(now) == 1 else ANY_RANK
        draw(st.sampled_from(choices))(g, draw)  # type: ignore[operator]
        assume(0 not in g.output_shape())
    return g.head()  # type: ignore[return-value]


def by_onnxruntime(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([np.asarray(session.run(None, {"x": row[None]})[0]) for row in x])


def check(model: onnx.ModelProto, folder: Path) -> None:
    onnx.save(model, folder / "m.onnx")
    loaded = load_model(folder / "m.onnx")
    loaded.require_network()
    x = np.random.default_rng(1).normal(size=(3, *loaded.input_shape)).astype(np.float32)
    expected = by_onnxruntime(model, x)
    found = loaded.module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * (1 + np.abs(expected).max()))


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=graphs())
def test_random_graphs_compute_what_onnxruntime_computes(
    tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto
) -> None:
    check(model, tmp_path_factory.mktemp("graph"))


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=graphs())
def test_many_random_graphs_compute_what_onnxruntime_computes(
    tmp_path_factory: pytest.TempPathFactory, model: onnx.ModelProto
) -> None:
    check(model, tmp_path_factory.mktemp("graph"))


@pytest.mark.parametrize("step", [*dict.fromkeys(IMAGE + VECTOR)], ids=lambda step: step.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_each_operator_alone_computes_what_onnxruntime_computes(
    tmp_path_factory: pytest.TempPathFactory, step: Callable[[Graph, Draw], None], data: st.DataObject
) -> None:
    g = Graph((2, 5, 4) if step in IMAGE else (4,), np.random.default_rng(data.draw(st.integers(0, 99))))
    step(g, data.draw)
    assume(0 not in g.output_shape())
    check(g.head(), tmp_path_factory.mktemp("graph"))


def test_the_number_of_cells_is_a_constant(tmp_path: Path) -> None:
    g = Graph((2, 3), np.random.default_rng(0))
    size = g.add("Unsqueeze", g.add("Size", "x"), g.ints(0))
    g.add("Reshape", "x", g.add("Concat", g.ints(1), size, axis=0))
    g.add("Gemm", g.last, g.weight(6, 3))
    check(g.model(batch=1), tmp_path)


def test_a_number_cast_like_the_input_is_a_constant_and_the_input_cast_like_a_number_itself(tmp_path: Path) -> None:
    g = Graph((4,), np.random.default_rng(0))
    two = g.add("CastLike", g.constant(np.int64(2)), "x")
    g.add("Mul", g.add("CastLike", "x", g.weight(1)), two)
    check(g.head(), tmp_path)


def test_the_graphs_above_use_every_supported_operator() -> None:
    source = Path(__file__).read_text()
    assert [op for op in OPERATORS if f'"{op}"' not in source] == []


def test_upsample_of_old_opsets_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    g = Graph((2, 3, 4), np.random.default_rng(0), opset=9)
    g.add("Upsample", g.last, g.constant(np.array([1, 1, 2, 3], dtype=np.float32)), mode="nearest")
    g.add("Gemm", g.add("Flatten", g.last), g.weight(2 * 6 * 12, 3), g.weight(3))
    check(g.model(), tmp_path)


@pytest.mark.parametrize(("op", "opset", "scales", "attributes"), [
    ("GroupNormalization", 21, [(4,), (4,)], {"num_groups": 2}), ("RMSNormalization", 23, [(3, 2)], {"axis": 2}),
    ("RMSNormalization", 23, [(2,)], {"epsilon": 0.1}),
])  # fmt: skip
def test_norms_of_newer_opsets_compute_what_onnxruntime_computes(
    tmp_path: Path, op: str, opset: int, scales: list[tuple[int, ...]], attributes: dict[str, object]
) -> None:
    g = Graph((4, 3, 2), np.random.default_rng(0), opset)
    g.add(op, g.last, *(g.weight(*shape) for shape in scales), **attributes)
    g.add("Gemm", g.add("Flatten", g.last), g.weight(24, 3), g.weight(3))
    model = g.model()
    model.ir_version = 10
    check(model, tmp_path)


def test_softmax_of_old_opsets_is_over_all_axes_from_one_on(tmp_path: Path) -> None:
    g = Graph((2, 3), np.random.default_rng(0), opset=11)
    g.add("Softmax", g.last, axis=1)
    g.add("Gemm", g.add("Flatten", g.last), g.weight(6, 3), g.weight(3))
    check(g.model(), tmp_path)


@pytest.mark.parametrize(("op", "opset", "attributes"), [
    ("Gelu", 20, {}), ("Gelu", 20, {"approximate": "tanh"}), ("Swish", 24, {"alpha": 1.3}),
])  # fmt: skip
def test_operators_of_newer_opsets_compute_what_onnxruntime_computes(
    tmp_path: Path, op: str, opset: int, attributes: dict[str, object]
) -> None:
    g = Graph((4,), np.random.default_rng(0), opset)
    g.add(op, g.last, **attributes)
    model = g.head()
    model.ir_version = 10
    check(model, tmp_path)


@pytest.mark.parametrize(("module", "kind"), [
    (torch.nn.GELU(), c.Gelu), (torch.nn.GELU("tanh"), c.Swish), (torch.nn.SiLU(), c.Swish),
    (torch.nn.Hardswish(), c.HardSwish), (torch.nn.ELU(0.5), c.Elu), (torch.nn.SELU(), c.Elu),
    (torch.nn.CELU(0.7), c.Elu), (torch.nn.Softplus(), c.Softplus), (torch.nn.Hardsigmoid(), c.Relu),
    (torch.nn.ReLU6(), c.Relu), (torch.nn.Hardtanh(), c.Relu), (torch.nn.PReLU(5), c.LeakyRelu),
], ids=str)  # fmt: skip
def test_torch_activations_are_one_node_of_their_own(module: torch.nn.Module, kind: type[c.Node]) -> None:
    nonlinear = from_module(torch.nn.Sequential(torch.nn.Linear(4, 5), module, torch.nn.Linear(5, 3)), (4,))
    nodes = [type(node) for node in nonlinear.require_network().nodes]
    assert kind in nodes
    others = [k for k in nodes if k not in (c.Input, c.Linear, c.Scale, c.Divide)]
    assert kind in (c.Relu, c.LeakyRelu) or others == [kind]


@pytest.mark.parametrize(("pads", "more"), [((1, 0, 0, 0), (1, 0)), ((0, 3, 0, 0), (0, 1)), ((1, 1, 0, 0), (1, 1))])
def test_a_transposed_convolution_may_leave_nothing_of_the_image(
    tmp_path: Path, pads: tuple[int, ...], more: tuple[int, int]
) -> None:
    """Cropped away whole on one side, before cells of padding come on the other: found by random graphs."""
    weight = np.ones((2, 3, 1, 1), np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["t"], pads=pads, output_padding=more, strides=(2, 2))
    flat = helper.make_node("Flatten", ["t"], ["y"])
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)
        for n, s in (("x", ["n", 2, 1, 2]), ("y", ["n", "k"]))
    ]
    tensors = [numpy_helper.from_array(v, k) for k, v in (("w", weight), ("b", np.arange(3, dtype=np.float32)))]
    graph = helper.make_graph([node, flat], "g", [ends[0]], [ends[1]], tensors)
    check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path)
