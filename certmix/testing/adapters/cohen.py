"""A certification script in the style of Cohen et al. 2019, protocol "smoothed": h alone, hard votes."""

from __future__ import annotations

import scipy.stats
import torch
from torch import Tensor, nn

SELECTION = 100
VOTES = 1000
BATCH = 100_000


def certify(
    base: nn.Module, x: Tensor, alpha: float, noise_std: float = 1.0, failure_probability: float = 0.001
) -> list[tuple[int, float] | None]:
    """Class by a selection sample, share by Clopper-Pearson, radius sigma Phi^-1(p); no mix: alpha must be 1."""
    if alpha != 1:
        raise NotImplementedError(f"Cohen's radius speaks of the smoothed classifier alone (alpha 1), got {alpha}")
    chosen = _votes(base, x, SELECTION, noise_std).argmax(1)
    counts = _votes(base, x, VOTES, noise_std).gather(1, chosen[:, None])[:, 0].double().numpy()
    lower = scipy.stats.beta.ppf(failure_probability, counts, VOTES - counts + 1)
    radii = noise_std * scipy.stats.norm.ppf(lower)
    return [(int(k), float(r)) if p > 0.5 else None for k, r, p in zip(chosen, radii, lower, strict=True)]


certify.certmix_protocol = "smoothed"  # type: ignore[attr-defined]


def _votes(base: nn.Module, x: Tensor, draws: int, noise_std: float) -> Tensor:
    """(N, K) counts of argmax over `draws` noisy copies of each input."""
    tables = []
    for part in x.split(max(1, BATCH // draws)):
        noisy = part[:, None] + torch.randn(len(part), draws, *x.shape[1:]) * noise_std
        with torch.no_grad():
            z = base(noisy.reshape(-1, *x.shape[1:])).reshape(len(part), draws, -1)
        tables.append(torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).sum(1))
    return torch.cat(tables)
