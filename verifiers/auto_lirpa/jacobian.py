"""Bounds of gradients by upstream auto_LiRPA's JacobianOP, where it is installed and covers the graph.

It relaxes the gradient's own graph linearly in the input (Shi et al. 2022, "Efficiently computing local Lipschitz
constants of neural networks via bound propagation"), so slopes of smooth activations stay linked to the input: tighter
there than intervals of slopes, equal on ReLU networks. Rounding is not accounted for: figures, never certificates.
Covered by 0.7.1: dense networks of ReLU, sigmoid and tanh, skips included; 0.3 (PyPI) has no JacobianOP.
"""

from __future__ import annotations

import logging
import types
from typing import Any

import torch
from torch import Tensor, nn

from proofs_check.certificate import PlainNetwork
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.input_set import perturbation
from verifiers.auto_lirpa.module import LoweredModule, cast, default_dtype, quiet
from verifiers.engine import EngineError
from verifiers.layers.steps import Dense
from verifiers.lipschitz.jacobian import GradientBounds
from verifiers.network import lowering as low
from verifiers.perturbation import Balls


def load() -> types.ModuleType:
    """auto_LiRPA with its Jacobian bounds. Raises EngineError where the installed version lacks them."""
    lirpa = compat.load()
    if not hasattr(lirpa.BoundedModule, "compute_jacobian_bounds"):
        raise EngineError(f"auto_LiRPA {lirpa.__version__} has no JacobianOP: put upstream >= 0.7 on PYTHONPATH")
    return lirpa


def upstream_gradient_bounds(network: PlainNetwork, balls: Balls, forms: Tensor) -> GradientBounds:
    """Bounds (untrusted) of the gradients of forms·z, forms (R, K) the same for every ball of `balls`.

    One input at a time: upstream's rule for ReLU takes the batch axis for that of the forms.
    Raises EngineError: not installed, or a node upstream has no gradient for.
    """
    lirpa = load()
    lowered = low.lower(network)
    last = len(lowered.steps) - 1
    head = Dense((last,), forms.cpu().double(), torch.zeros(len(forms), dtype=torch.float64))
    device = balls.center.device
    steps = tuple(cast(step, torch.float64, device) for step in (*lowered.steps, head))
    with quiet(), default_dtype(torch.float64), torch.no_grad():
        try:
            bounded = _bounded(lirpa, low.Lowered(steps, (*lowered.shapes, (len(forms),))), network.input_shape, device)
            each = [_of_one(lirpa, bounded, balls, n) for n in range(len(balls.center))]
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever breaks inside auto_LiRPA is its own limit
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineError(f"auto_LiRPA {lirpa.__version__} has no Jacobian of this network ({text[0]})") from error
    lower, upper = (torch.cat(ends) for ends in zip(*each, strict=True))
    if not bool(torch.isfinite(lower).all() and torch.isfinite(upper).all()):
        raise EngineError("auto_LiRPA's Jacobian bounds are not finite")
    shape = (len(each), len(forms), *network.input_shape)
    return GradientBounds(((lower + upper) / 2).reshape(shape), ((upper - lower) / 2).reshape(shape))


def upstream_constants(network: PlainNetwork, balls: Balls, predicted: Tensor) -> Tensor:
    """(N, K) anchored constants (untrusted) of z_j - z_y on each ball, entry y zero. Raises EngineError."""
    eye = torch.eye(network.classes, dtype=torch.float64)
    result = torch.zeros((len(predicted), network.classes), dtype=torch.float64)
    for y in predicted.unique().tolist():
        index, rivals = torch.nonzero(predicted == y).flatten(), [j for j in range(network.classes) if j != y]
        part = Balls(balls.center[index], balls.radius[index], balls.norm, balls.domain)
        gradients = upstream_gradient_bounds(network, part, eye[rivals] - eye[y])
        result[index[:, None].cpu(), torch.tensor(rivals)] = gradients.dual_norm_upper(balls.norm).cpu()
    return result


def _bounded(lirpa: Any, lowered: low.Lowered, shape: tuple[int, ...], device: torch.device) -> Any:
    from auto_LiRPA.jacobian import JacobianOP  # type: ignore[import-not-found]

    class Gradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = LoweredModule(lowered)

        def forward(self, x: Tensor) -> Tensor:
            return JacobianOP.apply(self.network(x), x)

    logging.getLogger("auto_LiRPA").setLevel(logging.ERROR)  # its conversion sets the level anew
    example = torch.zeros((1, *shape), dtype=torch.float64, device=device)
    return lirpa.BoundedModule(Gradient().eval(), example, {"conv_mode": "matrix", "verbosity": 0}, device=device)


def _of_one(lirpa: Any, bounded: Any, balls: Balls, n: int) -> tuple[Tensor, Tensor]:
    one = slice(n, n + 1)
    inputs = balls.pick(one).boxed(torch.float64, balls.center.device)
    x = lirpa.BoundedTensor(balls.center[one], perturbation(lirpa, inputs))
    return bounded.compute_jacobian_bounds((x,), optimize=False)
