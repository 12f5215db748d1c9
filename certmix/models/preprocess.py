"""Normalisation as the first layer of a model, so that inputs, radii and domain stay in raw units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

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

    def constants(self, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """mean and std as they broadcast against inputs of this shape, 0 where a length is open. Raises UsageError."""
        return _along(self.mean, shape), _along(self.std, shape)


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


def prepended(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """The model as one of raw inputs. Raises UsageError where it has not so many channels."""
    after = onnx.ModelProto()
    after.CopyFrom(model)
    ends = ends_of(after)
    kind: Any = KINDS[ends.kind]
    shifted, inner = f"{ends.input} less its mean", f"{ends.input} as the model takes it, normalised"
    for node in after.graph.node:
        node.input[:] = [inner if name == ends.input else name for name in node.input]
    for name, value in zip(("mean", "std"), preprocess.constants(ends.shape), strict=True):
        after.graph.initializer.append(numpy_helper.from_array(value.astype(kind), f"{name} of {ends.input}"))
    after.graph.node.insert(0, helper.make_node("Sub", [ends.input, f"mean of {ends.input}"], [shifted]))
    after.graph.node.insert(1, helper.make_node("Div", [shifted, f"std of {ends.input}"], [inner]))
    return after


class Normalised(nn.Module):
    """`module` of normalised inputs, as one of raw inputs of this shape."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, preprocess: Preprocess, shape: Shape) -> None:
        super().__init__()
        self.module = module
        mean, std = preprocess.constants(shape)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("std", torch.from_numpy(std))

    def forward(self, x: Tensor) -> Tensor:
        return self.module((x - self.mean) / self.std)
