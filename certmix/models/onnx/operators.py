"""The ONNX operators that have a counterpart in the plain network, and those that fold when constant."""

from __future__ import annotations

from collections.abc import Callable

from certmix.models.onnx import elementwise, shapes, windows
from certmix.models.onnx.call import Call, Value

OPERATORS: dict[str, Callable[[Call], Value]] = {
    "Add": elementwise.add,
    "AveragePool": windows.average_pool,
    "BatchNormalization": elementwise.batch_normalization,
    "Cast": shapes.cast,
    "Concat": shapes.concat,
    "Conv": windows.conv,
    "Div": elementwise.div,
    "Dropout": shapes.dropout,
    "Flatten": shapes.flatten,
    "Gemm": elementwise.gemm,
    "GlobalAveragePool": windows.global_average_pool,
    "GlobalMaxPool": windows.global_max_pool,
    "Identity": shapes.identity,
    "LeakyRelu": elementwise.leaky_relu,
    "MatMul": elementwise.matmul,
    "MaxPool": windows.max_pool,
    "Mul": elementwise.mul,
    "Neg": elementwise.neg,
    "Pad": shapes.pad,
    "ReduceMean": windows.reduce_mean,
    "Relu": elementwise.relu,
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Sigmoid": elementwise.sigmoid,
    "Slice": shapes.slice_,
    "Squeeze": shapes.squeeze,
    "Sub": elementwise.sub,
    "Tanh": elementwise.tanh,
    "Transpose": shapes.transpose,
}

# evaluated at once when all their inputs are constants (shape arithmetic, stored weights)
CAN_FOLD = frozenset((
    "Abs", "Add", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Exp", "Expand",
    "Flatten", "Floor", "Gather", "Identity", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Pow", "Range",
    "Reciprocal", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze",
    "Sub", "Tile", "Transpose", "Unsqueeze", "Where"
))  # fmt: skip
