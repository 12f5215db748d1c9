"""Architectures of published Lipschitz nets, built from torch with random weights: loaded, and their global constant
judged to be what they are built for. The page for those who have a checkpoint is examples/lipschitz/README.md."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certmix.models.model import from_module
from certmix.provers.judging import prepared
from proofs_check.rules.lipschitz.layer_norms import node_constants
from verifiers.network.module import PlainModule

CHANNELS, SIZE = 8, 12
Layer = Callable[[], nn.Module]


class MaxMin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([torch.max(a, b), torch.min(a, b)], 1)


class Residual(nn.Module):
    """LiResNet: x + K x, here divided by its norm on the torus of zero padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        kernel = self.conv.weight.detach().double()
        kernel[:, :, 1, 1] += torch.eye(CHANNELS)
        self.norm = float(torch.linalg.matrix_norm(torch.fft.fft2(kernel, (64, 64)).permute(2, 3, 0, 1), 2).max())

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv(x)) * (1 / self.norm)


def self_products(kernel: Tensor) -> Tensor:
    """(hidden, hidden, 2k - 1, 2k - 1): of every kernel with every other, at every shift."""
    return F.conv2d(kernel, kernel, padding=kernel.shape[2] - 1)


class Potential(nn.Module):
    """SLL and CPL: x - 2 W T^-1 relu(W' x + b), convolutions, as their authors write it."""

    def __init__(self, by_rows: bool) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2 * CHANNELS, CHANNELS, 3, 3) / 8)
        self.bias = nn.Parameter(torch.randn(2 * CHANNELS) / 8)
        products = self_products(self.kernel.detach())
        sums = products.abs().sum((1, 2, 3))
        self.scale = nn.Parameter((2 / (sums if by_rows else sums.max().expand_as(sums)))[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(F.conv2d(x, self.kernel, self.bias, padding=1))
        return x - F.conv_transpose2d(self.scale * inner, self.kernel, padding=1)


class AOL(nn.Module):
    """A convolution whose input channels are scaled until it is 1-Lipschitz."""

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.randn(CHANNELS, CHANNELS, 3, 3)
        sums = self_products(kernel.transpose(0, 1)).abs().sum((1, 2, 3))
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.conv.weight.data = kernel / sums.sqrt()[None, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Cayley(nn.Module):
    """Orthogonal at every frequency (Cayley, BRONet): a circular convolution with a kernel as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        frequencies = torch.fft.fft2(torch.randn(CHANNELS, CHANNELS, SIZE, SIZE, dtype=torch.float64))
        matrices = frequencies.permute(2, 3, 0, 1)
        skew, unit = matrices - matrices.mH, torch.eye(CHANNELS, dtype=torch.complex128)
        orthogonal = torch.linalg.solve(unit + skew, unit - skew)
        self.kernel = nn.Parameter(torch.fft.ifft2(orthogonal.permute(2, 3, 0, 1)).real.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, SIZE - 1, 0, SIZE - 1), mode="circular"), self.kernel)


class Householder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        half = torch.rand(CHANNELS // 2, 1, 1) * math.pi
        self.sine, self.cosine = nn.Parameter(half.sin()), nn.Parameter(half.cos())

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        z = F.relu(self.sine * a - self.cosine * b)
        return torch.cat([a - 2 * self.sine * z, b + 2 * self.cosine * z], 1)


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def orthogonal(layer: nn.Module) -> nn.Module:
    nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]
    return layer


NETS: dict[str, list[Layer]] = {
    "LiResNet": [Residual, MaxMin],
    "SLL": [lambda: Potential(True)],
    "CPL": [lambda: Potential(False)],
    "AOL": [AOL, MaxMin],
    "Cayley": [Cayley, MaxMin],
    "SOC's activation": [lambda: orthogonal(nn.Conv2d(CHANNELS, CHANNELS, 1)), Householder],
    "absolute value": [lambda: orthogonal(nn.Conv2d(CHANNELS, CHANNELS, 1)), Absolute],
}


@pytest.mark.parametrize("name", NETS)
def test_a_published_architecture_is_judged_to_be_1_lipschitz(name: str) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), orthogonal(nn.Conv2d(4, CHANNELS, 1))]
    for _ in range(2):
        layers += [layer() for layer in NETS[name]]
    layers += [nn.Flatten(), orthogonal(nn.Linear(CHANNELS * SIZE**2, 5))]
    module = nn.Sequential(*layers).eval()
    network = from_module(module, (1, 2 * SIZE, 2 * SIZE)).require_network()
    x = torch.randn(4, 1, 2 * SIZE, 2 * SIZE)
    with torch.no_grad():
        torch.testing.assert_close(PlainModule(network)(x), module(x), rtol=1e-4, atol=1e-5)
    constant = node_constants(prepared(network), "L2")[0][-1]
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 0].sum(), x)
    assert float(gradient.flatten(1).norm(dim=1).max()) <= constant <= 1.05
