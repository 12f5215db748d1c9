"""Figure 3's alpha: the largest at which a mix from a log is as accurate on clean inputs as a baseline from another.

A log tells of h only its class j and a lower bound p of its probability. Clean accuracies are estimates: h_j counts as
p itself, as the published figure takes the mean of draws, and the rest of h as it is worst for the label.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, softmax

from certmix.errors import UsageError
from certmix.formatting import exact, percent_down, ratio
from certmix.records.smoothing_log import Log

Array = NDArray[np.float64]
ALPHAS = tuple(k / 100 for k in range(100, 50, -1))  # to the paper's two decimals, the most robust first


def read_predictions(path: Path) -> Array:
    """(N, K) probabilities of g at the inputs with index 0 … N − 1, from an .npz file with `probabilities` or `logits`.

    Raises UsageError.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {
                name: np.asarray(file[name], dtype=np.float64) for name in ("probabilities", "logits") if name in file
            }
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: is no .npz file of predictions: {error}") from None
    if len(arrays) != 1:
        raise UsageError(f"{path}: needs one array, 'probabilities' or 'logits' (N, K), got {sorted(arrays)}")
    ((name, values),) = arrays.items()
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UsageError(f"{path}: {name} must be finite numbers (N, K), got shape {values.shape}")
    if name == "logits":
        return softmax(values, axis=1)
    if (values < 0).any() or not np.allclose(values.sum(axis=1), 1, atol=1e-3):
        raise UsageError(f"{path}: rows of probabilities must be >= 0 and add up to 1")
    return values


def covered(log: Log, g: Array) -> Log:
    """The log's inputs whose predictions by g are known. Raises UsageError where there are none, or classes differ."""
    part = log.pick((log.index >= 0) & (log.index < len(g)))
    if len(part.index) == 0:
        raise UsageError(f"{log.source}: g's predictions cover none of its inputs (index below {len(g)})")
    largest = int(max(part.labels.max(), part.predicted.max()))
    if largest >= g.shape[1]:
        raise UsageError(f"{log.source}: has class {largest}, g's predictions have {g.shape[1]} classes")
    return part


def estimated_right(log: Log, g: Array, alpha: float) -> NDArray[np.bool_]:
    """(N,) whether the mix gives the label c at the input, for h_j = p and any h_i <= 1 − p; where h abstained, for any
    h_i <= 1/2. log: of inputs that `covered` keeps."""
    each = np.arange(len(log.index))
    abstained = log.predicted < 0
    p = np.where(abstained, 0.5, ndtr(log.radius / log.noise_std))[:, None]
    own = (log.predicted == log.labels)[:, None]
    is_j = np.arange(g.shape[1])[None] == log.predicted[:, None]
    lead_h = np.where(own, 2 * p - 1, np.where(is_j, -p, p - 1))  # h_c − h_i at least
    mine = g[log.index]
    lead = (1 - alpha) * (mine[each, log.labels][:, None] - mine) + alpha * lead_h
    lead[each, log.labels] = np.inf
    return np.all(lead > 0, axis=1)


def matching_alpha(mix: Log, g: Array, baseline: Log) -> tuple[float, float, float]:
    """(alpha, the mix's and the baseline's clean accuracy in percent): the largest of `ALPHAS` at which the mix is
    no less accurate. Raises UsageError where there is none."""
    wanted = 100.0 * float(baseline.correct.mean())
    reached = {alpha: 100.0 * float(estimated_right(mix, g, alpha).mean()) for alpha in ALPHAS}
    for alpha, clean in reached.items():
        if clean >= wanted:
            return alpha, clean, wanted
    best = max(reached, key=lambda a: reached[a])
    raise UsageError(
        f"no alpha above 1/2 makes the mix as accurate as the baseline, {percent_down(*ratio(wanted))} %: at alpha "
        f"{exact(best)} it reaches {percent_down(*ratio(reached[best]))} %"
    )
