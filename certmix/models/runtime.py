"""An ONNX model as onnxruntime runs it: any operator, values only, no gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.models.onnx.folding import one_line
from certmix.models.onnx.reader import ONE_OF_EACH, read_file
from proofs_check.certificate import Float32Array

# of the input's numbers; float32 ones are converted
KINDS: dict[int, type[np.floating[Any]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}
ONE_LOGIT = "two classes have two logits: append a 0 to a single one, z, as (0, z)"
BATCH_TOLERANCE = 1e-3  # of a logit, relative to one more than the largest: what a batch may change


@dataclass(frozen=True)
class Ends:
    """Names of the one input and output; kind of the input's numbers; shape of one input, 0 where the file leaves an
    axis open. batch: how many inputs a run takes at once; None: any number; 0: one, without a batch axis."""

    input: str
    output: str
    kind: int
    shape: tuple[int, ...]
    batch: int | None


def ends_of(model: onnx.ModelProto) -> Ends:
    """Raises UsageError unless the model maps one tensor of floating point numbers to one tensor.

    A first axis longer than 1 is a batch axis only where the output has it, too.
    """
    initial = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initial]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UsageError(f"has {len(inputs)} inputs and {len(model.graph.output)} outputs, {ONE_OF_EACH}")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    if kind.elem_type not in KINDS:
        found = TensorProto.DataType.Name(kind.elem_type).lower()
        raise UsageError(f"input {name!r} holds {found}, needs floating point numbers: export the model so")
    sizes = _sizes(inputs[0])
    if len(sizes) == 0:
        raise UsageError(f"input {name!r} has no shape: export the model with one")
    batched = len(sizes) > 1 and (sizes[0] == 1 or _sizes(_output(model))[:1] == sizes[:1])
    if sizes[0] and not batched:
        return Ends(name, model.graph.output[0].name, kind.elem_type, sizes, 0)
    return Ends(name, model.graph.output[0].name, kind.elem_type, sizes[1:], sizes[0] or None)


def _output(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The model's output; with its shape, where that can be found out."""
    given = model.graph.output[0]
    return given if _sizes(given) else onnx.shape_inference.infer_shapes(model).graph.output[0]


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Lengths of its axes, 0 for those not known."""
    return tuple(max(d.dim_value, 0) for d in value.type.tensor_type.shape.dim)


class Runtime:
    """The model in `data`, the bytes of one ONNX file: (N, *shape) float32 -> (N, K) float32 logits, on the processor.

    alone: never on two inputs at once. It can be copied and pickled. Raises UsageError where onnxruntime cannot run it,
    or its output is no logits.
    """

    def __init__(self, data: bytes, alone: bool = False) -> None:
        self.data = data
        self.alone = alone

    @cached_property
    def ends(self) -> Ends:
        return ends_of(onnx.load_from_string(self.data))

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(self.data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise UsageError(f"onnxruntime cannot run it ({one_line(error)})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "alone": self.alone}

    def logits(self, inputs: Float32Array) -> NDArray[np.float32]:
        """In batches of the size that the file fixes, the last one filled up."""
        if len(inputs) == 0:
            return self.logits(np.zeros((1, *inputs.shape[1:]), dtype=np.float32))[:0]
        if self.ends.batch == 0:
            return np.stack([self._run(x).ravel() for x in inputs])
        size = self.ends.batch or (1 if self.alone else len(inputs))
        parts = [inputs[k : k + size] for k in range(0, len(inputs), size)]
        return np.concatenate([self._batch(part, size)[: len(part)] for part in parts])

    def _batch(self, part: Float32Array, size: int) -> NDArray[np.float32]:
        values = self._run(np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]))
        if size > 1 and (values.ndim < 2 or len(values) != size):
            raise UsageError(f"must give logits of shape ({size}, classes), gives {values.shape}")
        return values.reshape(size, -1)

    def _run(self, inputs: Float32Array) -> NDArray[np.float32]:
        try:
            outputs = self._session.run([self.ends.output], {self.ends.input: inputs.astype(KINDS[self.ends.kind])})
        except UsageError:
            raise
        except Exception as error:  # onnxruntime's errors share no public base class
            raise UsageError(
                f"onnxruntime cannot run it on inputs of shape {inputs.shape} ({one_line(error)})"
            ) from error
        values = np.asarray(outputs[0])
        one = values if self.ends.batch == 0 or values.ndim < 2 else values[:1]
        if values.dtype.kind != "f" or not self._fits(one.shape):
            what = f"must give {self.gives}, gives {values.dtype} of shape {values.shape}"
            single = values.dtype.kind == "f" and math.prod(one.shape) == 1
            raise UsageError(f"{what}: {ONE_LOGIT if single else self.otherwise}")
        return values.astype(np.float32)

    gives = "logits, one number for each class"
    otherwise = "name the value inside that holds the logits (--output NAME)"

    def _fits(self, one: tuple[int, ...]) -> bool:
        """Whether the answer at one input may have this shape."""
        return math.prod(one) >= 2 and math.prod(one) == max(one)


class _Scalar(Runtime):
    gives = "one number for each input"
    otherwise = "export it so"

    def _fits(self, one: tuple[int, ...]) -> bool:
        return math.prod(one) == 1


class RuntimeModule(nn.Module):
    """`runtime` as a torch module on any device: (N, *shape) -> (N, K), without gradients."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def forward(self, x: Tensor) -> Tensor:
        inputs = np.ascontiguousarray(x.detach().cpu().numpy(), dtype=np.float32)
        return torch.from_numpy(self.runtime.logits(inputs)).to(x.device)


class RuntimeWeight(RuntimeModule):
    """The one number that a model gives at each input: (N, *shape) -> (N,), without gradients."""

    @staticmethod
    def of(path: str) -> RuntimeWeight:
        """Raises UsageError where the file is no such model."""
        runtime = _Scalar(read_file(Path(path)).SerializeToString(), alone=True)
        _ = runtime.ends  # two outputs show here
        return RuntimeWeight(runtime)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


def differentiable(module: nn.Module) -> bool:
    """Whether no part of `module` runs in onnxruntime."""
    return not any(isinstance(part, RuntimeModule) for part in module.modules())


def usable(data: bytes, inputs: Float32Array) -> Runtime:
    """The model in `data`, whose logits were seen not to depend on the other inputs of a batch.

    inputs: (N, *shape) to try. Where a file lets any batch in and its operators do not, the model is run on one input
    at a time. Raises UsageError."""
    together, alone = Runtime(data), Runtime(data, alone=True)
    expected = alone.logits(inputs)
    try:
        found = together.logits(inputs)
    except UsageError:
        return alone
    allowed = BATCH_TOLERANCE * (1 + np.abs(expected).max())
    if found.shape != expected.shape or (np.abs(found - expected) > allowed).any():
        raise UsageError("its answer at an input depends on the others of the batch: export it in evaluation mode")
    return together
