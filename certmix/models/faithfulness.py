"""How faithful a plain network is to the model it was made from: their float32 logits at given inputs, compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from certmix.errors import UsageError
from certmix.formatting import upper
from proofs_check.certificate import Float32Array

TOLERANCE = 1e-3  # of a logit, relative to one more than that logit's largest size at the inputs compared
BATCH = 256

# (N, *input_shape) float32 -> (N, classes) float32 logits of the model as it was given
Reference = Callable[[Float32Array], NDArray[np.float32]]


@dataclass(frozen=True)
class Faithfulness:
    """differences: per logit the largest |difference| over the inputs, rounded up. class_differs: inputs at which the
    two predict different classes."""

    differences: tuple[float, ...]
    class_differs: tuple[int, ...]

    @property
    def largest(self) -> float:
        return max(self.differences)


def compare(module: nn.Module, reference: Reference, inputs: Float32Array) -> Faithfulness:
    """The plain network's module against the model as given, at inputs (N, *input_shape).

    Raises UsageError, naming logit and input, where they are plainly different functions.
    """
    parts = [inputs[i : i + BATCH] for i in range(0, len(inputs), BATCH)]
    expected = np.concatenate([reference(part) for part in parts])
    with torch.no_grad():
        logits = np.concatenate([module(torch.from_numpy(part)).numpy() for part in parts])
    if logits.shape != expected.shape:
        raise UsageError(f"the plain network gives logits of shape {logits.shape}, the source {expected.shape}")
    if not np.isfinite(expected).all():
        n, k = (int(i) for i in np.argwhere(~np.isfinite(expected))[0])
        raise UsageError(
            f"the model gives {expected[n, k]} in logit {k} of input {n}: repair it, or keep to its domain"
        )
    differences = np.abs(logits.astype(np.float64) - expected.astype(np.float64))
    allowed = TOLERANCE * (1 + np.abs(expected).max(axis=0))
    wrong = ~(differences <= allowed)
    if wrong.any():
        n, k = (int(i) for i in np.argwhere(wrong)[0])
        raise UsageError(
            f"the plain network differs from the source by {upper(float(differences[n, k]), 3)} in logit {k} of input "
            f"{n} (there {logits[n, k]}, here {expected[n, k]})"
        )
    disagree = np.flatnonzero(logits.argmax(axis=1) != expected.argmax(axis=1))
    return Faithfulness(tuple(float(d) for d in differences.max(axis=0)), tuple(int(n) for n in disagree))
