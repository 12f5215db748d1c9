"""One valid certificate of every rule, as claim and evidence and as a line; and small helpers for claims."""

from __future__ import annotations

import base64
import dataclasses
import struct
import zlib
from pathlib import Path
from typing import Any

import exact_network as en
import hostile as ho
import numpy as np

from certmix.records.lines import certificate_line
from proofs_check import certificate as c
from proofs_check import judge
from proofs_check.certificate import Claim, Smoothing
from proofs_check.kernel import bounds, jacobian
from proofs_check.reading import folder, parse
from proofs_check.rules.adaptive import AdaptiveMargin
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz
from proofs_check.rules.lipschitz.lipsdp import GlobalLipschitz
from proofs_check.rules.lipschitz.pair import PairLipschitz
from proofs_check.rules.lipschitz.rule import EngineRelaxedLipschitz, LocalLipschitz, RelaxedLipschitz
from proofs_check.rules.margin.branching import BranchedMargin, BranchedPair
from proofs_check.rules.margin.differences import Box
from proofs_check.rules.margin.rule import EngineMargin, NetworkMargin, PairMargin, margin_lower
from proofs_check.rules.smoothing import (
    Look,
    Mean,
    RivalMean,
    Rivals,
    Sample,
    SmoothedDistribution,
    SmoothedMeans,
    Tail,
)
from proofs_check.rules.stopped import Stopped, StoppedMeans
from verifiers.network.module import build

F32 = np.float32


def zeros(*shape: int) -> c.Float32Array:
    return np.zeros(shape, dtype=F32)


def ones(*shape: int) -> c.Float32Array:
    return np.ones(shape, dtype=F32)


def claim_of(robust: c.PlainNetwork, x: c.Float32Array, **fields: Any) -> Claim:
    plain = Claim("Linf", 0.01, 0.9, 1.0, 0, "robust", None, "real", robust.sha256, None, parse.array_sha256(x), None)
    return dataclasses.replace(plain, **fields)


def verdict(robust: c.PlainNetwork, x: c.Float32Array, **fields: Any) -> c.Verdict:
    """Of network_margin."""
    line = certificate_line(0, 0, "margin", claim_of(robust, x, **fields), "network_margin", NetworkMargin(None))
    return judge.check_bytes(line, robust, None, x)


def two_layers(seed: int) -> c.PlainNetwork:
    rng = np.random.default_rng(seed)

    def f(*shape: int) -> c.Float32Array:
        return rng.normal(size=shape).astype(F32)

    return build([c.Input((3,)), c.Linear((0,), f(4, 3), f(4)), c.Relu((1,)), c.Linear((2,), 2 * f(3, 4), f(3))])


H, G = two_layers(4), two_layers(5)


X = np.array([0.2, 0.4, 0.8], dtype=F32)  # multiples of 1/5: on the grid of 255


PREPARED = bounds.prepare(H), bounds.prepare(G)


CASE = Case(*PREPARED, X)


def _predicted() -> int:
    middle = [float(v) for v in en.exact_values(H, en.exact(X))[-1]]
    return middle.index(max(middle))


Y = _predicted()


PLAIN = claim_of(H, X, predicted=Y, domain=(0.0, 1.0), temperature=4.0, radius=0.001, standard=G.sha256)


SMOOTHED = dataclasses.replace(PLAIN, norm="L2", radius=0.1, smoothing=Smoothing(0.5, "hard", 0.001))


SLOPES = base64.b64encode(zlib.compress(bytes(range(0, 252, 9))[: 4 * 7])).decode()


# a split of neuron 1, whose second side is split at d of the class after Y; leaves of four slopes each
TREE = base64.b64encode(
    zlib.compress(
        struct.pack("<BI", 2, 1)
        + struct.pack("<B4Bf", 1, 9, 99, 0, 255, 0.5)
        + struct.pack("<BId", 3, (Y + 1) % 3, -0.25)
        + struct.pack("<B4Bff", 0, 0, 1, 0, 3, 0.0, 0.125)
        + struct.pack("<B4Bff", 0, 0, 1, 0, 3, 0.0, 0.0)
    )
).decode()


# neurons of g, then of h; d of g, then of h
PAIR_TREE = base64.b64encode(
    zlib.compress(
        struct.pack("<BId", 3, (Y + 1) % 3, 0.5)
        + struct.pack("<B8Bf", 0, *range(8), 0.25)
        + struct.pack("<B8Bf", 4, *range(8), 0.5)
    )
).decode()


def margins_at(network: int, temperature: float) -> tuple[float, ...]:
    """Of h or g at X, a little less."""
    box = Box(*bounds.difference_bounds(PREPARED[network], CASE.point(PLAIN), Y, None))
    return tuple(float(margin_lower(box, i, temperature, Y).mid()) - 0.05 if i != Y else 0.0 for i in range(3))


def certificates() -> dict[str, tuple[Claim, Any]]:
    """Per rule, a claim and evidence that is accepted."""
    rivals = tuple(i for i in range(3) if i != Y)
    values = bounds.value_bounds(PREPARED[0], CASE.ball(PLAIN), None)
    lower, upper = (tuple(map(float, b)) for b in bounds.differences(values, Y))
    local = tuple(map(float, jacobian.difference_constants(values, Y)))
    wide = tuple(0.0 if j == Y else 1e3 for j in range(3))
    multipliers = base64.b64encode(np.full((3, 4), 100.0, dtype="<f4").tobytes()).decode()
    sample = Sample(1, 10, "float32", (Look(500, 1e-4), Look(1000, 8e-4)), 1, 1e-5)
    tail = Tail((0.0, 1.0), ((500, 499), (498, 498)), (0.98, 0.975), 3e-4)
    soft = Mean((0.5, 0.9), ((500, 495), (500, 490)), (0.5, 1.0), 0.85, 3e-4)
    votes = Mean((1.0,), ((499,), (498,)), (), 0.98, 3e-4)
    stopped = Stopped(1, 10, "float32", 1000, 4000, 1e-5)
    bets = Mean((1.0,), ((500,), (497,)), (0.5, 0.9), 0.97, 3e-4)
    tiny = dataclasses.replace(PLAIN, radius=1e-6, norm="L2", domain=None)
    adaptive = c.Adaptive(c.InputAlpha(None, PLAIN.alpha, 1.0), c.Transform(4.0, 2.0, True))
    return {
        "adaptive_margin": (dataclasses.replace(PLAIN, adaptive=adaptive), AdaptiveMargin(SLOPES, None)),
        "branched_margin": (PLAIN, BranchedMargin(SLOPES, tuple(TREE if j == rivals[0] else None for j in range(3)))),
        "branched_pair": (
            dataclasses.replace(PLAIN, class_of="robust"),
            BranchedPair(None, tuple(None if j == Y else PAIR_TREE for j in range(3))),
        ),
        "engine_lipschitz_relaxed": (PLAIN, EngineRelaxedLipschitz("an engine", lower, upper)),
        "engine_margin": (PLAIN, EngineMargin("an engine", lower, upper)),
        "lipschitz_global": (tiny, GlobalLipschitz("4a", wide, multipliers)),
        "lipschitz_layers": (tiny, LayerLipschitz("4a", wide)),
        "lipschitz_local": (PLAIN, LocalLipschitz("3.5", local, SLOPES)),
        "lipschitz_pair": (
            dataclasses.replace(tiny, class_of="mix"),
            PairLipschitz(
                LocalLipschitz("4a", wide, SLOPES),
                LocalLipschitz("4a", wide, None),
                margins_at(0, 4.0),
                margins_at(1, 1.0),
            ),
        ),
        "lipschitz_relaxed": (PLAIN, RelaxedLipschitz(None)),
        "network_margin": (PLAIN, NetworkMargin(SLOPES)),
        "pair_margin": (PLAIN, PairMargin(SLOPES, None)),
        "smoothed_distribution": (SMOOTHED, SmoothedDistribution(sample, (Rivals(rivals, tail),))),
        "smoothed_means": (
            SMOOTHED,
            SmoothedMeans(sample, votes, (RivalMean(rivals[:1], soft), RivalMean(rivals[1:], None))),
        ),
        "stopped_means": (
            SMOOTHED,
            StoppedMeans(stopped, bets, (RivalMean(rivals[:1], soft), RivalMean(rivals[1:], None))),
        ),
    }


CERTIFICATES = certificates()


LINES = {
    name: certificate_line(0, 0, "margin", claim, name, evidence) for name, (claim, evidence) in CERTIFICATES.items()
}


def abstained(reason: str) -> bytes:
    record = {"format": c.FORMAT, "index": 0, "label": 0, "method": "margin", "outcome": "abstained", "class_of": "mix"}
    found = {"alpha": 0.9, "norm": "Linf", "radius": None, "predicted": 0, "advice": "", "counterexample": None}
    return ho.sealed({**record, **found, "reason": reason, "confirmed": False})


def out_of_range() -> c.PlainNetwork:
    """A gain beyond the range of the judge's error bounds."""
    norm = c.BatchNorm((0,), ones(2) * F32(2.0**100), ones(2), ones(2), zeros(2), 5e-324)
    return build([c.Input((2,)), norm])


def a_run(here: Path, network: c.PlainNetwork, lines: list[bytes], x: c.Float32Array) -> Path:
    """A folder with one input, h = g = network."""
    (here / "networks").mkdir()
    (here / "networks" / f"{network.sha256}.safetensors").write_bytes(network.data)
    np.savez(here / "inputs.npz", inputs=x[None], labels=np.zeros(1, dtype=np.int64))
    dataset = folder.DatasetDigest()
    dataset.add(folder.Row(x, 0))
    header = {"format": c.RUN_FORMAT, "standard": None, "robust": network.sha256, "dataset": dataset.hexdigest()}
    (here / "run.json").write_bytes(ho.sealed({**header, "count": 1, "settings": {}}))
    (here / "certificates.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return here
