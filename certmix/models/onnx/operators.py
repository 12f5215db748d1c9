"""The ONNX operators that have a counterpart in the plain network, and those that fold when constant."""

from __future__ import annotations

from collections.abc import Callable

from certmix.models.onnx import contractions, curves, elementwise, piecewise, reductions, shapes, sorting, windows
from certmix.models.onnx.call import Call, Result, cellwise
from proofs_check import certificate as c

OPERATORS: dict[str, Callable[[Call], Result]] = {
    "Abs": cellwise(curves.of_kind(c.Abs)),
    "Add": cellwise(elementwise.add),
    "AveragePool": windows.of_sequences(windows.average_pool),
    "BatchNormalization": elementwise.batch_normalization,
    "Cast": shapes.cast,
    "Celu": cellwise(curves.celu),
    "Clip": cellwise(piecewise.clip),
    "Concat": shapes.concat,
    "Conv": windows.of_sequences(windows.conv),
    "ConvTranspose": windows.of_sequences(windows.conv_transpose),
    "DepthToSpace": shapes.move,
    "Div": cellwise(elementwise.div),
    "Dropout": shapes.dropout,
    "Einsum": contractions.einsum,
    "Elu": cellwise(curves.elu),
    "Erf": cellwise(curves.of_kind(c.Erf)),
    "Exp": cellwise(curves.of_kind(c.Exp)),
    "Expand": shapes.move,
    "Flatten": shapes.flatten,
    "Gather": shapes.move,
    "GatherElements": shapes.move,
    "GatherND": shapes.move,
    "Gelu": cellwise(curves.gelu),
    "Gemm": elementwise.gemm,
    "GlobalAveragePool": windows.of_sequences(windows.global_average_pool),
    "GlobalMaxPool": windows.of_sequences(windows.global_max_pool),
    "HardSigmoid": cellwise(piecewise.hard_sigmoid),
    "HardSwish": cellwise(curves.of_kind(c.HardSwish)),
    "Identity": shapes.identity,
    "LeakyRelu": cellwise(piecewise.leaky_relu),
    "MatMul": elementwise.matmul,
    "Max": cellwise(piecewise.maximum),
    "MaxPool": windows.of_sequences(windows.max_pool),
    "Mean": cellwise(elementwise.mean),
    "Min": cellwise(piecewise.minimum),
    "Mul": cellwise(elementwise.mul),
    "Neg": cellwise(elementwise.neg),
    "PRelu": cellwise(piecewise.prelu),
    "Pad": shapes.pad,
    "Pow": cellwise(curves.power),
    "ReduceMax": reductions.reduce_max,
    "ReduceMean": reductions.reduce_mean,
    "ReduceMin": reductions.reduce_min,
    "ReduceSum": reductions.reduce_sum,
    "Relu": cellwise(piecewise.relu),
    "Reshape": shapes.reshape,
    "Resize": shapes.resize,
    "Selu": cellwise(curves.selu),
    "Shape": shapes.shape,
    "Sigmoid": cellwise(curves.of_kind(c.Sigmoid)),
    "Size": shapes.size,
    "Slice": shapes.slice_,
    "Softplus": cellwise(curves.of_kind(c.Softplus)),
    "SpaceToDepth": shapes.move,
    "Split": shapes.move,
    "Squeeze": shapes.squeeze,
    "Sub": cellwise(elementwise.sub),
    "Sum": cellwise(elementwise.sum_),
    "Swish": cellwise(curves.swish),
    "Tanh": cellwise(curves.of_kind(c.Tanh)),
    "Tile": shapes.move,
    "TopK": sorting.top_k,
    "Transpose": shapes.move,
    "Unsqueeze": shapes.move,
    "Upsample": shapes.resize,
    "Where": cellwise(piecewise.where),
}

# evaluated at once when all their inputs are constants (shape arithmetic, stored weights)
CAN_FOLD = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Size", "Slice", "Softplus", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where"
))  # fmt: skip
