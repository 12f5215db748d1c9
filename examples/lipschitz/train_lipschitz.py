"""Trains a convolutional net that is 1-Lipschitz in l2 by design, as the robust side of a mix.

    pip install deel-torchlip        (training alone needs it: the net is exported as plain convolutions and sorts)
    python examples/lipschitz/train_lipschitz.py [--data digits|mnist] [--out DIR]

Orthogonal 1 x 1 convolutions of 2 x 2 patches, GroupSort2 between, two orthogonal dense layers. The loss is the
cross-entropy of the logits times TEMPERATURE, the true one lowered by sqrt(2) RADIUS: what an l2 ball of that radius
may take away from it.

digits  the 1,000 training images of examples/digits; writes robust.onnx. One CPU core needs about a minute.
mnist   the 1,000 MNIST test images of CERTMIX_DATA/mnist: the first 600 to train on, the other 400 for audits only.
        So few show what such a mix is like, not how well MNIST can be done. Writes robust.onnx and audit.npz.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "digits"))

from train import BATCH, SEED, Split, accuracy, export, splits  # noqa: E402

TEMPERATURE, RADIUS, NOISE_STD = 10.0, 0.5, 0.1
MNIST_TRAIN = 600
EPOCHS = 80


def mnist_splits() -> tuple[Split, Split]:
    """Train and audit: disjoint."""
    folder = Path(os.environ.get("CERTMIX_DATA", HERE.parents[1] / ".." / "shared" / "data")) / "mnist"
    with np.load(folder / "test_1000.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    images = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    x, y = torch.from_numpy(images).reshape(-1, 1, 28, 28), torch.from_numpy(labels.astype(np.int64))
    return Split(x[:MNIST_TRAIN], y[:MNIST_TRAIN]), Split(x[MNIST_TRAIN:], y[MNIST_TRAIN:])


def lipschitz_net(size: int) -> nn.Sequential:
    """For images of one channel and size x size pixels, to ten classes."""
    from deel import torchlip

    return nn.Sequential(
        torchlip.InvertibleDownSampling(2), torchlip.SpectralConv2d(4, 16, 1), torchlip.GroupSort2(),
        torchlip.InvertibleDownSampling(2), torchlip.SpectralConv2d(64, 64, 1), torchlip.GroupSort2(),
        nn.Flatten(), torchlip.SpectralLinear(64 * (size // 4) ** 2, 128), torchlip.GroupSort2(),
        torchlip.SpectralLinear(128, 10),
    )  # fmt: skip


def vanilla(net: nn.Sequential) -> nn.Sequential:
    """The same without the parametrisation."""
    return nn.Sequential(*(m.vanilla_export() if hasattr(m, "vanilla_export") else m for m in net.eval())).eval()


def train(net: nn.Sequential, data: Split, epochs: int) -> nn.Sequential:
    """Adam with a cosine step size, on noisy images."""
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.labels)).split(BATCH):
            x, y = data.images[batch], data.labels[batch]
            logits = net(x + NOISE_STD * torch.randn_like(x)) - math.sqrt(2) * RADIUS * F.one_hot(y, 10)
            optimizer.zero_grad()
            F.cross_entropy(TEMPERATURE * logits, y).backward()
            optimizer.step()
        schedule.step()
    return vanilla(net)


def certified(net: nn.Module, data: Split, radius: float) -> float:
    """Share of images that no point of the l2 ball misclassifies, if the net is 1-Lipschitz: a float estimate."""
    with torch.no_grad():
        logits = net(data.images)
    own = logits.gather(1, data.labels[:, None])[:, 0]
    rival = logits.scatter(1, data.labels[:, None], -torch.inf).amax(dim=1)
    return float((own - rival > math.sqrt(2) * radius).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--out", type=Path, default=HERE, help="(default: this folder)")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    if options.data == "digits":
        data, held_out, _ = splits()
    else:
        data, held_out = mnist_splits()
        np.savez_compressed(options.out / "audit.npz", images=held_out.images.numpy(), labels=held_out.labels.numpy())
    size = data.images.shape[2]
    net = train(lipschitz_net(size), data, options.epochs)
    export(net, options.out / "robust.onnx", size)
    name = "tune" if options.data == "digits" else "audit"
    shares = ", ".join(f"certified at {r}: {certified(net, held_out, r):.1%}" for r in (0.25, 0.5))
    print(f"{len(data.labels)} images to train on; {name} split: clean {accuracy(net, held_out):.1%}, {shares}")


if __name__ == "__main__":
    main()
