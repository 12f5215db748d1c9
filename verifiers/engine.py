"""What every bounding engine is asked and answers. Engines are untrusted: the judge re-derives the claim.

To add an engine: one file with a frozen dataclass deriving from `Engine`, one line in `verifiers.ENGINES`;
the laws in tests/verifiers/test_engine_laws.py then run on it.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from proofs_check.certificate import Norm, PlainNetwork


class EngineError(Exception):
    """The engine cannot answer this query (absent, unsupported layer, out of memory): the text says why."""


@dataclass(frozen=True, eq=False)
class MarginQuery:
    """Bounds wanted of d_j = z_j - z_y over balls around a batch of inputs.

    network: the plain network with logits z. inputs: (N, *network.input_shape) float32, raw units.
    radius: (N,) float64 >= 0, raw units, one per input. domain: every coordinate lies in [low, high], or
    None. predicted: (N,) int64, the class y of each input.
    """

    network: PlainNetwork
    inputs: Tensor
    norm: Norm
    radius: Tensor
    domain: tuple[float, float] | None
    predicted: Tensor

    def __post_init__(self) -> None:
        n = len(self.inputs)
        if tuple(self.inputs.shape[1:]) != self.network.input_shape:
            raise ValueError(f"inputs must have shape (N, {self.network.input_shape}), got {tuple(self.inputs.shape)}")
        if self.radius.shape != (n,) or self.predicted.shape != (n,):
            raise ValueError(
                f"radius and predicted must have shape ({n},), "
                f"got {tuple(self.radius.shape)}, {tuple(self.predicted.shape)}"
            )
        if not bool((self.radius >= 0).all()):
            raise ValueError(f"radius must be >= 0, got {float(self.radius.min())}")


@dataclass(frozen=True, eq=False)
class LogitBounds:
    """lower, upper: (N, K) float64, lower <= d_j <= upper on each ball; column y of each row is 0.

    witness: per input, hints from which the judge re-derives bounds as good (see proofs_check/FORMAT.md,
    rule network_margin), or None.
    """

    lower: Tensor
    upper: Tensor
    witness: tuple[bytes | None, ...]

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape or self.lower.dtype != torch.float64:
            raise ValueError(f"bounds must be float64 of one shape, got {self.lower.shape}, {self.upper.shape}")


class Engine(abc.ABC):
    """A bounder of logit differences."""

    @abc.abstractmethod
    def bounds(self, query: MarginQuery) -> LogitBounds:
        """Requires: predicted in range. Ensures (untrusted): lower <= z_j - z_y <= upper on every ball.

        Raises EngineError, with a reason a user can act on, where this engine cannot answer.
        """
