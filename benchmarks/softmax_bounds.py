"""Radii from softmax bounds straight from auto_LiRPA. NOT CERTIFIED: shown for comparison in digits_radii.py only.

The mix is robust where CROWN, asked for h_y - h_i of a model that ends in a softmax node, bounds it above
(1 - alpha) / alpha. Nothing of it is judged, and the relaxation of softmax carries constants that make it wrong in
extreme ranges, which is why the product never asks this question (docs/soundness-suite.md).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from certmix.theorems.radius_search import largest_passing
from proofs_check.certificate import Norm, PlainNetwork
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.input_set import perturbation
from verifiers.auto_lirpa.module import LoweredModule, quiet
from verifiers.network import lowering
from verifiers.perturbation import Balls


class Softmax(nn.Module):
    """(N, K) logits -> probabilities, as one node of auto_LiRPA's graph."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.softmax(z, dim=1)


class SoftmaxBounds:
    """Lower bounds of h_y - h_i on balls around inputs, by CROWN through the softmax node."""

    def __init__(self, network: PlainNetwork) -> None:
        self.lirpa: Any = compat.load()
        self.classes = network.classes
        module = nn.Sequential(LoweredModule(lowering.lower(network)), Softmax()).float().eval()
        example = torch.zeros(1, *network.input_shape)
        self.bounded = compat.bounded_module(self.lirpa)(module, example, {"verbosity": 0})

    @property
    def version(self) -> str:
        return self.lirpa.__version__

    def margins(self, inputs: Tensor, radius: Tensor, norm: Norm, predicted: Tensor) -> Tensor:
        """(N,) least lower bound over the rivals, inputs in [0, 1]."""
        around = Balls(inputs, radius.float(), norm, (0.0, 1.0)).boxed(torch.float32)
        rivals = torch.tensor([[j for j in range(self.classes) if j != y] for y in predicted.tolist()])
        eye = torch.eye(self.classes)
        functionals = eye[predicted][:, None] - eye[rivals]
        x = self.lirpa.BoundedTensor(inputs, perturbation(self.lirpa, around))
        with torch.no_grad(), quiet():
            lower, _ = self.bounded.compute_bounds(x=(x,), C=functionals, method="CROWN", bound_upper=False)
        return lower.amin(1).double()

    def radii(self, inputs: Tensor, predicted: Tensor, alpha: float, norm: Norm, limit: float) -> Tensor:
        """(N,) largest radii at which the bound exceeds what Lemma 3.2 asks for."""
        required = (1 - alpha) / alpha

        def passes(at: Tensor, radii: Tensor) -> Tensor:
            return self.margins(inputs[at], radii, norm, predicted[at]) > required

        return largest_passing(passes, len(inputs), limit, 1e-3)


def use(upstream: Path | None) -> None:
    """Let Python find the auto_LiRPA in the folder `upstream`, before it is imported."""
    if upstream is not None:
        sys.path.insert(0, str(upstream))
