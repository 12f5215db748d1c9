"""Lines, networks and folders damaged at random end in a verdict with a reason, and no false claim is accepted."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import exact_network as en
import hostile as ho
import numpy as np
import pytest
from every_rule import CASE, CERTIFICATES, LINES, G, H, X, abstained, claim_of
from scipy import stats

from certmix.records.lines import certificate_line
from proofs_check import __main__ as command
from proofs_check import certificate as c
from proofs_check import judge
from proofs_check.certificate import Accepted, Assumption, Claim, MalformedError, Rejected
from proofs_check.kernel import bounds
from proofs_check.reading import folder, parse
from proofs_check.rules import EVIDENCE, RULES
from proofs_check.rules.margin.rule import NetworkMargin
from proofs_check.rules.smoothing import (
    SmoothedDistribution,
    SmoothedMeans,
)
from proofs_check.rules.stopped import StoppedMeans

F32 = np.float32


HERE = Path(__file__).resolve().parent


# ---------------------------------------------------------------- one valid certificate of every rule


def test_there_is_an_accepted_certificate_of_every_rule():
    assert set(CERTIFICATES) == set(RULES)
    for name, line in LINES.items():
        found = judge.check_bytes(line, H, G, X)
        assert isinstance(found, Accepted), (name, found)


# ---------------------------------------------------------------- fuzzed lines


def corners(claim: Claim) -> list[en.Exact]:
    """Points of the claimed ball: the centre, corners, and the ends of some directions."""
    rng = np.random.default_rng(0)
    return en.points(rng, CASE.ball(claim), [rng.normal(size=3) for _ in range(6)])


def smoothing_follows(claim: Claim, evidence: SmoothedMeans | SmoothedDistribution | StoppedMeans) -> bool:
    """FORMAT 8 once more in scipy's floats: x is on the grid but for float32, so 1e-6 covers its distance."""
    smoothing, means = claim.smoothing, not isinstance(evidence, SmoothedDistribution)
    assert smoothing is not None
    parts: list[Any] = [g.complement for g in evidence.groups] if means else [g.tail for g in evidence.groups]
    parts = [p for p in ([evidence.predicted, *parts] if means else parts) if p is not None]
    spent = sum(p.share * (1 if means else len(p.thresholds)) for p in parts)
    if isinstance(evidence, StoppedMeans):
        draws, allowed, total = evidence.sample.samples, 1.0, spent
        assert all(p.bets for p in parts)
    else:
        look = evidence.sample.looks[evidence.sample.look]
        draws, allowed, total = look.samples, look.share, sum(x.share for x in evidence.sample.looks)
    total += evidence.sample.sampler_share
    ok = spent <= allowed * (1 + 1e-9) and total <= smoothing.failure_probability * (1 + 1e-9)
    for p in parts:
        counts = np.sum(p.counts, axis=0)
        if means and p.bets:
            cells = -np.diff([draws, *counts, 0])
            gains = np.array([0.0, *p.thresholds]) - p.lower
            capital = [np.exp(cells @ np.log1p(b * gains)) for b in p.bets]
            ok = ok and np.mean(capital) * p.share >= 1 - 1e-6
        else:
            lower = [p.lower] if means else p.lower
            tails = stats.binom.sf(counts - 1, draws, lower)
            ok = ok and all(t <= p.share * (1 + 1e-6) or v == 0 for t, v in zip(tails, lower, strict=True))
    shift = claim.radius / smoothing.noise_std

    def sunk(p: Any) -> Any:
        return stats.norm.cdf(stats.norm.ppf(p) - shift)

    if not isinstance(evidence, SmoothedDistribution):
        of_y = sunk(evidence.predicted.lower)
        margins = [of_y + (of_y if g.complement is None else sunk(g.complement.lower)) - 1 for g in evidence.groups]
    else:
        margins = [np.diff([-1, *p.thresholds]) @ sunk(np.array(p.lower)) - 1 for p in parts]
    required = 0 if smoothing.networks == "both" else (1 - claim.alpha) / claim.alpha
    named = {i for g in evidence.groups for i in g.classes}
    return bool(ok) and min(margins) > required - 1e-5 and named == {0, 1, 2} - {claim.predicted}


def outcome_of(data: bytes) -> str:
    """malformed, rejected, or accepted and not refuted; anything else fails the test."""
    try:
        found = parse.line(data, EVIDENCE)
    except MalformedError as error:
        return "malformed" if error.place and error.reason else "malformed without a reason"
    if not isinstance(found, parse.Certificate):
        return "not certified"
    reached = judge.check(found, CASE)
    if isinstance(reached, Rejected):
        return "rejected" if reached.step and reached.reason else "rejected without a reason"
    if isinstance(found.evidence, SmoothedMeans | SmoothedDistribution | StoppedMeans):
        assert smoothing_follows(found.claim, found.evidence), data
    elif Assumption.ENGINE_TRUSTED not in reached.assumptions:
        standard = None if found.claim.standard is None else G
        assert not any(ho.refuted(found.claim, H, standard, p) for p in corners(found.claim)), data
    return "accepted"


SOURCES = [*LINES.values(), abstained("too small")]


def a_forged_line(rng: ho.Rng) -> str:
    source = SOURCES[int(rng.integers(len(SOURCES)))]
    kind = int(rng.integers(8))
    if kind == 0:
        return outcome_of(ho.flipped(rng, source))
    if kind == 1:
        return outcome_of(ho.resealed_flip(rng, source))
    value = json.loads(source)
    if kind == 2:  # the evidence of one rule under the claim of another
        value["evidence"] = json.loads(LINES[sorted(LINES)[int(rng.integers(len(LINES)))]])["evidence"]
    return outcome_of(ho.sealed(ho.mutated(rng, value)))


def test_forged_lines_of_every_rule_end_in_a_verdict_and_none_is_false():
    found = ho.attempts(1_600, 0, a_forged_line)
    assert set(found) == {"malformed", "rejected", "accepted", "not certified"}


@pytest.mark.slow
def test_80000_forged_lines_end_in_a_verdict_and_none_is_false():
    assert set(ho.attempts(80_000, 10_000, a_forged_line)) == {"malformed", "rejected", "accepted", "not certified"}


# ---------------------------------------------------------------- fuzzed networks


def _zoo() -> list[bytes]:
    rng = np.random.default_rng(0)
    nets = [en.random_network(rng, 6).data for _ in range(12)]
    return [*nets, H.data]


ZOO = _zoo()


def a_forged_network(rng: ho.Rng) -> str:
    """Parsed, prepared and judged, whatever it has become."""
    try:
        network = parse.network(ho.mutated_network(rng, ZOO[int(rng.integers(len(ZOO)))]))
    except MalformedError:
        return "malformed"
    if sum(map(np.prod, network.shapes)) > 2**16 or network.classes > 64:
        return "large"  # read, and too slow for a test
    x = rng.uniform(size=network.input_shape).astype(F32)
    claim = claim_of(
        network, x, norm=("Linf", "L2", "L1")[int(rng.integers(3))], radius=0.1 * float(rng.uniform()), alpha=1.0
    )
    line = certificate_line(0, 0, "margin", claim, "network_margin", NetworkMargin(None))
    found = judge.check_bytes(line, network, None, x)
    curved = any(isinstance(node, c.Sigmoid | c.Tanh) for node in network.nodes)  # exact values may need many digits
    if isinstance(found, Accepted) and not curved:
        where = bounds.Ball(x, claim.radius, claim.norm, None)
        points = en.points(rng, where, [rng.normal(size=x.shape) for _ in range(3)])
        assert not any(ho.refuted(claim, network, None, p) for p in points)
    return type(found).__name__


def test_forged_networks_are_malformed_or_judged():
    found = ho.attempts(300, 0, a_forged_network)
    assert found["malformed"] > 0
    assert found["Rejected"] > 0


@pytest.mark.slow
def test_15000_forged_networks_are_malformed_or_judged():
    assert sum(ho.attempts(15_000, 10_000, a_forged_network).values()) == 15_000


# ---------------------------------------------------------------- fuzzed folders


RUN = HERE / "accepted" / "margin_linf"


PARTS = ("run.json", "inputs.npz", "certificates.jsonl")


def damaged_part(rng: ho.Rng, name: str) -> bytes:
    data = (RUN / name).read_bytes()
    if name == "inputs.npz" and rng.integers(3):
        return a_zip(rng, data)
    if name == "run.json" and rng.integers(2):
        return ho.sealed(ho.mutated(rng, json.loads(data)))
    return ho.flipped(rng, data)


def a_zip(rng: ho.Rng, data: bytes) -> bytes:
    """The same members, one of them damaged before it is packed."""
    buffer = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(data))
    broken = source.namelist()[int(rng.integers(2))]
    packing = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[int(rng.integers(4))]
    with zipfile.ZipFile(buffer, "w", packing) as target:
        for name in source.namelist():
            raw = source.read(name)
            target.writestr(name, ho.flipped(rng, raw[:128]) + raw[128:] if name == broken else raw)
    return buffer.getvalue()


def a_forged_folder(here: Path, rng: ho.Rng) -> str:
    """The command's verdict on a run of which one file is damaged; most often only its files are read."""
    for name in PARTS:
        (here / name).write_bytes((RUN / name).read_bytes())
    part = PARTS[int(rng.integers(len(PARTS)))]
    (here / part).write_bytes(damaged_part(rng, part))
    if rng.integers(5) == 0:
        shutil.copytree(RUN / "networks", here / "networks", dirs_exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            code = command.main([str(here)])
        assert (code == 2) == ("malformed" in shown.getvalue())
        return f"exit {code}"
    try:
        folder.need_dataset(here, folder.header(here))
        list(folder.lines(here))
    except MalformedError:
        return "malformed"
    return "read"


def test_damaged_folders_are_malformed_or_read(tmp_path: Path):
    found = ho.attempts(100, 0, lambda rng: a_forged_folder(tmp_path, rng))
    assert set(found) <= {"malformed", "read", "exit 0", "exit 2"}  # a flipped bit breaks a seal
    assert min(found["malformed"], found["exit 2"]) > 0


@pytest.mark.slow
def test_5000_damaged_folders_are_malformed_or_read(tmp_path: Path):
    assert sum(ho.attempts(5_000, 10_000, lambda rng: a_forged_folder(tmp_path, rng)).values()) == 5_000
