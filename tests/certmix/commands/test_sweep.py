"""One audit answers for every alpha and temperature: curves, sweep, and certificates made from a point of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

from certmix.__main__ import main
from certmix.provers.margin.oracle import FLOAT32_LACK
from certmix.records.bound_archive import (
    ArchivedBound,
    ArchiveWriter,
    BoundArchive,
    ExponentialPasses,
    intersected,
    read,
)
from certmix.reports.sweep_tables import front
from certmix.runs.finished import FinishedRun, open_run
from certmix.runs.sweep import Point, just_enough, margins_at, sweep
from certmix.theorems.margin import certifies, required_margin
from certmix.theorems.softmax_margin import box_margin
from proofs_check.__main__ import main as judge

COUNT = 24
RADIUS = "0.16"
ALPHA = 0.75
ALPHAS = (0.5, 0.55, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0)
TEMPERATURES = (0.5, 1.0, 2.0, 8.0)


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, the last third of which are hard: the audit refuses some of them at its alpha."""
    whole = np.load(digits / "audit.npz")
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, images=whole["images"][100 : 100 + COUNT], labels=whole["labels"][100 : 100 + COUNT])
    return path


def audited(digits: Path, data: Path, out: Path, *more: str) -> Path:
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    given = ["audit", *models, "--data", str(data), "--alpha", str(ALPHA), *more, "--out", str(out)]
    assert main(given) == 0
    return out


@pytest.fixture(scope="module")
def fixed(digits: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited(digits, data, tmp_path_factory.mktemp("runs") / "fixed", "--radius", RADIUS)


@pytest.fixture(scope="module")
def largest(digits: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited(digits, data, tmp_path_factory.mktemp("runs") / "largest", "--tolerance", "0.01")


def certified(run: Path) -> dict[int, dict]:
    found = [json.loads(line) for line in (run / "certificates.jsonl").read_text().splitlines()]
    return {line["index"]: line for line in found if line["outcome"] == "certified"}


def bounds_alone(run: FinishedRun, radius: float, temperature: float) -> np.ndarray:
    """Per input the best margin of its stored bounds, the audit's own certificates left aside."""
    best = np.full(len(run.data), -1.0)
    margins = run.archive.margins(temperature)
    for k in np.flatnonzero(run.archive.radius >= radius):
        best[run.archive.index[k]] = max(best[run.archive.index[k]], margins[k])
    return best


# ---------------------------------------------------------------- the sweep at the audit's own point is the audit


def test_at_the_audits_own_point_stored_bounds_certify_what_the_judge_accepted(fixed: Path):
    run = open_run(fixed)
    accepted = np.isin(np.arange(COUNT), list(certified(fixed)))
    assert 0 < accepted.sum() < COUNT
    slack = bounds_alone(run, float(RADIUS), 1.0) - required_margin(ALPHA)
    # float bounds propose, the judge's bounds decide: they may part where the slack is rounding
    assert (slack[accepted] > -FLOAT32_LACK).all()
    assert (slack[~accepted] < FLOAT32_LACK).all()


def test_no_audited_certificate_is_lost_by_the_sweep(fixed: Path, largest: Path):
    for path in (fixed, largest):
        run = open_run(path)
        for index, line in certified(path).items():
            (known,) = margins_at(run, 1.0, (line["radius"],))
            assert known.certified(ALPHA)[index]
            assert known.predicted[index] == line["predicted"]


def test_inputs_the_audit_refuses_are_known_at_another_temperature(digits: Path, data: Path, tmp_path: Path):
    run = open_run(audited(digits, data, tmp_path / "run", "--radius", "0.02", "--temperature", "0.05"))
    assert not run.certified
    (margins,) = margins_at(run, 1.0, (0.02,))
    assert margins.certified(ALPHA).sum() > COUNT / 2


# ---------------------------------------------------------------- laws


def test_certified_sets_grow_with_alpha_and_shrink_with_the_radius(largest: Path):
    run = open_run(largest)
    radii = (0.0, 0.02, 0.1, 0.13, 0.2, 0.5)
    for temperature in TEMPERATURES:
        table = np.array([[m.certified(a) for a in ALPHAS] for m in margins_at(run, temperature, radii)])
        assert (table[1:] <= table[:-1]).all()
        assert (table[:, :-1] <= table[:, 1:]).all()
        assert not table[:, ALPHAS.index(0.5)].any()
        assert table.any()


def test_nothing_certified_is_attacked_and_certified_accuracy_is_below_the_attacked(fixed: Path):
    swept = sweep(open_run(fixed), ALPHAS, TEMPERATURES, (float(RADIUS),), 10)
    assert swept.refuted == ()
    assert all(p.certified_correct <= p.attacked <= p.clean for p in swept.points if p.attacked is not None)
    assert any(0 < p.certified_correct < p.attacked for p in swept.points if p.attacked is not None)
    assert len(swept.points) == len(ALPHAS) * len(TEMPERATURES)


def test_a_planted_bound_that_is_wrong_is_refuted_by_the_pool(fixed: Path, tmp_path: Path):
    path = tmp_path / "run"
    shutil.copytree(fixed, path)
    (batch,) = (path / "curves").glob("*.npz")
    with np.load(batch) as stored:
        arrays = dict(stored)
    others = np.arange(10) != arrays["predicted"][:, None]
    arrays["upper"][others] = -30.0
    arrays["radius"][:] = 0.5
    np.savez(batch, **arrays)
    assert main(["sweep", str(path), "--radius", "0.5", "--alpha", "0.9", "--temperature", "1"]) == 1
    assert json.loads((path / "sweep.json").read_text())["refuted"]


@given(st.floats(0.5, 1, exclude_min=True))
def test_just_enough_margin_certifies_at_its_alpha_and_not_clearly_below(alpha: float):
    margin = torch.tensor([just_enough(alpha)], dtype=torch.float64)
    assert bool(certifies(margin, alpha))
    assert not bool(certifies(margin, alpha * (1 - 1e-12)))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 8))
def test_archived_margins_are_never_below_the_box_form_and_hold_at_points_of_the_set(seed: int, temperature: float):
    archive, bounds = random_archive(np.random.default_rng(seed))
    margins = archive.margins(temperature)
    rng = np.random.default_rng(seed + 1)
    for k, seen in enumerate(bounds):
        y = seen.predicted
        own = torch.nn.functional.one_hot(torch.tensor([y]), 4).bool()
        box = box_margin(seen.lower[None], seen.upper[None], torch.tensor([y]), temperature)
        least = float(box.masked_fill(own, 1.0).min())
        if bool((seen.upper < 0)[~own[0]].all()):
            assert margins[k] >= least
        else:
            assert margins[k] == -1.0
        d = rng.uniform(seen.lower.numpy(), seen.upper.numpy(), (200, 4))
        if seen.passes is not None:
            within = (d @ seen.passes.coefficients.numpy().T <= seen.passes.upper_bound.numpy()).all(axis=1)
            d = d[within]
        p = np.exp(temperature * d) / np.exp(temperature * d).sum(1, keepdims=True)
        others = np.arange(4) != y
        assert (p[:, [y]] - p[:, others] >= margins[k] - 1e-12).all()


def random_archive(rng: np.random.Generator) -> tuple[BoundArchive, list[ArchivedBound]]:
    seen: list[tuple[int, ArchivedBound]] = []
    for index in range(5):
        y = int(rng.integers(4))
        upper = torch.from_numpy(rng.normal(-2, 1, 4))
        lower = upper - torch.from_numpy(rng.exponential(2, 4))
        lower[y] = upper[y] = 0.0
        coefficients = torch.from_numpy(rng.exponential(1, (3, 4)))
        coefficients[:, y] = 0.0
        reach = coefficients @ (lower + (upper - lower) * float(rng.uniform(0.3, 1.1)))
        rival = torch.tensor([j for j in range(4) if j != y])
        passes = ExponentialPasses(torch.zeros(3, dtype=torch.int64), rival, coefficients, reach)
        seen.append((index, ArchivedBound(0.1, y, lower, upper, passes, b"hint%d" % index)))
    return intersected(seen), [o for _, o in seen]


# ---------------------------------------------------------------- files


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_an_archive_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, seed: int):
    archive, bounds = random_archive(np.random.default_rng(seed))
    folder = tmp_path_factory.mktemp("curves")
    writer = ArchiveWriter()
    for index, seen in enumerate(bounds):
        writer(index, seen)
        if index == 2:
            writer.write(folder, 0)
    writer.write(folder, 3)
    again = read(folder)
    assert (again.margins(2.0) == archive.margins(2.0)).all()
    assert again.witness == archive.witness
    assert again.nearest_witness(1, 0.3) == b"hint1"
    assert again.nearest_witness(9, 0.3) is None


def test_bounds_met_twice_at_a_radius_are_intersected():
    one, two = torch.tensor([0.0, -2.0, -1.0]).double(), torch.tensor([0.0, -1.0, -2.0]).double()
    low = torch.tensor([0.0, -9.0, -9.0]).double()
    archive = intersected([(4, ArchivedBound(0.1, 0, low, one)), (4, ArchivedBound(0.1, 0, low, two))])
    assert archive.upper.tolist() == [[0.0, -2.0, -2.0]]


def test_an_interrupted_run_ends_with_the_same_curves(largest: Path, digits: Path, data: Path, tmp_path: Path):
    path = tmp_path / "run"
    shutil.copytree(largest, path)
    lines = (path / "certificates.jsonl").read_bytes().splitlines(keepends=True)
    (path / "certificates.jsonl").unlink()
    (path / "certificates.partial.jsonl").write_bytes(b"".join(lines[:7]))
    audited(digits, data, path, "--tolerance", "0.01")
    for temperature in (1.0, 4.0):
        before, after = (margins_at(open_run(p), temperature, (0.05, 0.15)) for p in (largest, path))
        for a, b in zip(before, after, strict=True):
            assert (b.margin >= a.margin - 1e-6).all()


@pytest.mark.parametrize("damage", ["truncate", "remove", "other"])
def test_damaged_curves_are_refused_in_one_line(fixed: Path, tmp_path: Path, capsys, damage: str):
    path = tmp_path / "run"
    shutil.copytree(fixed, path)
    (batch,) = (path / "curves").glob("*.npz")
    if damage == "truncate":
        batch.write_bytes(batch.read_bytes()[:300])
    elif damage == "remove":
        batch.unlink()
    else:
        np.savez(batch, index=np.zeros(3))
    refusal(capsys, ["sweep", str(path)])


# ---------------------------------------------------------------- the command


def test_the_command_writes_every_pair_and_a_figure(fixed: Path, capsys):
    given = ["sweep", str(fixed), "--alpha", "0.5:1:0.1", "--temperature", "1,4", "--attack-steps", "0"]
    assert main(given) == 0
    points = json.loads((fixed / "sweep.json").read_text())["points"]
    pairs = {(p["alpha"], p["temperature"]) for p in points}
    assert pairs == {(a, t) for a in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0) for t in (1.0, 4.0)}
    assert (fixed / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert all(p["attacked"] is None for p in points)


@pytest.mark.parametrize(
    "wrong",
    [["--alpha", "1.2"], ["--alpha", "0.5:1:0"], ["--alpha", "a"], ["--temperature", "0"], ["--radius", "-1"],
     ["--certify", "0.6"], ["--certify", "0.6,2"], ["--certify", "0.5,2", "--out", "x"], ["--attack-steps", "-1"]],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(fixed: Path, capsys, wrong: list[str]):
    refusal(capsys, ["sweep", str(fixed), *wrong])


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    assert main(["sweep", str(tmp_path)]) == 2


@pytest.mark.parametrize(("alpha", "temperature"), [(0.6, 4.0), (0.9, 1.0), (0.95, 0.5)])
def test_a_point_becomes_certificates_that_the_judge_accepts(
    fixed: Path, tmp_path: Path, alpha: float, temperature: float
):
    out = tmp_path / "point"
    assert main(["sweep", str(fixed), "--certify", f"{alpha},{temperature}", "--out", str(out)]) == 0
    assert judge([str(out)]) == 0
    found = certified(out)
    assert all(
        (r["alpha"], r["temperature"], r["radius"]) == (alpha, temperature, float(RADIUS)) for r in found.values()
    )
    slack = bounds_alone(open_run(fixed), float(RADIUS), temperature) - required_margin(alpha)
    proven = np.isin(np.arange(COUNT), list(found))
    assert proven.any()
    assert (slack[proven] > -FLOAT32_LACK).all()
    assert not (~proven & (slack > 0.01)).any()


def test_a_point_of_largest_radii_becomes_largest_radii(largest: Path, tmp_path: Path):
    out = tmp_path / "point"
    assert main(["sweep", str(largest), "--certify", "0.9,2", "--out", str(out)]) == 0
    assert judge([str(out)]) == 0
    before, after = certified(largest), certified(out)
    assert set(before) <= set(after)
    ratio = [after[k]["radius"] / before[k]["radius"] for k in before]
    assert min(ratio) > 0.95
    assert np.mean(ratio) > 1.02


def test_the_front_holds_exactly_the_points_no_other_beats():
    def point(clean: float, certified: float, alpha: float) -> Point:
        return Point(alpha, 1.0, 0.1, clean, certified, certified, None)

    points = [point(90, 10, 0.6), point(90, 20, 0.7), point(80, 30, 0.8), point(80, 25, 0.9), point(70, 30, 1.0)]
    assert [(p.clean, p.certified_correct) for p in front(points)] == [(90, 20), (80, 30)]
