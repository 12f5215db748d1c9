"""Global Lipschitz constants of one network's logit differences, each computed when it is first asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from proofs_check.certificate import Norm, RejectedError
from proofs_check.kernel.bounds import Prepared
from proofs_check.rules.lipschitz.layer_norms import global_constants, joint_constant
from verifiers.engine import EngineError
from verifiers.lipschitz.jacobian import unrestricted_slopes
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import GlobalBound, LipSDP
from verifiers.norms import NORMS


@dataclass(frozen=True, eq=False)
class GlobalTable:
    """Global constants of logit differences, computed when first asked for: ℓ2 by one semidefinite bound per pair, and
    by layers for each class. judge: the network as the judge has it, who is asked for the latter."""

    maps: LinearMaps
    solver: LipSDP
    judge: Prepared
    by_pair: dict[tuple[int, int], GlobalBound] = field(default_factory=dict)

    def bounds(self, predicted: int) -> list[GlobalBound | None]:
        """Per class j the bound of z_j - z_y; None at y. Raises EngineError."""
        classes = self.maps.network.classes
        pairs = [(min(j, predicted), max(j, predicted)) for j in range(classes) if j != predicted]
        missing = [p for p in pairs if p not in self.by_pair]
        eye = np.eye(classes)
        bounds = self.solver.bounds(
            self.maps, np.array([eye[i] - eye[k] for i, k in missing]), unrestricted_slopes(self.maps)
        ) if missing else []  # fmt: skip
        self.by_pair.update(zip(missing, bounds, strict=True))
        return [None if j == predicted else self.by_pair[min(j, predicted), max(j, predicted)] for j in range(classes)]

    def constants(self, predicted: int, norm: Norm) -> Tensor:
        """(K,) constants of z_j - z_y in `norm`: ‖·‖_2 <= ‖·‖_1, ‖·‖_2 <= sqrt(n) ‖·‖_inf."""
        factor = NORMS[norm].length(math.prod(self.maps.network.input_shape))
        values = [0.0 if b is None else b.constant * factor for b in self.bounds(predicted)]
        return torch.tensor(values, dtype=torch.float64)

    def layer_constants(self, predicted: int, norm: Norm) -> Tensor:
        """(K,) constants of z_j - z_y by layer norms, blocks and unrestricted Jacobians. Raises EngineError."""
        try:
            return torch.tensor(global_constants(self.judge, predicted, norm), dtype=torch.float64)
        except RejectedError as error:
            raise EngineError(f"the judge knows no constants of layers: {error}") from error

    def joint_constant(self, norm: Norm) -> float | None:
        """An l2 constant of all logits less their mean, by the same; None where the judge knows none."""
        try:
            return joint_constant(self.judge, norm)
        except RejectedError:
            return None
