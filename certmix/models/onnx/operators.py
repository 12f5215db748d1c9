"""The ONNX operators that have a counterpart in the plain network, and those that fold when constant."""

from __future__ import annotations

from collections.abc import Callable

from certmix.models.onnx import elementwise, piecewise, reductions, shapes, windows
from certmix.models.onnx.call import Call, Value

OPERATORS: dict[str, Callable[[Call], Value]] = {
    "Abs": piecewise.absolute,
    "Add": elementwise.add,
    "AveragePool": windows.average_pool,
    "BatchNormalization": elementwise.batch_normalization,
    "Cast": shapes.cast,
    "Clip": piecewise.clip,
    "Concat": shapes.concat,
    "Conv": windows.conv,
    "Div": elementwise.div,
    "Dropout": shapes.dropout,
    "Flatten": shapes.flatten,
    "Gemm": elementwise.gemm,
    "GlobalAveragePool": windows.global_average_pool,
    "GlobalMaxPool": windows.global_max_pool,
    "HardSigmoid": piecewise.hard_sigmoid,
    "Identity": shapes.identity,
    "LeakyRelu": piecewise.leaky_relu,
    "MatMul": elementwise.matmul,
    "Max": piecewise.maximum,
    "MaxPool": windows.max_pool,
    "Mean": elementwise.mean,
    "Min": piecewise.minimum,
    "Mul": elementwise.mul,
    "Neg": elementwise.neg,
    "PRelu": piecewise.prelu,
    "Pad": shapes.pad,
    "ReduceMax": reductions.reduce_max,
    "ReduceMean": reductions.reduce_mean,
    "ReduceMin": reductions.reduce_min,
    "ReduceSum": reductions.reduce_sum,
    "Relu": piecewise.relu,
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Sigmoid": elementwise.sigmoid,
    "Slice": shapes.slice_,
    "Squeeze": shapes.squeeze,
    "Sub": elementwise.sub,
    "Sum": elementwise.sum_,
    "Tanh": elementwise.tanh,
    "Transpose": shapes.transpose,
    "Where": piecewise.where,
}

# evaluated at once when all their inputs are constants (shape arithmetic, stored weights)
CAN_FOLD = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Size", "Slice", "Softplus", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where"
))  # fmt: skip
