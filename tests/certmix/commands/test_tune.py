"""Alpha and temperature chosen on one split and reported on another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from scipy.stats import binom

from certmix.__main__ import main
from certmix.errors import UsageError
from certmix.runs.sweep import Point
from certmix.runs.tune import choose_point, proportion
from proofs_check.__main__ import main as judge

COUNT = 20


@pytest.fixture(scope="module")
def splits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("splits")
    result: dict[str, Path] = {}
    for name in ("tune", "audit"):
        whole = np.load(digits / f"{name}.npz")
        result[name] = folder / f"{name}.npz"
        np.savez(result[name], images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    return result


def arguments(digits: Path, tune: Path, audit: Path, *more: str) -> list[str]:
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    data = ["--data", str(tune), "--audit-data", str(audit), "--radius", "0.12"]
    return ["tune", *models, *data, "--alpha", "0.55,0.6,0.75", "--temperature", "1,2", *more]


def test_the_pair_is_chosen_on_one_split_and_judged_on_the_other(digits: Path, splits: dict[str, Path], tmp_path: Path):
    out = tmp_path / "out"
    given = [*arguments(digits, splits["tune"], splits["audit"], "--clean-accuracy", "0.8"), "--out", str(out)]
    assert main(given) == 0
    record = json.loads((out / "tune.json").read_text())
    assert judge([str(out / "audit")]) == 0
    lines = [json.loads(line) for line in (out / "audit" / "certificates.jsonl").read_text().splitlines()]
    certified = [line for line in lines if line["outcome"] == "certified"]
    assert {(line["alpha"], line["temperature"]) for line in certified} == {(record["alpha"], record["temperature"])}
    found = record["audit"]["certified_correct"]
    assert found["hits"] == sum(line["predicted"] == line["label"] for line in certified) > 0
    assert found["lower"] < found["share"] < found["upper"]
    points = sweep_of(out / "tune")
    best = max(p["certified_correct"] for p in points if p["clean"] >= 80)
    chosen = next(p for p in points if (p["alpha"], p["temperature"]) == (record["alpha"], record["temperature"]))
    assert chosen["certified_correct"] == best
    assert 100 * record["tune"]["certified_correct"] == pytest.approx(best)
    # finished runs are not repeated
    before = (out / "audit" / "certificates.jsonl").stat().st_mtime_ns
    assert main(given) == 0
    assert (out / "audit" / "certificates.jsonl").stat().st_mtime_ns == before


def sweep_of(run: Path) -> list[dict]:
    given = ["sweep", str(run), "--alpha", "0.55,0.6,0.75", "--temperature", "1,2", "--attack-steps", "0"]
    assert main(given) == 0
    return json.loads((run / "sweep.json").read_text())["points"]


def test_a_shared_input_is_refused_with_counts_before_anything_is_written(digits, splits, tmp_path, capsys):
    whole, other = np.load(splits["audit"]), np.load(splits["tune"])
    mixed = tmp_path / "mixed.npz"
    images = np.concatenate([whole["images"], other["images"][[3, 7]]])
    # another label does not make it another input
    np.savez(mixed, images=images, labels=np.concatenate([whole["labels"], (other["labels"][[3, 7]] + 1) % 10]))
    out = tmp_path / "out"
    given = [*arguments(digits, splits["tune"], mixed, "--clean-accuracy", "0.8"), "--out", str(out)]
    text = refusal(capsys, given)
    assert f"2 of the {COUNT + 2} inputs" in text
    assert f"first at {COUNT}" in text
    assert not out.exists()


@pytest.mark.parametrize(
    "more",
    [[], ["--clean-accuracy", "1.5"], ["--clean-accuracy", "0.8", "--alpha", "0.5"],
     ["--clean-accuracy", "0.8", "--use-standard"], ["--clean-accuracy", "0.8", "--confidence", "2"],
     ["--clean-accuracy", "0.8", "--method", "smoothing"]],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(digits, splits, tmp_path, capsys, more):
    refusal(capsys, [*arguments(digits, splits["tune"], splits["audit"], *more), "--out", str(tmp_path / "out")])


def point(clean: float, certified: float, alpha: float = 0.6, temperature: float = 1.0) -> Point:
    return Point(alpha, temperature, 0.1, clean, certified, certified, None)


def test_the_choice_is_the_best_certified_among_the_clean_enough():
    points = [point(99, 10, 0.6), point(96, 40, 0.7), point(95, 40, 0.65), point(94, 60, 0.9)]
    assert choose_point(points, 0.95).alpha == 0.7
    assert choose_point(points, 0.5).alpha == 0.9
    assert choose_point([point(96, 40, 0.7), point(96, 40, 0.6)], 0.9).alpha == 0.6
    with pytest.raises(UsageError, match=r"best has 0\.99,"):
        choose_point(points, 0.995)


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0.5, 0.999))
def test_the_interval_is_clopper_pearsons(n: int, share: float, confidence: float):
    hits = round(share * n)
    found = proportion(hits, n, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= found.lower <= found.share <= found.upper <= 1
    # outside the interval the count is too extreme to be believed
    assert found.lower == 0 or binom.sf(hits - 1, n, found.lower) <= tail
    assert found.upper == 1 or binom.cdf(hits, n, found.upper) <= tail * (1 + 1e-9)
    assert hits == 0 or binom.sf(hits - 1, n, found.lower + 1e-6) >= tail * (1 - 1e-2)
    assert hits == n or binom.cdf(hits, n, found.upper - 1e-6) >= tail * (1 - 1e-2)
