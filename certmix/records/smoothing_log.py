"""Certification logs of smoothed classifiers, read to their digits, and the radii of a mix that follow from one.

A log is a tab-separated file in the style of Cohen et al. 2019: a header idx label predict radius correct time and one
line per input; radius = σ Φ⁻¹(lower confidence bound of h_y), predict −1 an abstention. Nothing is known of g: what
follows holds for every standard model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from certmix.errors import UsageError
from certmix.formatting import exact, lower
from certmix.theorems import smoothing as theorem

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
NEEDED = ("label", "predict", "radius")
LARGEST_RATIO = 6  # of radius to noise: the public logs stay below 3.9
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
Array = NDArray[np.float64]
UNKNOWN = -1  # index of an image whose idx is no number


@dataclass(frozen=True)
class LogCurve:
    """accuracy: certified accuracies in percent, one per radius; largest: the largest certified radius of a correct
    input, None if there is none."""

    accuracy: tuple[float, ...]
    largest: float | None


@dataclass(frozen=True)
class Precision:
    """How a column of numbers was printed. significant, decimals: the most of either that any number shows.

    Printers drop zeros at the end, so that 1.9 stands for 1.90 in a column that also holds 1.91. A column keeps either
    its significant digits or its decimals; which is not known, so the coarser of the two units counts. A format with
    more digits than any number of the column shows has a finer unit still: what is inferred errs to the safe side.
    """

    significant: int
    decimals: int

    @classmethod
    def of(cls, column: Sequence[Decimal]) -> Precision:
        """That of finite numbers as printed; zeros say nothing of significant digits."""
        return cls(
            max((_significant(v) for v in column if v), default=1), max((_decimals(v) for v in column), default=0)
        )

    def least(self, printed: Decimal) -> float:
        """The least value that prints as `printed`, rounded down: half a unit of the column's last digit below.

        Requires that the column holds `printed`: then this is at least what its own digits alone would give."""
        fixed = -self.decimals
        unit = fixed if not printed else max(fixed, printed.adjusted() - self.significant + 1)
        exact = printed - Decimal(5).scaleb(unit - 1)
        value = float(exact)
        return value if Decimal(value) <= exact else math.nextafter(value, -math.inf)


@dataclass(frozen=True, eq=False)
class Log:
    """radius: (N,) certified radii of h's class, each reduced by half a unit of the column's last digit; -inf where h
    abstained. labels, predicted: (N,) classes, predicted −1 where h abstained. index: (N,) of the images, the line's
    own number where the log has no column idx, −1 where that is no number. noise_std: σ of the log. source: the file.
    precision: of radii."""

    radius: Array
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    index: NDArray[np.int64]
    noise_std: float
    source: str
    precision: Precision

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,) h did not abstain, and its class is the label."""
        return self.predicted == self.labels

    def pick(self, where: NDArray[np.bool_]) -> Log:
        """The log of the inputs in the mask `where`."""
        parts = {name: getattr(self, name)[where] for name in ("radius", "labels", "predicted", "index")}
        return replace(self, **parts)


def read_log(path: str | Path, noise_std: float, as_printed: bool = False) -> Log:
    """as_printed: take radii as they are, which may overstate them by half a unit of their last digit.

    Raises UsageError: no such file, a column missing, a line that does not fit, noise_std <= 0, or a radius of more
    than LARGEST_RATIO times noise_std, which is not the log's: a vote share of Φ(6) takes over 5e9 samples to show."""
    path = Path(path)
    if not (math.isfinite(noise_std) and noise_std > 0):
        raise UsageError(f"noise_std must be > 0, got {noise_std}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not a text file") from None
    header = lines[0].split("\t") if lines else []
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise UsageError(f"{path}: column {missing[0]!r} is missing; a log has the columns {' '.join(COLUMNS)}")
    inputs = [
        _row(path, number, line, header, noise_std) for number, line in enumerate(lines[1:], start=2) if line.strip()
    ]
    if not inputs:
        raise UsageError(f"{path}: holds no inputs")
    precision = Precision.of([row.radius for row in inputs if row.predicted >= 0])
    radii = [
        -math.inf if r.predicted < 0 else float(r.radius) if as_printed else precision.least(r.radius) for r in inputs
    ]
    index = [number if row.index is None else row.index for number, row in enumerate(inputs)]
    labels, predicted = np.array([row.label for row in inputs]), np.array([row.predicted for row in inputs])
    return Log(np.array(radii), labels, predicted, np.array(index), noise_std, str(path), precision)


@dataclass(frozen=True)
class _Row:
    """radius: as printed. predicted: −1 where h abstained. index: None where the log has no such column."""

    label: int
    predicted: int
    radius: Decimal
    index: int | None


def _row(path: Path, number: int, line: str, header: list[str], noise_std: float) -> _Row:
    cells = line.split("\t")
    if len(cells) != len(header):
        raise UsageError(f"{path}, line {number}: has {len(cells)} columns, the header has {len(header)}")
    cell = dict(zip(header, cells, strict=True))
    try:
        label, predict, radius = int(cell["label"]), int(cell["predict"]), Decimal(cell["radius"])
    except (ValueError, InvalidOperation):
        raise UsageError(f"{path}, line {number}: label, predict and radius must be numbers: {line!r}") from None
    if not radius.is_finite() or radius < 0:
        raise UsageError(f"{path}, line {number}: radius must be >= 0 and finite, got {cell['radius']}")
    index = (int(cell["idx"]) if cell["idx"].isdecimal() else UNKNOWN) if "idx" in cell else None
    if predict < -1 or label < 0:
        raise UsageError(f"{path}, line {number}: classes are >= 0, or -1 for an abstention: {line!r}")
    if predict == -1:
        return _Row(label, -1, radius, index)
    if radius > LARGEST_RATIO * Decimal(noise_std):
        raise UsageError(
            f"{path}, line {number}: radius {cell['radius']} is {lower(float(radius) / noise_std, 3)} times the noise "
            f"{exact(noise_std)}, and no feasible number of samples gives more than {LARGEST_RATIO}: state the "
            "noise_std that the log was made with"
        )
    return _Row(label, predict, radius, index)


def _significant(printed: Decimal) -> int:
    return len(printed.as_tuple().digits)


def _decimals(printed: Decimal) -> int:
    exponent = printed.as_tuple().exponent
    if not isinstance(exponent, int):
        raise TypeError("excluded: the number is finite")
    return max(0, -exponent)


def mix_radii(log: Log, alpha: float) -> dict[str, Array]:
    """Radii (N,) of the mix's class by every theorem, from h_y >= Φ(radius/σ) and h_i <= 1 − h_y."""
    h_y = ndtr(log.radius / log.noise_std)
    sigma = log.noise_std
    return {
        "theorem_3_5_paper": theorem.theorem_3_5_radius(h_y, 1 - h_y, alpha, sigma, "paper"),
        "theorem_3_5": theorem.theorem_3_5_radius(h_y, 1 - h_y, alpha, sigma, "tight"),
        "theorem_3_7": theorem.theorem_3_7_radius(h_y, 1 - h_y, alpha, sigma),
        "direct": log.radius - theorem.direct_price(alpha, sigma),
    }


def accuracy(radii: Array, correct: NDArray[np.bool_], at: float) -> float:
    """Certified accuracy in percent: correct, and certified with a radius strictly above `at`."""
    return 100.0 * float(np.mean((radii > at) & correct))


def curves(log: Log, alpha: float, at: tuple[float, ...] = RADII) -> dict[str, LogCurve]:
    """The curve of every theorem at the radii `at`."""
    curve_by_theorem: dict[str, LogCurve] = {}
    for name, radii in mix_radii(log, alpha).items():
        kept = radii[log.correct & (radii > 0)]
        shares = tuple(accuracy(radii, log.correct, r) for r in at)
        curve_by_theorem[name] = LogCurve(shares, float(kept.max()) if len(kept) else None)
    return curve_by_theorem
