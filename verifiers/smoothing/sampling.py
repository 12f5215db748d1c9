"""Noisy outputs of a base model, reproducibly: the noise of (seed, input, stage, draw) is one fixed grid vector.

Why the noise is integer: with float noise the sum x + ξ rounds differently at x and at a neighbour, and
certificates built on it have been refuted (Jin et al. 2022; Voráček & Hein 2023). Here the base model is
preceded by q, rounding to multiples of 1/grid, and x's own grid point is the centre, so that
q(centre + ξ) = centre + q(ξ) exactly and only q(ξ), an integer vector, is ever drawn. Its law is sampled by inversion
of 64-bit words against thresholds computed in ball arithmetic; `sampler_share` bounds all that is left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from flint import arb, ctx
from numpy.typing import NDArray
from torch import Tensor, nn

from verifiers.engine import EngineError
from verifiers.smoothing import philox

Outputs = NDArray[np.float64] | Tensor  # float64; a tensor where outputs stay on the device
TAIL = 9.0  # standard deviations kept: Φ(−9) is 2 units of 2^-64
TOP_BITS = 16
UNDECIDED = np.int32(-(2**31))
LEAST = -(2**63)


class SamplingError(EngineError):
    """The base model's outputs, or the noise asked for, cannot be used: the text says why."""


@functools.lru_cache(maxsize=8)
def noise_thresholds(noise_std: float, grid: int) -> NDArray[np.uint64]:
    """⌊2^64 Φ((j + ½)/(σ grid))⌋ for j = −J … J−1, increasing; J = ⌊9 σ grid⌋."""
    cutoff = math.floor(TAIL * noise_std * grid)
    with ctx.workprec(160):
        scale = -1 / (arb(noise_std) * grid * arb(2).sqrt())
        masses = [(scale * (arb(j) + arb(0.5))).erfc() / 2 for j in range(-cutoff, cutoff)]
        return np.array([int((m * arb(2) ** 64).mid().floor().fmpz()) for m in masses], dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class GridNoise:
    """q(ξ) for ξ ~ N(0, noise_std² I), in units of 1/grid: int32, from a counter-based generator (Philox).

    Raises SamplingError where the grid is too coarse for the noise, or the table too large.
    """

    noise_std: float
    grid: int

    def __post_init__(self) -> None:
        steps = self.noise_std * self.grid
        if not (math.isfinite(self.noise_std) and self.noise_std > 0):
            raise SamplingError(f"noise_std must be > 0, got {self.noise_std}")
        if not 1 <= steps <= 2**14:
            raise SamplingError(
                f"noise_std * grid must lie in [1, 16384], got {steps:g}: choose grid near {255 / self.noise_std:.0f}"
            )

    @property
    def sampler_distance(self) -> float:
        """Bound of the total variation between one drawn coordinate and q(ξ)'s: a unit per threshold and the tails."""
        return (len(noise_thresholds(self.noise_std, self.grid)) + 8) * 2.0**-64

    def sampler_share(self, draws: int, size: int) -> float:
        """Probability that a sample of so many vectors differs anywhere from an exact one, rounded up."""
        return draws * size * self.sampler_distance * (1 + 1e-9)

    def draw(self, seed: int, index: int, stage: int, start: int, count: int, size: int) -> NDArray[np.int32]:
        """Draws start … start + count − 1 of the input: (count, size). Draws depend on nothing else."""
        blocks = -(-size // 4)
        key = np.array([seed % 2**64, index], dtype=np.uint64)
        counter = np.array([start * blocks, 0, 0, stage], dtype=np.uint64)
        words = np.random.Philox(key=key, counter=counter).random_raw(count * blocks * 4)
        return self._invert(words.reshape(count, blocks * 4)[:, :size])

    def draw_on(
        self, device: torch.device, seed: int, index: int, stage: int, start: int, count: int, size: int
    ) -> Tensor:
        """`draw` by integer arithmetic on `device`: the same numbers, (count, size) int32."""
        blocks = -(-size // 4)
        drawn = philox.words(seed % 2**64, index, stage, start * blocks, count * blocks, device)
        thresholds, table = (torch.from_numpy(x).to(device) for x in _on_device(self.noise_std, self.grid))
        flat = drawn.reshape(count, blocks * 4)[:, :size].flatten()
        values = table[philox.logical_shift(flat, 64 - TOP_BITS)]
        where = (values == int(UNDECIDED)).nonzero().flatten()
        found = torch.searchsorted(thresholds, flat[where] ^ LEAST, right=True) - len(thresholds) // 2
        values[where] = found.to(torch.int32)
        return values.reshape(count, size)

    def _invert(self, words: NDArray[np.uint64]) -> NDArray[np.int32]:
        """#{thresholds <= word} − J: by table where the top bits decide, else by search."""
        thresholds, table = _inversion_table(self.noise_std, self.grid)
        flat = words.ravel()
        values = table[(flat >> np.uint64(64 - TOP_BITS)).astype(np.intp)]
        where = np.flatnonzero(values == UNDECIDED)
        values[where] = np.searchsorted(thresholds, flat[where], side="right") - len(thresholds) // 2
        return values.reshape(words.shape)


@functools.lru_cache(maxsize=8)
def _inversion_table(noise_std: float, grid: int) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """(thresholds, the value for each setting of the top bits; UNDECIDED where a threshold falls inside it)."""
    thresholds = noise_thresholds(noise_std, grid)
    first = np.arange(2**TOP_BITS, dtype=np.uint64) << np.uint64(64 - TOP_BITS)
    last = first + np.uint64(2 ** (64 - TOP_BITS) - 1)
    below = np.searchsorted(thresholds, first, side="right")
    decided = below == np.searchsorted(thresholds, last, side="right")
    return thresholds, np.where(decided, below - len(thresholds) // 2, UNDECIDED).astype(np.int32)


@functools.lru_cache(maxsize=8)
def _on_device(noise_std: float, grid: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """`_inversion_table`, the thresholds less 2^63: as int64 in the order of uint64."""
    thresholds, table = _inversion_table(noise_std, grid)
    return (thresholds ^ np.uint64(2**63)).view(np.int64), table


def grid_points(inputs: NDArray[np.float32], grid: int) -> NDArray[np.int64]:
    """The grid point of each coordinate, rint(x grid): exact in float64 for grid <= 65536."""
    return np.rint(inputs.astype(np.float64) * grid).astype(np.int64)


def grid_distance(value: NDArray[np.float32], grid: int) -> float:
    """‖x − rint(x grid)/grid‖₂, rounded up."""
    scaled = value.astype(np.float64).ravel() * grid
    return float(np.linalg.norm(scaled - np.rint(scaled))) / grid * (1 + 1e-9)


@dataclass(frozen=True, eq=False)
class Base:
    """The base output v̄: h̄ of `robust`, or (1 − alpha) ḡ + alpha h̄ if `standard` is given.

    kind "soft": softmax, of temperature * logits for `robust`; "hard": one-hot argmax, lowest index among ties.
    returns: what the modules give; "probabilities" are taken as they are ("soft") or voted on ("hard").
    precision "bfloat16": autocast, on the base model only. resident: noise, outputs and what is counted of them stay on
    the device, None: where that is CUDA; else noise is numpy's, and outputs come to the processor as arrays.
    """

    robust: nn.Module
    kind: Literal["soft", "hard"] = "soft"
    temperature: float = 1.0
    standard: nn.Module | None = None
    alpha: float = 1.0
    returns: Literal["logits", "probabilities"] = "logits"
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    resident: bool | None = None

    @property
    def stays(self) -> bool:
        """Whether all is done on the device."""
        return torch.device(self.device).type == "cuda" if self.resident is None else self.resident

    def outputs(self, points: Tensor) -> Outputs:
        """(B, *shape) float32 -> v̄ (B, K) float64. Raises SamplingError for NaN, or probabilities out of [0, 1]."""
        values = self._of(self.robust, points, self.temperature)
        if self.standard is not None:
            values = (1 - self.alpha) * self._of(self.standard, points, 1.0) + self.alpha * values
        return values if self.stays else values.numpy()

    def _of(self, module: nn.Module, points: Tensor, temperature: float) -> Tensor:
        """Where outputs stay; else on the processor."""
        device = torch.device(self.device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, self.precision == "bfloat16"):
            raw = module(points.to(device))
            values = (raw if self.stays else raw.cpu()).double()
            if not bool(values.isfinite().all()):
                raise SamplingError("the base model returned a value that is not finite for a noisy input")
            if self.returns == "probabilities":
                low, high, total = float(values.min()), float(values.max()), float((values.sum(1) - 1).abs().max())
                if low < 0 or high > 1 or total > 1e-3:
                    raise SamplingError(
                        f"the base model's probabilities must lie in [0, 1] and add up to 1, got values in "
                        f"[{low:g}, {high:g}] and sums up to {total:g} off: pass a model of logits, or returns='logits'"
                    )
            if self.kind == "hard":  # of tied classes torch's argmax is the lowest
                return nn.functional.one_hot(values.argmax(dim=1), values.shape[1]).double()
            if self.returns == "probabilities":
                return values
            if self.stays:
                return torch.softmax(temperature * values, dim=1)
            return torch.from_numpy(softmax(temperature * values.numpy()))


def on_processor(outputs: Outputs) -> NDArray[np.float64]:
    """Outputs as an array, wherever they are."""
    return outputs.cpu().numpy() if isinstance(outputs, Tensor) else outputs


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row-wise, in float64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Job:
    """Draws start … stop − 1 of the input in row `row`, whose noise is keyed by `index`."""

    row: int
    index: int
    start: int
    stop: int


SELECTION, CERTIFYING = 0, 1  # stages: independent streams


def sample(
    base: Base,
    noise: GridNoise,
    centres: NDArray[np.int64],
    jobs: Sequence[Job],
    seed: int,
    stage: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Job, Outputs]]:
    """Base outputs of every job's draws, in order, in pieces: (part of a job, v̄ (part.stop − part.start, K)).

    centres: (N, *shape) grid points. Batches hold draws of several jobs where jobs are short. Memory: two batches.
    """
    cutoff = len(noise_thresholds(noise.noise_std, noise.grid)) // 2
    if centres.size and int(np.abs(centres).max()) + cutoff >= 2**24:
        raise SamplingError(
            f"inputs are too large for the grid: |x| * {noise.grid} must stay below 2^24: choose a smaller grid"
        )
    total, done = sum(job.stop - job.start for job in jobs), 0
    for parts, points in _ahead(base, noise, centres, _batches(jobs, batch_size), seed, stage):
        outputs = base.outputs(points)
        offset = 0
        for part in parts:
            size = part.stop - part.start
            yield part, outputs[offset : offset + size]
            offset += size
        done += offset
        if progress is not None:
            progress(done, total)


def _ahead(
    base: Base, noise: GridNoise, centres: NDArray[np.int64], batches: Iterator[list[Job]], seed: int, stage: int
) -> Iterator[tuple[list[Job], Tensor]]:
    """Each batch with its noisy points: on the base's device, or by numpy, a batch ahead in a thread of its own."""
    device = torch.device(base.device)

    def points(parts: list[Job]) -> Tensor:
        if not base.stays:
            return torch.from_numpy(np.concatenate([_points(noise, centres[p.row], p, seed, stage) for p in parts]))
        return torch.cat([points_on(device, noise, centres[p.row], p, seed, stage) for p in parts])

    with ThreadPoolExecutor(1) as executor:
        waiting: tuple[list[Job], Future[Tensor]] | None = None
        for parts in batches:
            following = parts, executor.submit(points, parts)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _batches(jobs: Sequence[Job], batch_size: int) -> Iterator[list[Job]]:
    parts: list[Job] = []
    room = batch_size
    for job in jobs:
        start = job.start
        while start < job.stop:
            stop = min(job.stop, start + room)
            parts.append(Job(job.row, job.index, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield parts
                parts, room = [], batch_size
    if parts:
        yield parts


def _points(noise: GridNoise, centre: NDArray[np.int64], part: Job, seed: int, stage: int) -> NDArray[np.float32]:
    """The float32 nearest to each noisy grid point: one IEEE division of two integers below 2^24."""
    drawn = noise.draw(seed, part.index, stage, part.start, part.stop - part.start, centre.size)
    values = (drawn + centre.ravel().astype(np.int32)).astype(np.float32)
    values /= np.float32(noise.grid)
    return values.reshape(-1, *centre.shape)


def points_on(
    device: torch.device, noise: GridNoise, centre: NDArray[np.int64], part: Job, seed: int, stage: int
) -> Tensor:
    """`_points` on `device`: the same bits, for an IEEE division of integers that float32 holds exactly."""
    drawn = noise.draw_on(device, seed, part.index, stage, part.start, part.stop - part.start, centre.size)
    moved = drawn + torch.from_numpy(centre.ravel().astype(np.int32)).to(device)
    return (moved.float() / torch.tensor(float(noise.grid), device=device)).reshape(-1, *centre.shape)
