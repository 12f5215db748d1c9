"""Every alpha and temperature from one audit: clean, certified and attacked accuracy, with no new verification.

Reads the bounds that certmix audit kept in DIR/curves (method margin, Lemma 3.2), prints and plots all pairs, and
writes DIR/sweep.json and DIR/sweep.png. "attacked" is an upper limit of robust accuracy: each mix is evaluated on one
common pool of adversarial points. --certify ALPHA,T turns one pair into a run of full certificates in --out.

Exit 0: done. 1: a point of the pool refutes what the bounds say, which must not happen. 2: bad input.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from certmix.attacks import Confirmed, confirm
from certmix.attacks.pool import Logits, Pool, logits_of, make_pool
from certmix.commands import arguments
from certmix.errors import UsageError
from certmix.mixing.mixed import check_alpha, check_temperature
from certmix.reports.sweep_tables import plot, show
from certmix.runs.finished import FinishedRun, open_run
from certmix.runs.from_curves import certify_point
from certmix.runs.store import Store
from certmix.theorems.margin import certifies, required_margin

DEFAULT_RADII = (0.25, 0.5, 0.75)  # quantiles of the certified radii
MAX_ALPHAS = 10_001
LEMMA = ("network_margin", "engine_margin")  # rules that prove the margin of Lemma 3.2
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """Shares in percent of all inputs at one (alpha, T, radius). certified: a certificate follows from the stored
    bounds; certified_correct: and its class is the label. attacked: an upper limit of robust accuracy; None: not run.
    """

    alpha: float
    temperature: float
    radius: float
    clean: float
    certified: float
    certified_correct: float
    attacked: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a finished audit")
    add_grid(parser)
    parser.add_argument(
        "--radius", metavar="R[,R…]", help="radii to answer for (default: the audit's, or quartiles of its radii)"
    )
    parser.add_argument("--attack-steps", type=int, default=20, metavar="N", help="per point of the pool; 0: no attack")
    parser.add_argument("--certify", metavar="ALPHA,T", help="turn this pair into full certificates, in --out")
    parser.add_argument("--out", metavar="DIR2", help="new folder for --certify")


def add_grid(parser: argparse.ArgumentParser) -> None:
    """--alpha and --temperature as lists."""
    parser.add_argument(
        "--alpha", default="0.5:1:0.01", metavar="LOW:HIGH:STEP", help="or a list A,A,… (default 0.5:1:0.01)"
    )
    parser.add_argument("--temperature", default="1,2,4,8", metavar="T,T,…", help="(default 1,2,4,8)")


def run(options: argparse.Namespace) -> int:
    found = open_run(Path(options.folder))
    radii = radii_of(options.radius, found)
    if options.certify is not None:
        alpha, temperature = pair(options.certify)
        given = None if options.radius is None else radii
        return certify_point(found, alpha, temperature, given, Path(arguments.required(options, "out")))
    if options.attack_steps < 0:
        raise UsageError(f"--attack-steps must be >= 0, got {options.attack_steps}")
    alphas = grid(options.alpha, "--alpha", check_alpha)
    temperatures = grid(options.temperature, "--temperature", check_temperature)
    swept = sweep(found, alphas, temperatures, radii, options.attack_steps)
    record = {"of": str(found.path), "norm": found.settings.norm, "n": len(found.data), "refuted": swept.refuted}
    Store(found.path).write_json("sweep.json", {**record, "points": [asdict(p) for p in swept.points]})
    plot(found.path / "sweep.png", swept.points, found.settings.norm)
    show(swept.points, len(found.data), found.settings.norm)
    for text in swept.refuted:
        print(f"REFUTED: {text}")
    print(f"written to {found.path}: sweep.json, sweep.png")
    return 1 if swept.refuted else 0


# ---------------------------------------------------------------- what was asked


def grid(text: str, name: str, check: Any) -> tuple[float, ...]:
    """LOW:HIGH:STEP (both ends included) or a comma-separated list, increasing, without repetition."""
    try:
        if ":" in text:
            low, high, step = (Fraction(part) for part in text.split(":"))
            if step <= 0 or low > high or (high - low) / step > MAX_ALPHAS:
                raise ValueError(text)
            values = [float(low + k * step) for k in range(int((high - low) / step) + 1)]
        else:
            values = [float(Fraction(part)) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"{name} must be LOW:HIGH:STEP or a list such as 0.6,0.75, got {text!r}") from None
    return tuple(sorted({check(v) for v in values}))


def pair(text: str) -> tuple[float, float]:
    """ALPHA,T."""
    try:
        alpha, temperature = (float(Fraction(part)) for part in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"--certify must be ALPHA,T such as 0.6,4, got {text!r}") from None
    return check_alpha(alpha), check_temperature(temperature)


def radii_of(text: str | None, found: FinishedRun) -> tuple[float, ...]:
    """Those asked for; else the audit's; else quartiles of the radii it certified."""
    if text is not None:
        return grid(text, "--radius", _radius)
    if found.settings.radius is not None:
        return (found.settings.radius,)
    radii = [r["radius"] for r in found.certified]
    if not radii:
        raise UsageError("the audit certified no radius: say which ones with --radius")
    return tuple(sorted({float(np.quantile(radii, q, method="lower")) for q in DEFAULT_RADII}))


def _radius(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"--radius must be >= 0 and finite, got {value}")
    return value


# ---------------------------------------------------------------- certified: curves, and the audit's own certificates


@dataclass(frozen=True, eq=False)
class Margins:
    """margin: (N,) the best lower bound of min_i h_y - h_i known on the ball, -1 if none. predicted: (N,) its y."""

    margin: NDArray[np.float64]
    predicted: NDArray[np.int64]

    def certified(self, alpha: float) -> Bools:
        """(N,): Lemma 3.2 follows at alpha."""
        return certifies(torch.from_numpy(self.margin), alpha).numpy()


def margins_at(found: FinishedRun, temperature: float, radii: tuple[float, ...]) -> list[Margins]:
    """Per radius. A bound on a ball holds in every smaller one, and a certificate at alpha says that the margin
    exceeds (1 - alpha)/alpha (docs/maths.md 7). Ensures: falls with the radius; no audited certificate is lost."""
    archive, n = found.archive, len(found.data)
    margins = archive.margins(temperature)
    own = [r for r in found.certified if r["evidence"]["rule"] in LEMMA and r["temperature"] == temperature]
    result: list[Margins] = []
    for radius in radii:
        known = Margins(np.full(n, -1.0), np.zeros(n, dtype=np.int64))
        for k in np.flatnonzero(archive.radius >= radius):
            _raise(known, int(archive.index[k]), float(margins[k]), int(archive.predicted[k]))
        for r in own:
            if r["radius"] >= radius:
                _raise(known, r["index"], just_enough(r["alpha"]), r["predicted"])
        result.append(known)
    return result


def _raise(known: Margins, index: int, margin: float, predicted: int) -> None:
    if margin > known.margin[index]:
        known.margin[index], known.predicted[index] = margin, predicted


def just_enough(alpha: float) -> float:
    """A margin that certifies at alpha and, but for rounding, at none below. Requires: alpha > 1/2."""
    margin = required_margin(alpha)
    while not bool(certifies(torch.tensor([margin], dtype=torch.float64), alpha)):
        margin = math.nextafter(margin, 2.0)
    return margin


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, eq=False)
class Swept:
    """All points, and what the pool refuted (nothing, or something is wrong)."""

    points: tuple[Point, ...]
    refuted: tuple[str, ...]


def sweep(
    found: FinishedRun,
    alphas: tuple[float, ...],
    temperatures: tuple[float, ...],
    radii: tuple[float, ...],
    attack_steps: int,
) -> Swept:
    """Every (alpha, T, radius)."""
    inputs, labels = torch.from_numpy(found.data.inputs), torch.from_numpy(found.data.labels)
    clean = logits_of(found.standard.module, found.robust.module, inputs)
    pools = [_pool(found, inputs, labels, alphas, temperatures, r, attack_steps) for r in radii]
    points: list[Point] = []
    refuted: list[str] = []
    for temperature in temperatures:
        for radius, margins, pool in zip(radii, margins_at(found, temperature, radii), pools, strict=True):
            for alpha in alphas:
                points.append(_point(clean, labels, margins, pool, alpha, temperature, radius))
                refuted += _refuted(found, margins, pool, alpha, temperature, radius)
    return Swept(tuple(points), tuple(refuted))


def _pool(
    found: FinishedRun,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    alphas: tuple[float, ...],
    temperatures: tuple[float, ...],
    radius: float,
    steps: int,
) -> Pool | None:
    if not steps:
        return None
    s, n = found.settings, len(alphas)
    few = (alphas[k] for k in (n // 6, n // 2, n - 1 - n // 6))
    corners = sorted(set(itertools.product(few, (temperatures[0], temperatures[-1]))))
    return make_pool(
        found.standard.module, found.robust.module, corners, inputs, labels, s.norm, radius, s.domain, steps, s.seed
    )


def _point(
    clean: Logits,
    labels: torch.Tensor,
    margins: Margins,
    pool: Pool | None,
    alpha: float,
    temperature: float,
    radius: float,
) -> Point:
    right = clean.correct(labels, alpha, temperature)
    certified = margins.certified(alpha)
    attacked = None if pool is None else _percent((right & pool.survived(labels, alpha, temperature)).numpy())
    correct = certified & (margins.predicted == labels.numpy())
    return Point(alpha, temperature, radius, _percent(right.numpy()), _percent(certified), _percent(correct), attacked)


def _percent(hits: Bools) -> float:
    return 100.0 * float(np.mean(hits))


def _refuted(
    found: FinishedRun, margins: Margins, pool: Pool | None, alpha: float, temperature: float, radius: float
) -> list[str]:
    """Points of the pool at which a mix, rigorously evaluated, leaves the class its bounds certify."""
    if pool is None or found.robust.network is None:
        return []
    certified, y, s = margins.certified(alpha), torch.from_numpy(margins.predicted), found.settings
    result: list[str] = []
    for points, logits in zip(pool.points, pool.logits, strict=True):
        left = ~logits.correct(y, alpha, temperature).numpy()
        for k in np.flatnonzero(certified & left).tolist():
            answer = confirm(
                points[k].numpy(), found.data.inputs[k], radius, s.norm, s.domain,
                found.standard.network, found.robust.network, alpha, temperature, int(y[k]),
            )  # fmt: skip
            if isinstance(answer, Confirmed):
                where = f"alpha {alpha!r}, temperature {temperature!r}, radius {radius!r}"
                result.append(f"input {k}, {where}: class {answer.rival} beats the certified class {int(y[k])}")
    return result
