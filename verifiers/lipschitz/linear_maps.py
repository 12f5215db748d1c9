"""The affine nodes of a plain network as linear maps with their adjoints and absolute values, in float64.

Intervals travel as centre and radius. Every step widens the radius by a bound of the rounding error it makes
(Higham, Accuracy and Stability, 3.1), so that what is bounded holds for the network in real arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.crown.engine import Crown
from verifiers.crown.network import CrownNetwork
from verifiers.engine import EngineError
from verifiers.layers import KINDS
from verifiers.layers.affine import Affine
from verifiers.layers.layer import AnyLayer
from verifiers.layers.nonlinear import Nonlinear
from verifiers.linear_forms.forms import DenseForms
from verifiers.network.module import PlainModule

TINY = 2.0**-900


class LinearMaps:
    """The layers of a network in float64, and the affine ones without offset and with absolute weights."""

    def __init__(self, network: c.PlainNetwork, device: torch.device | str = "cpu") -> None:
        for k, node in enumerate(network.nodes):
            if type(node) not in KINDS:
                raise EngineError(f"node {k} ({type(node).__name__}) has no known Lipschitz bound")
        self.network = network
        self.device = torch.device(device)
        self.exact = PlainModule(network).to(self.device, torch.float64)
        self.engine = Crown(precision="float64", device=str(device))
        self.crown: CrownNetwork = self.engine.prepare(network)  # the network as `engine` works with it
        self.layers = self.crown.layers
        affine = {k: layer for k, layer in enumerate(self.layers) if isinstance(layer, Affine)}
        self.absolute = {k: layer.absolute() for k, layer in affine.items()}
        self.linear = {k: layer.linear() for k, layer in affine.items()}
        self.growth = (max(layer.terms for layer in affine.values()) + 16) * 2.0**-51

    def parents(self, k: int) -> tuple[int, ...]:
        """The inputs of node k."""
        return self.crown.parents(k)

    def affine(self, k: int) -> Affine[Any] | None:
        """Layer k if it is affine."""
        layer = self.layers[k]
        return layer if isinstance(layer, Affine) else None

    def nonlinear(self, k: int) -> Nonlinear[Any]:
        """Layer k. Requires: it is not affine."""
        layer = self.layers[k]
        return layer if isinstance(layer, Nonlinear) else layer.refuse("derivatives to multiply with", "it is affine")

    def step(self, k: int, centres: list[Tensor], radii: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Centre and radius of affine node k from those of its inputs. Ensures: rounding is inside the radius."""
        centre, radius = self._moved(k, self.layers[k], centres, radii)
        layer = self.affine(k)
        cancelled = 0.0 if layer is None else layer.bias_size()
        return centre, radius + 2 * self.growth * (centre.abs() + cancelled) + TINY

    def linear_step(self, k: int, centres: list[Tensor], radii: list[Tensor]) -> tuple[Tensor, Tensor]:
        """`step` without the node's offset: centre and radius of its linear part."""
        centre, radius = self._moved(k, self.linear[k], centres, radii)
        return centre, radius + 2 * self.growth * centre.abs() + TINY

    def _moved(self, k: int, layer: AnyLayer, centres: list[Tensor], radii: list[Tensor]) -> tuple[Tensor, Tensor]:
        g = self.growth
        spread = [r * (1 + 2 * g) + 2 * g * m.abs() for m, r in zip(centres, radii, strict=True)]
        return layer.value(*centres), self.absolute[k].value(*spread) * (1 + 2 * g)

    def adjoint(self, k: int, forms: Tensor, absolute: bool = False) -> list[Tensor]:
        """Forms (B, *shapes[k]) of node k's value -> one (B, *shapes[i]) per input i of k."""
        layer = self.absolute[k] if absolute else self.layers[k]
        return [below.complete().to_dense().coefficients for below in layer.adjoint(DenseForms(forms))]

    def adjoint_step(self, k: int, centre: Tensor, radius: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Centre and radius of the forms of node k's inputs from those of node k's. Rounding is inside."""
        g = self.growth
        centres = self.adjoint(k, centre)
        radii = self.adjoint(k, radius * (1 + 2 * g) + 2 * g * centre.abs(), absolute=True)
        return centres, [r * (1 + 2 * g) + TINY for r in radii]
