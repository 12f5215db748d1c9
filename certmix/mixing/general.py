"""The general mixing formulas, Eq. 1 to 3 of the paper, and their binary ancestor. Only Eq. 4 carries certificates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from proofs_check.certificate import Norm
from verifiers.layers import KINDS
from verifiers.network.module import PlainModule
from verifiers.norms import NORMS

Scaling = Literal["one", "gradient", "largest_gradient", "gradient_ratio"]
Output = Literal["probabilities", "logits"]

SCALINGS: tuple[Scaling, ...] = ("one", "gradient", "largest_gradient", "gradient_ratio")
OUTPUTS: tuple[Output, ...] = ("probabilities", "logits")


class GeneralMixedClassifier(nn.Module):
    """(g_i + γ R_i h_i) / (1 + γ R_i), with R_i by `scaling` (Eq. 3; Eq. 2 is "gradient").

    R_i: "one" 1; "gradient" ‖∇g_i‖; "largest_gradient" ‖∇ max_j g_j‖; "gradient_ratio" ‖∇g_i‖ / ‖∇h_i‖, in the
    norm dual to `norm`, the perturbation's. g_i, h_i are probabilities, and the logarithm of the mix is
    returned, or logits (`output`). normalised False leaves the denominator out (Eq. 1, with "gradient").

    gamma in [0, ∞]; ∞ means the limit: h_i where R_i > 0 (unnormalised: R_i h_i), g_i where R_i = 0. With scaling
    "one" over probabilities this is Eq. 4 with α = γ/(1 + γ). Shapes: (N, …) -> (N, K). Differentiable end to end,
    R_i included, wherever the base models are twice differentiable. Modules must treat inputs independently.
    """

    def __init__(
        self,
        standard: nn.Module,
        robust: nn.Module,
        gamma: float,
        scaling: Scaling = "one",
        output: Output = "probabilities",
        norm: Norm = "Linf",
        normalised: bool = True,
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise UsageError(f"gamma must be in [0, inf], got {gamma}")
        for name, value, choices in (("scaling", scaling, SCALINGS), ("output", output, OUTPUTS)):
            if value not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        self.standard: nn.Module = standard
        self.robust: nn.Module = robust
        self.gamma: float = float(gamma)
        self.scaling: Scaling = scaling
        self.output: Output = output
        self.norm: Norm = norm
        self.normalised = normalised

    def forward(self, x: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_(self.scaling != "one")
            g, h = self.standard(point), self.robust(point)
            # at gamma 0 no R_i enters; at infinity only where R_i > 0 does, which has no gradient
            graph = wanted and (math.isfinite(self.gamma) or not self.normalised)
            scale = self._scale(point, g, h, graph) if self.gamma > 0 else None
            if self.output == "probabilities":
                g, h = torch.log_softmax(g, 1), torch.log_softmax(h, 1)
            mixed = g if scale is None else self._mix(g, h, scale)
        return mixed if wanted and x.requires_grad else mixed.detach()

    def _scale(self, point: Tensor, g: Tensor, h: Tensor, graph: bool) -> Tensor:
        """R (N, K) or (N, 1) >= 0, from the logits g, h at `point`; graph: to be differentiated."""
        if self.scaling == "one":
            return torch.ones_like(g[:, :1])
        if self.scaling == "largest_gradient":
            outputs = torch.softmax(g, 1) if self.output == "probabilities" else g
            (gradient,) = torch.autograd.grad(outputs.amax(1).sum(), point, create_graph=graph, retain_graph=True)
            return self._dual_norm(gradient.flatten(1))[:, None]
        norms = self._gradient_norms(self.standard, g, point, graph)
        if self.scaling == "gradient":
            return norms
        below = self._gradient_norms(self.robust, h, point, graph)
        return norms / below.clamp_min(torch.finfo(below.dtype).tiny)

    def _gradient_norms(self, model: nn.Module, logits: Tensor, point: Tensor, graph: bool) -> Tensor:
        """(N, K): ‖∇ of every output‖ in the dual norm, the probabilities' through ∂p_i/∂z_j = p_i (δ_ij − p_j).

        The logits of a piecewise linear network have constant gradients: only p then depends on the point.
        """
        deeper = graph and not _piecewise_linear(model)
        rows = [
            torch.autograd.grad(logits[:, i].sum(), point, create_graph=deeper, retain_graph=True)[0]
            for i in range(logits.shape[1])
        ]
        jacobian = torch.stack(rows, 1).flatten(2)
        if self.output == "probabilities":
            p = torch.softmax(logits, 1)
            jacobian = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ jacobian
        return self._dual_norm(jacobian)

    def _dual_norm(self, gradients: Tensor) -> Tensor:
        return NORMS[self.norm].dual(gradients)

    def _mix(self, g: Tensor, h: Tensor, scale: Tensor) -> Tensor:
        return self._mixed_logs(g, h, scale) if self.output == "probabilities" else self._mixed_logits(g, h, scale)

    def _mixed_logits(self, g: Tensor, h: Tensor, scale: Tensor) -> Tensor:
        if math.isinf(self.gamma):
            return torch.where(scale > 0, h, g) if self.normalised else scale * h
        weight = self.gamma * scale
        return (g + weight * h) / (1 + weight) if self.normalised else g + weight * h

    def _mixed_logs(self, log_g: Tensor, log_h: Tensor, scale: Tensor) -> Tensor:
        """Of log-probabilities, without under- or overflow; weights below the least normal number count as it."""
        tiny = torch.finfo(log_g.dtype).tiny
        if math.isinf(self.gamma):
            if not self.normalised:
                return scale.clamp_min(tiny).log() + log_h
            return torch.where(scale > 0, log_h, log_g)
        weight = self.gamma * scale
        mixed = torch.logaddexp(log_g, weight.clamp_min(tiny).log() + log_h)
        return mixed - torch.log1p(weight) if self.normalised else mixed

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, scaling={self.scaling}, output={self.output}, normalised={self.normalised}"


def _piecewise_linear(model: nn.Module) -> bool:
    """Whether this is a plain network without curved layers; False of any other module."""
    return isinstance(model, PlainModule) and all(KINDS[type(n)].piecewise_linear for n in model.network.nodes)


class LocallyBiasedSmoothing(nn.Module):
    """g(x) + γ h(x) ‖∇g(x)‖, binary; the class is the sign. Source: Anderson & Sojoudi 2022, cited in section 2.3.

    standard: (N, …) -> (N,) scores g. oracle: (N, …) -> (N,) directions h in {−1, 1}, not differentiated. norm: of the
    perturbation; the gradient is measured in its dual. Shapes: (N, …) -> (N,).
    """

    def __init__(
        self, standard: nn.Module, oracle: Callable[[Tensor], Tensor], gamma: float, norm: Norm = "Linf"
    ) -> None:
        super().__init__()
        if not (gamma >= 0 and math.isfinite(gamma)):
            raise UsageError(f"gamma must be a finite number >= 0, got {gamma}")
        self.standard: nn.Module = standard
        self.oracle: Callable[[Tensor], Tensor] = oracle
        self.gamma: float = float(gamma)
        self.norm: Norm = norm

    def forward(self, x: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            score = self.standard(point)
            (gradient,) = torch.autograd.grad(score.sum(), point, create_graph=wanted, retain_graph=True)
            size = NORMS[self.norm].dual(gradient.flatten(1))
            biased = score + self.gamma * self.oracle(x.detach()) * size
        return biased if wanted else biased.detach()


class OneNearestNeighbour(nn.Module):
    """The direction oracle of locally biased smoothing: the label, −1 or 1, of the nearest stored point.

    points: (M, …); directions: (M,) in {−1, 1}; distances in `norm`; ties go to the first point.
    """

    def __init__(self, points: Tensor, directions: Tensor, norm: Norm = "L2") -> None:
        super().__init__()
        if len(points) == 0 or points.shape[:1] != directions.shape:
            raise UsageError(f"needs as many directions as points, got {len(points)} and {tuple(directions.shape)}")
        if not bool((directions.abs() == 1).all()):
            raise UsageError("directions must be -1 or 1")
        self.points: Tensor = nn.Buffer(points.flatten(1))
        self.directions: Tensor = nn.Buffer(directions)
        self.norm: Norm = norm

    def forward(self, x: Tensor) -> Tensor:
        distances = torch.cdist(x.flatten(1).to(self.points.dtype), self.points, p=NORMS[self.norm].order)
        return self.directions[distances.argmin(1)].to(x.dtype)
