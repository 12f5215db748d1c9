"""What is put in front of a model as its first layers: normalisation, so that inputs, radii and domain stay in raw
units, or the way from scaled features back to raw ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from certmix.data.features import Features, Step
from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.models.runtime import KINDS, ends_of

Shape = tuple[int, ...]
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Preprocess:
    """x becomes (x - mean) / std, one of each for every channel, or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not values or not all(abs(v) <= LARGEST for v in values):
                raise UsageError(f"preprocess: {name} must be finite numbers, got {_listed(values) or 'none'}")
        if not all(np.float32(v) > 0 for v in self.std):
            raise UsageError(f"preprocess: std must be > 0, got {_listed(self.std)}")
        if 1 not in (len(self.mean), len(self.std)) and len(self.mean) != len(self.std):
            raise UsageError(
                f"preprocess: {len(self.mean)} means and {len(self.std)} standard deviations: give one for each channel"
            )

    @property
    def note(self) -> str:
        """What is put in front of the model, in words."""
        return f"takes (x - mean) / std of raw inputs x: mean {_listed(self.mean)}, std {_listed(self.std)}, as float32"

    def steps(self, shape: Shape) -> list[Step]:
        """What inputs of this shape, 0 where a length is open, go through. Raises UsageError."""
        return [("Sub", "mean", _along(self.mean, shape)), ("Div", "std", _along(self.std, shape))]


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(exact(float(v)) for v in values)


def _along(values: tuple[float, ...], shape: Shape) -> NDArray[np.float32]:
    """Along the first axis, or the last one where that one has as many cells: channels."""
    sizes = [1] * len(shape)
    if len(values) > 1:
        axes = [k for k in dict.fromkeys((0, len(shape) - 1)) if shape[k] in (0, len(values))]
        if not axes:
            raise UsageError(
                f"preprocess gives {len(values)} numbers, for channels along the first or the last axis of inputs "
                f"{shape}: give one for each, or one for all"
            )
        sizes[axes[0]] = len(values)
    return np.array(values, dtype=np.float32).reshape(sizes)


def prepended(model: onnx.ModelProto, front: Preprocess | Features) -> onnx.ModelProto:
    """The model behind the steps of `front`. Raises UsageError where it has not so many channels or features."""
    after = onnx.ModelProto()
    after.CopyFrom(model)
    ends = ends_of(after)
    kind: Any = KINDS[ends.kind]
    steps, by = front.steps(ends.shape), type(front).__name__
    values = [ends.input, *(f"{ends.input} after {what} ({by})" for _, what, _ in steps)]
    for node in after.graph.node:
        node.input[:] = [values[-1] if name == ends.input else name for name in node.input]
    for k, (op, what, constant) in enumerate(steps):
        name = f"{what} of {ends.input} ({by})"
        after.graph.initializer.append(numpy_helper.from_array(constant.astype(kind), name))
        after.graph.node.insert(k, helper.make_node(op, [values[k], name], [values[k + 1]]))
    return after


APPLIED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sub": torch.sub,
    "Div": torch.div,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Add": torch.add,
}


class Behind(nn.Module):
    """`module` behind the steps of `front`, for inputs of this shape."""

    def __init__(self, module: nn.Module, front: Preprocess | Features, shape: Shape) -> None:
        super().__init__()
        self.module = module
        steps = front.steps(shape)
        self.operators: list[str] = [op for op, _, _ in steps]
        for k, (_, _, constant) in enumerate(steps):
            self.register_buffer(f"constant{k}", torch.from_numpy(constant))

    def forward(self, x: Tensor) -> Tensor:
        for k, op in enumerate(self.operators):
            x = APPLIED[op](x, self.get_buffer(f"constant{k}"))
        return self.module(x)
