"""Attacks on the judge by a hostile reader of its code: false claims, and claims that hold by less than a rounding."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proofs_check import bounds, folder, judge, parse, run
from proofs_check import certificate as c
from proofs_check.rules import smoothing
from proofs_check.rules.case import Case
from proofs_check.rules.lipsdp import GlobalLipschitz
from verifiers.plain import build

F32 = np.float32


def array(values: object) -> c.Float32Array:
    return np.array(values, dtype=F32)


def claim_of(case: Case, **kw: Any) -> c.Claim:
    given: dict[str, Any] = {
        "norm": "L2", "radius": 0.1, "alpha": 0.9, "temperature": 1.0, "predicted": 0, "class_of": "robust",
        "domain": None, "semantics": "real", "robust": case.robust.network.sha256, "standard": None,
        "input": parse.array_sha256(case.input), "smoothing": None,
    }  # fmt: skip
    return c.Claim(**(given | kw))


def verdict(case: Case, rule: str, evidence: object, **kw: Any) -> c.Verdict:
    return judge.check(parse.Certificate(0, 0, "margin", claim_of(case, **kw), rule, evidence), case)


# ---------------------------------------------------------------- LipSDP


def test_a_max_pool_that_no_logit_sees_does_not_stand_in_for_the_logits():
    # the pool has more inputs than outputs: the rows of its input would be read as those of d_j
    nodes = [
        c.Input((1, 2, 2)),
        c.Scale((0,), array([[[1e-6]]])),
        c.MaxPool2d((1,), (2, 2), (1, 1), (0, 0, 0, 0)),
        c.Flatten((0,)),
        c.Linear((3,), array([[1, 0, 0, 0], [0, 0, 0, 0]]), array([3, 0])),
    ]
    x = np.zeros((1, 2, 2), F32)
    case = Case(bounds.prepare(build(nodes)), None, x)
    multipliers = base64.b64encode(np.ones((2, 1), "<f4").tobytes()).decode()
    found = verdict(case, "lipschitz_global", GlobalLipschitz("4a", (0.0, 1e-5), multipliers), radius=1000.0)
    assert isinstance(found, c.Rejected), "d_1 falls by 1000 within the ball"


# ---------------------------------------------------------------- what a small file must not be able to cost


def test_bets_are_few_because_each_costs_a_logarithm_per_threshold():
    levels = tuple((k + 1) / 64 for k in range(64))
    counts = (tuple(range(1000, 936, -1)),)
    smoothing._need_mean(smoothing.Mean(levels, counts, (0.5,) * 64, 0.5, 0.01), 1000)
    with pytest.raises(c.RejectedError, match="at most 64 bets"):
        smoothing._need_mean(smoothing.Mean(levels, counts, (0.5,) * 65, 0.5, 0.01), 1000)


def test_a_network_of_a_million_classes_is_covered_without_counting_them():
    padded = [c.Input((2,)), c.Pad((0,), (0,), (2**20,), 0.0)]
    case = Case(bounds.prepare(build(padded)), None, np.zeros(2, F32))
    tracemalloc.start()
    with pytest.raises(c.RejectedError, match="rivals of 0"):
        smoothing._need_cover(claim_of(case), case, [(1,)])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("named", [(0, 2), (1, 1), (1, 3), (-1, 1), (0, 1, 2), (1, 2, 3), (-1, 1, 2)])
def test_groups_name_the_rivals_and_nobody_else(named: tuple[int, ...]):
    case = Case(bounds.prepare(build([c.Input((3,)), c.Flatten((0,))])), None, np.zeros(3, F32))
    smoothing._need_cover(claim_of(case), case, [(1,), (2,)])
    with pytest.raises(c.RejectedError, match="rivals of 0"):
        smoothing._need_cover(claim_of(case), case, [named])


def test_one_network_of_alpha_is_kept_at_a_time(tmp_path: Path):
    (tmp_path / "networks").mkdir()
    networks = [build([c.Input((2,)), c.Linear((0,), k * np.eye(2, dtype=F32), np.zeros(2, F32))]) for k in range(1, 4)]
    case = Case(bounds.prepare(networks[0]), None, np.zeros(2, F32))
    bench = run.Bench(tmp_path, case.robust, None)
    for network in networks:
        (tmp_path / "networks" / f"{network.sha256}.safetensors").write_bytes(network.data)
        named = c.Adaptive(c.InputAlpha(network.sha256, 0.5, 1.0), None)
        found = bench.alpha(claim_of(case, adaptive=named))
        assert found is not None
        assert found.network.sha256 == network.sha256
        assert found is bench.alpha(claim_of(case, adaptive=named)), "read once"
        assert len(bench.alphas) == 1


def test_a_witness_is_not_unpacked_beyond_a_fixed_size(monkeypatch: pytest.MonkeyPatch):
    wide = build([c.Input((2,)), c.Pad((0,), (0,), (2**16,), 0.0), c.Relu((1,)), c.Slice((2,), (0,), (200,), (1,))])
    monkeypatch.setattr(bounds, "MAX_WITNESS", 2**17)
    assert len(bounds.witness(zlib.compress(bytes(2**16 + 2)), wide).slopes) == 1
    with pytest.raises(c.RejectedError, match="at most 131072, got 131073"):
        bounds.witness(zlib.compress(bytes((2**16 + 2) * 201)), wide)


def test_json_that_would_fill_the_memory_is_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = build([c.Input((2,)), c.Flatten((0,))])
    monkeypatch.setattr(parse, "MAX_HEADER", 100)
    with pytest.raises(c.MalformedError, match="more than 100"):
        parse.network(network.data)
    with (tmp_path / "run.json").open("wb") as stream:
        stream.truncate(folder.MAX_LINE + 1)
    with pytest.raises(c.MalformedError, match="larger than 67108864 bytes"):
        folder.header(tmp_path)
