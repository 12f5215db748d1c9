"""A random part of a run's noise draws, drawn again and counted again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from certmix.errors import UsageError
from certmix.provers.smoothing.base_model import usable
from certmix.provers.smoothing.plan import MeanKind, Statistic
from certmix.provers.smoothing.tally import block_size
from certmix.runs.finished import kept
from proofs_check.certificate import ModelFile
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE
from proofs_check.rules.smoothing import Mean, SmoothedDistribution, SmoothedMeans
from proofs_check.rules.stopped import StoppedMeans
from verifiers.network.module import PlainModule
from verifiers.smoothing import sampling
from verifiers.smoothing.sampling import Base, GridNoise, Job

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stated:
    """A statistic of one certificate, and its stated counts (blocks, thresholds)."""

    statistic: Statistic
    counts: Counts


@dataclass(frozen=True)
class Taken:
    """The certifying draws: the first `draws` of at most `most`."""

    seed: int
    precision: Literal["float32", "bfloat16"]
    draws: int
    most: int


@dataclass(frozen=True)
class Replayed:
    """One certificate: draws redone, the least number of them that differ."""

    index: int
    draws: int
    differing: int


def replay(path: Path, limit: int, choice: np.random.Generator, device: str, batch_size: int) -> list[Replayed]:
    """Replay one random block of up to `limit` random certificates. Raises MalformedError, UsageError."""
    header = folder.header(path)
    folder.need_dataset(path, header)
    numbers = [c.index for c, _ in _smoothed(path)]
    if not numbers:
        raise UsageError(f"{path} holds no smoothing certificate to replay")
    chosen = set(choice.permutation(len(numbers))[:limit].tolist())
    modules = {
        model: _module(path, model).to(device) for model in (header.robust, header.standard) if model is not None
    }
    results: list[Replayed] = []
    for k, (certificate, value) in enumerate(_smoothed(path)):
        if k in chosen:
            results.append(_replay_one(certificate, value, modules, choice, device, batch_size))
    return results


def _module(path: Path, named: str | ModelFile) -> nn.Module:
    """The network, or the model in the file, that the run names. Raises MalformedError, UsageError."""
    if isinstance(named, ModelFile):
        return kept(path, named.sha256).module
    return PlainModule(folder.network(path, named)).eval()


def _smoothed(path: Path) -> Iterator[tuple[parse.Certificate, NDArray[np.float32]]]:
    for index, (data, row) in enumerate(zip(folder.lines(path), folder.rows(path), strict=False)):
        line = parse.line(data, EVIDENCE, f"input {index}")
        if isinstance(line, parse.Certificate) and line.claim.smoothing is not None:
            yield line, row.value


def stated(certificate: parse.Certificate) -> tuple[Taken, list[Stated]]:
    """What a certificate says was counted."""
    evidence = certificate.evidence
    if not isinstance(evidence, SmoothedDistribution | SmoothedMeans | StoppedMeans):
        raise UsageError(f"rule {certificate.rule} has no draws to replay")
    drawn = evidence.sample
    if isinstance(evidence, StoppedMeans):
        taken = Taken(drawn.seed, drawn.precision, evidence.sample.samples, evidence.sample.most)
    else:
        looks = evidence.sample.looks
        taken = Taken(drawn.seed, drawn.precision, looks[evidence.sample.look].samples, looks[-1].samples)
    if isinstance(evidence, SmoothedDistribution):
        return taken, [
            Stated(Statistic("difference", g.classes, g.tail.thresholds), np.array(g.tail.counts))
            for g in evidence.groups
        ]
    means: list[tuple[MeanKind, tuple[int, ...], Mean]] = [("predicted", (), evidence.predicted)]
    means.extend(("complement", g.classes, g.complement) for g in evidence.groups if g.complement is not None)
    return taken, [Stated(Statistic(k, c, m.thresholds), np.array(m.counts)) for k, c, m in means]


def _replay_one(
    certificate: parse.Certificate,
    value: NDArray[np.float32],
    modules: dict[str | ModelFile, nn.Module],
    choice: np.random.Generator,
    device: str,
    batch_size: int,
) -> Replayed:
    claim = certificate.claim
    smoothing = claim.smoothing
    if smoothing is None:
        raise TypeError("excluded: only smoothing certificates are replayed")
    taken, statements = stated(certificate)
    size, draws = block_size(taken.most), taken.draws
    blocks = -(-draws // size)
    if any(len(s.counts) != blocks for s in statements):
        raise UsageError(
            f"input {certificate.index}: counts are not in the {blocks} blocks of {size} draws of this version"
        )
    block = int(choice.integers(blocks))
    start, stop = block * size, min((block + 1) * size, draws)
    both = smoothing.networks == "both" and claim.standard is not None
    base = Base(
        robust=modules[claim.robust],
        kind=smoothing.base,
        temperature=claim.temperature,
        standard=modules[claim.standard] if both and claim.standard is not None else None,
        alpha=claim.alpha,
        precision=taken.precision,
        device=device,
    )
    noise = usable(lambda: GridNoise(smoothing.noise_std, smoothing.grid))
    centres = sampling.grid_points(value[None], smoothing.grid)
    jobs = [Job(0, certificate.index, start, stop)]
    again = [np.zeros(s.counts.shape[1], np.int64) for s in statements]
    for _, outputs in sampling.sample(base, noise, centres, jobs, taken.seed, sampling.CERTIFYING, batch_size):
        for s, counts in zip(statements, again, strict=True):
            counts += s.statistic.counts(outputs, claim.predicted)
    pairs = zip(statements, again, strict=True)
    return Replayed(certificate.index, stop - start, max(differing(s.counts[block], counts) for s, counts in pairs))


def differing(stated_tail: Counts, replayed_tail: Counts) -> int:
    """The least number of draws whose cell differs between two tables of counts at or above each threshold: half the
    distance of their cells, the cell below all thresholds included."""
    change = np.diff(np.concatenate([[0], stated_tail - replayed_tail, [0]]))
    return int(np.abs(change).sum()) // 2
