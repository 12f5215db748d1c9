"""Trains the three digit classifiers of this folder and writes them, with their data splits, beside this file.

    python examples/digits/train.py [--out DIR]

Data: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels k/16 in [0, 1], in a fixed shuffle: 1,000 to
train on, 397 to tune with (tune.npz), 400 for audits only (audit.npz). One CPU core needs a few minutes.

standard.onnx  conv net, cross-entropy on clean images.
robust.onnx    multi-layer perceptron, cross-entropy at PGD points of an l-inf ball and at its interval bounds.
smoothed.onnx  conv net, cross-entropy under Gaussian noise: the base of a randomised smoothing.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

SEED = 0
TRAIN, TUNE = 1000, 397
BATCH = 50
RADIUS = 0.12  # l-inf, what the robust net is trained for
INTERVAL_WEIGHT = 0.5
NOISE_STD = (0.25, 0.5)  # drawn between, per image

Loss = Callable[[nn.Sequential, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Split:
    """images: (N, 1, 8, 8) float32 in [0, 1]; labels: (N,) int64."""

    images: Tensor
    labels: Tensor


def splits() -> tuple[Split, Split, Split]:
    """Train, tune and audit: disjoint, their union the whole data set, fixed by SEED."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = torch.from_numpy((digits.images[order] / 16).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(digits.target[order].astype(np.int64))
    cuts = ((0, TRAIN), (TRAIN, TRAIN + TUNE), (TRAIN + TUNE, len(order)))
    train, tune, audit = (Split(images[a:b], labels[a:b]) for a, b in cuts)
    return train, tune, audit


def conv_net(dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(512, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, 10),
    )  # fmt: skip


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def pgd(net: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int) -> Tensor:
    """Points of the l-inf ball around x, within [0, 1], that raise the cross-entropy."""
    low, high = (x - radius).clamp(min=0), (x + radius).clamp(max=1)
    point = low + (high - low) * torch.rand_like(x)
    for _ in range(steps):
        point.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), y), point)
        point = (point.detach() + 2.5 * radius / steps * slope.sign()).clamp(low, high)
    return point


def worst_logits(net: nn.Sequential, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """(N, 10) upper bounds of the logit differences z_j - z_y on the ball, by intervals; column y is 0.

    net: Flatten, then Linear and ReLU in turn. The last layer's differences are bounded as one linear map.
    """
    low, high = (x - radius).clamp(min=0).flatten(1), (x + radius).clamp(max=1).flatten(1)
    for layer in net[1:-1]:
        if isinstance(layer, nn.Linear):
            center, spread = F.linear((low + high) / 2, layer.weight, layer.bias), (high - low) / 2
            spread = F.linear(spread, layer.weight.abs())
            low, high = center - spread, center + spread
        else:
            low, high = low.relu(), high.relu()
    last = net[-1]
    assert isinstance(last, nn.Linear)
    rows = last.weight[None] - last.weight[y][:, None]
    center = torch.einsum("nkf,nf->nk", rows, (low + high) / 2) + last.bias[None] - last.bias[y][:, None]
    return center + torch.einsum("nkf,nf->nk", rows.abs(), (high - low) / 2)


def standard_loss(net: nn.Sequential, x: Tensor, y: Tensor, progress: float) -> Tensor:
    return F.cross_entropy(net(x), y)


def robust_loss(net: nn.Sequential, x: Tensor, y: Tensor, progress: float) -> Tensor:
    """Cross-entropy at PGD points and at interval bounds, of a ball that grows over the first half."""
    radius = RADIUS * min(1.0, 2 * progress)
    attacked = F.cross_entropy(net(pgd(net, x, y, radius, steps=5)), y)
    bounded = F.cross_entropy(worst_logits(net, x, y, radius), y)
    return (1 - INTERVAL_WEIGHT) * attacked + INTERVAL_WEIGHT * bounded


def noise_loss(net: nn.Sequential, x: Tensor, y: Tensor, progress: float) -> Tensor:
    low, high = NOISE_STD
    noise_std = low + (high - low) * torch.rand(len(x), 1, 1, 1)
    return F.cross_entropy(net(x + noise_std * torch.randn_like(x)), y)


def train(net: nn.Sequential, data: Split, loss: Loss, epochs: int) -> nn.Sequential:
    """Adam with a cosine step size; `loss` is told how far training is, 0 to 1."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for batch in torch.randperm(len(data.labels)).split(BATCH):
            optimizer.zero_grad()
            loss(net, data.images[batch], data.labels[batch], epoch / epochs).backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def accuracy(net: nn.Module, data: Split) -> float:
    with torch.no_grad():
        return float((net(data.images).argmax(1) == data.labels).float().mean())


def measure(net: nn.Sequential, data: Split) -> str:
    """Accuracy on clean, noisy and attacked images."""
    parts = [f"clean {accuracy(net, data):.1%}"]
    for noise_std in NOISE_STD:
        noisy = Split(data.images + noise_std * torch.randn_like(data.images), data.labels)
        parts.append(f"noise {noise_std}: {accuracy(net, noisy):.1%}")
    for radius in (0.05, 0.1, 0.15):
        attacked = Split(pgd(net, data.images, data.labels, radius, steps=40), data.labels)
        parts.append(f"PGD {radius}: {accuracy(net, attacked):.1%}")
    return ", ".join(parts)


def export(net: nn.Module, path: Path, size: int = 8) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            net, (torch.zeros(1, 1, size, size),), str(path), dynamo=False, opset_version=17,
            input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data, tune, audit = splits()
    for name, part in (("tune", tune), ("audit", audit)):
        np.savez_compressed(out / f"{name}.npz", images=part.images.numpy(), labels=part.labels.numpy())
    recipes: dict[str, tuple[Callable[[], nn.Sequential], Loss, int]] = {
        "standard": (lambda: conv_net(dropout=0.25), standard_loss, 60),
        "robust": (perceptron, robust_loss, 200),
        "smoothed": (lambda: conv_net(dropout=0.0), noise_loss, 200),
    }
    for name, (make, loss, epochs) in recipes.items():
        torch.manual_seed(SEED)
        net = train(make(), data, loss, epochs)
        export(net, out / f"{name}.onnx")
        print(f"{name}: tune split: {measure(net, tune)}", flush=True)


if __name__ == "__main__":
    main()
