"""A lowered network as the torch module that auto_LiRPA converts, and the surroundings in which it does so."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from verifiers.layers.steps import Step
from verifiers.network import lowering as low


class LoweredModule(nn.Module):
    """A lowered network as a torch module: (N, *input) -> logits. Every weight is a parameter, as 0.3 needs; an index
    cannot be one."""

    def __init__(self, network: low.Lowered) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.ParameterDict()
        for k, step in enumerate(network.steps):
            for name, tensor in step.weights().items():
                self.weights[f"{name}{k}"] = nn.Parameter(tensor.contiguous(), requires_grad=False)
        self.names = [tuple(step.weights()) for step in network.steps]

    def forward(self, x: Tensor) -> Tensor:
        values: list[Tensor] = [x]
        for k, step in enumerate(self.network.steps[1:], start=1):
            weights = {name: self.weights[f"{name}{k}"] for name in self.names[k]}
            values.append(step.value([values[i] for i in step.inputs], weights))
        return values[-1]


def cast(step: Step, dtype: torch.dtype, device: torch.device) -> Step:
    values = {f.name: getattr(step, f.name) for f in fields(step)}
    tensors = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
    return replace(step, **{k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()})


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    """auto_LiRPA makes some of its tensors in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """auto_LiRPA prints, logs and warns; its news reach the user as EngineError only."""
    logger = logging.getLogger("auto_LiRPA")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
