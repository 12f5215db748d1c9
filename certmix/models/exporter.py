"""A torch module as an ONNX model, by the exporter that torch itself takes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.models.onnx.folding import one_line


def exported(module: nn.Module, examples: Tensor) -> onnx.ModelProto:
    """`module`, in evaluation mode, with an open batch axis and its weights unchanged: nothing is folded into them.

    examples: (N, *shape) with N >= 2, since torch takes an axis of length 1 for a fixed one. torch follows the module
    through Python with tensors that have no values: one whose path depends on values is refused. Raises UsageError.
    """
    shapes: tuple[Any, ...] = ({0: "n"},)
    try:
        with quietly():
            program = torch.onnx.export(
                module, (examples,), dynamo=True, dynamic_shapes=shapes, optimize=False, verbose=False
            )
        if program is None:
            raise TypeError("excluded by dynamo=True")
        return program.model_proto
    except Exception as error:  # the exporter's errors share no base class
        raise UsageError(f"torch cannot export it: {_cause(error)}") from error


@contextlib.contextmanager
def quietly() -> Generator[None, None, None]:
    """Without what the exporter says of itself, of packages that are not there, and of operators it may know later."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)


def _cause(error: Exception) -> str:
    """In one line what stopped the exporter: its own text is a page about its three steps."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return one_line(error)
