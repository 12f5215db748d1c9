"""The ONNX operators that have a counterpart in the plain network, and those that fold when constant."""

from __future__ import annotations

from collections.abc import Callable

from certmix.models.onnx import elementwise, piecewise, reductions, shapes, windows
from certmix.models.onnx.call import Call, Result, cellwise

OPERATORS: dict[str, Callable[[Call], Result]] = {
    "Abs": cellwise(piecewise.absolute),
    "Add": cellwise(elementwise.add),
    "AveragePool": windows.average_pool,
    "BatchNormalization": elementwise.batch_normalization,
    "Cast": shapes.cast,
    "Clip": cellwise(piecewise.clip),
    "Concat": shapes.concat,
    "Conv": windows.conv,
    "DepthToSpace": shapes.move,
    "Div": cellwise(elementwise.div),
    "Dropout": shapes.dropout,
    "Expand": shapes.move,
    "Flatten": shapes.flatten,
    "Gather": shapes.move,
    "GatherElements": shapes.move,
    "GatherND": shapes.move,
    "Gemm": elementwise.gemm,
    "GlobalAveragePool": windows.global_average_pool,
    "GlobalMaxPool": windows.global_max_pool,
    "HardSigmoid": cellwise(piecewise.hard_sigmoid),
    "Identity": shapes.identity,
    "LeakyRelu": cellwise(piecewise.leaky_relu),
    "MatMul": elementwise.matmul,
    "Max": cellwise(piecewise.maximum),
    "MaxPool": windows.max_pool,
    "Mean": cellwise(elementwise.mean),
    "Min": cellwise(piecewise.minimum),
    "Mul": cellwise(elementwise.mul),
    "Neg": cellwise(elementwise.neg),
    "PRelu": cellwise(piecewise.prelu),
    "Pad": shapes.pad,
    "ReduceMax": reductions.reduce_max,
    "ReduceMean": reductions.reduce_mean,
    "ReduceMin": reductions.reduce_min,
    "ReduceSum": reductions.reduce_sum,
    "Relu": cellwise(piecewise.relu),
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Sigmoid": cellwise(elementwise.sigmoid),
    "Size": shapes.size,
    "Slice": shapes.slice_,
    "SpaceToDepth": shapes.move,
    "Split": shapes.move,
    "Squeeze": shapes.squeeze,
    "Sub": cellwise(elementwise.sub),
    "Sum": cellwise(elementwise.sum_),
    "Tanh": cellwise(elementwise.tanh),
    "Tile": shapes.move,
    "Transpose": shapes.move,
    "Unsqueeze": shapes.move,
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
