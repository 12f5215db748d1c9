"""The smoothing prover on networks whose smoothed value is known, judged by proofs_check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm

from certmix.commands import replay as command_replay
from certmix.commands import smoothing_bounds as smoothing_command
from certmix.commands.parsing import Parser
from certmix.errors import UsageError
from certmix.models.model import Model
from certmix.provers.judging import JudgeSession, judge_session
from certmix.provers.problem import ProverProblem
from certmix.provers.session import open_session
from certmix.provers.smoothing import plan as smoothing_plan
from certmix.provers.smoothing.evaluation import compare, mix_predictions
from certmix.provers.smoothing.prover import prove_smoothing
from certmix.provers.smoothing.tally import block_size
from certmix.records.lines import record_line
from certmix.records.outcomes import Abstained, Certified, Outcome, Reason
from certmix.runs import replay
from certmix.runs.store import Store, dataset_sha256
from certmix.settings import Settings, SmoothingSettings
from proofs_check.certificate import Accepted, Input, Linear, Rejected
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE
from verifiers.network.module import PlainModule, build
from verifiers.smoothing import confidence

NOISE = 0.25
TINY = 1e-9  # failure probability small enough for "never" in a test


def model(weight: list[list[float]], bias: list[float]) -> Model:
    w, b = np.array(weight, np.float32), np.array(bias, np.float32)
    network = build([Input((w.shape[1],)), Linear((0,), w, b)])
    return Model(PlainModule(network).eval(), network, len(b), (w.shape[1],), "a linear model", 0.0)


# class 0 beyond the first coordinate 0.3, class 1 before it, class 2 never
HALF_SPACE = model([[64.0, 0.0], [-64.0, 0.0], [0.0, 0.0]], [-19.2, 19.2, -1e4])
FLAT = model([[0.0, 1.0], [0.0, -1.0], [0.5, 0.5]], [0.0, 0.0, 0.0])
EDGE = (np.floor(0.3 * 255) + 0.5) / 255  # where the rounded coordinate crosses 0.3


def problem(inputs: np.ndarray, robust: Model = HALF_SPACE, standard: Model = FLAT, **changes: object) -> ProverProblem:
    """changes: fields of Settings or of SmoothingSettings."""
    own = {k: v for k, v in changes.items() if k in SmoothingSettings.__dataclass_fields__}
    rest = {k: v for k, v in changes.items() if k not in own}
    drawn = SmoothingSettings(
        **{  # type: ignore[arg-type]
            "noise_std": NOISE,
            "samples": 3000,
            "selection_samples": 200,
            "failure_probability": TINY,
            "base": "hard",
            "draw_batch": 1000,
            **own,
        }
    )
    settings = Settings(**{"alpha": 0.76, "norm": "L2", "method": "smoothing", "smoothing": drawn, **rest})  # type: ignore[arg-type]
    count = len(inputs)
    return ProverProblem(standard, robust, torch.from_numpy(inputs), tuple(range(count)), (0,) * count, settings)


def judge_of(p: ProverProblem) -> JudgeSession:
    return judge_session(p.network, p.standard.network)


def prove(p: ProverProblem) -> list[Outcome]:
    return prove_smoothing(p, open_session(p))


def images(count: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 2), dtype=np.uint8)
    return pixels.astype(np.float32) / np.float32(255)


def true_radius(x: np.ndarray, alpha: float) -> float:
    """Largest radius at which the mix keeps its class for every standard model, of the half-space votes."""
    return abs(float(x[0]) - EDGE) - NOISE * float(norm.ppf(1 / (2 * alpha)))


@pytest.mark.parametrize("bound", smoothing_plan.BOUNDS)
def test_no_certificate_exceeds_the_true_radius_of_a_half_space(bound: str) -> None:
    inputs = images(12)
    outcomes = prove(problem(inputs, bound=bound))
    assert sum(isinstance(o, Certified) for o in outcomes) >= 4
    for x, outcome in zip(inputs, outcomes, strict=True):
        if isinstance(outcome, Certified):
            assert outcome.predicted == (0 if x[0] > 0.3 else 1)
            assert 0 < outcome.radius < true_radius(x, 0.76)


def test_with_many_samples_the_direct_bound_comes_close_to_the_true_radius() -> None:
    inputs = np.array([[0.6, 0.5]], np.float32)
    (outcome,) = prove(problem(inputs, samples=60_000, failure_probability=0.01))
    assert isinstance(outcome, Certified)
    assert outcome.radius > 0.9 * true_radius(inputs[0], 0.76)


def test_every_certificate_is_accepted_by_the_judge_and_altered_ones_are_not() -> None:
    p = problem(np.array([[0.7, 0.2]], np.float32))
    (outcome,) = prove(p)
    assert isinstance(outcome, Certified)
    judge = judge_of(p)
    assert isinstance(judge.verdict(outcome.line, outcome.input), Accepted)
    value = json.loads(outcome.line)
    del value["sha256"]
    for name, forged in (("radius", outcome.radius * 1.01), ("alpha", 0.7), ("predicted", 1)):
        line = parse.seal(json.dumps({**value, name: forged}, separators=(",", ":")).encode()[:-1])
        assert isinstance(judge.verdict(line, outcome.input), Rejected)
    other = outcome.input + np.float32(0.25)
    assert isinstance(judge.verdict(outcome.line, other), Rejected)


def test_a_certificate_does_not_depend_on_batches() -> None:
    inputs = images(5, seed=3)
    lines = [
        [o.line if isinstance(o, Certified) else o for o in prove(problem(inputs, draw_batch=size))]
        for size in (64, 1000)
    ]
    assert lines[0] == lines[1]


def test_a_given_radius_is_claimed_as_it_is_and_may_stop_early() -> None:
    x = np.array([[0.9, 0.5]], np.float32)
    early = {"looks": (0.2, 1.0), "samples": 20_000, "radius": 0.1}
    (outcome,) = prove(problem(x, **early))
    assert isinstance(outcome, Certified)
    assert outcome.radius == 0.1
    evidence = parse.line(outcome.line, EVIDENCE).evidence  # type: ignore[union-attr]
    assert evidence.sample.look == 0
    assert [look.samples for look in evidence.sample.looks] == [4000, 20_000]
    (far,) = prove(problem(x, radius=2.0))
    assert isinstance(far, Abstained)
    assert far.reason is Reason.RADIUS_NOT_REACHED


def test_abstentions_say_why() -> None:
    near = np.array([[0.31, 0.5], [0.34, 0.5]], np.float32)
    for outcome in prove(problem(near)):
        assert isinstance(outcome, Abstained)
        assert outcome.reason is Reason.MARGIN_TOO_SMALL
        assert "raise alpha above" in outcome.advice
    price = NOISE * float(norm.ppf(1 / (2 * 0.76)))
    just = np.array([[EDGE + price + 0.02, 0.5]], np.float32)
    (outcome,) = prove(problem(just, samples=200, selection_samples=5000))
    assert isinstance(outcome, Abstained)
    assert outcome.reason is Reason.NOT_ENOUGH_SAMPLES
    (outcome,) = prove(problem(just, alpha=0.5))
    assert isinstance(outcome, Abstained)
    assert outcome.reason is Reason.NO_THEOREM


def test_smoothing_both_networks_certifies_the_mix_at_any_alpha() -> None:
    x = np.array([[0.8, 0.9], [0.75, 0.1]], np.float32)
    for alpha in (0.3, 0.6):
        p = problem(x, alpha=alpha, use_standard=True, base="soft", samples=6000)
        for outcome, row in zip(prove(p), x, strict=True):
            if not isinstance(outcome, Certified):
                continue
            assert outcome.class_of == "mix"
            # FLAT and HALF_SPACE at points of the sphere, smoothed by fresh draws: the class holds everywhere
            for angle in np.linspace(0, 2 * np.pi, 9):
                moved = row + 0.98 * outcome.radius * np.array([np.cos(angle), np.sin(angle)])
                assert estimated_mix(moved, alpha).argmax() == outcome.predicted
        assert any(isinstance(o, Certified) for o in prove(p))


def estimated_mix(x: np.ndarray, alpha: float) -> np.ndarray:
    points = x + NOISE * np.random.default_rng(9).normal(size=(20_000, 2))
    rounded = torch.from_numpy((np.rint(points * 255) / 255).astype(np.float32))
    g, h = (torch.softmax(m.module(rounded).double(), 1).mean(0).numpy() for m in (FLAT, HALF_SPACE))
    return (1 - alpha) * g + alpha * h


def test_all_bounds_stand_side_by_side_on_the_same_draws() -> None:
    p = problem(np.array([[0.85, 0.5]], np.float32), samples=5000)
    (found,) = compare(p, judge_of(p))
    assert set(found) == set(smoothing_plan.BOUNDS)
    assert 0 < found["theorem_3_5_paper"] < found["theorem_3_5"] < found["direct"]
    assert found["theorem_3_7"] < found["direct"]
    assert found["direct"] == pytest.approx(found["distributional"], rel=0.05)
    assert found["direct"] < true_radius(np.array([0.85]), 0.76)


def test_the_deployed_mix_agrees_with_certificates_where_there_are_any() -> None:
    inputs = images(8, seed=5)
    p = problem(inputs)
    classes = mix_predictions(p, 300)
    for outcome, predicted in zip(prove(p), classes, strict=True):
        if isinstance(outcome, Certified):
            assert outcome.predicted == predicted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "Linf"}, "pass norm L2"),
        ({"samples": 20}, "take at least 50"),
        ({"base": "median"}, "base must be one of"),
        ({"bound": "theorem_9"}, "bound must be one of"),
        ({"semantics": "float32"}, "real semantics"),
        ({"noise_std": 1e-4}, "choose grid near"),
        ({"grid": 0}, "grid must lie in"),
        ({"looks": (0.5,)}, "looks must be"),
        ({"draw_batch": 0}, "draw_batch"),
        ({"use_standard": True, "bound": "theorem_3_7"}, "both networks"),
    ],
)
def test_settings_that_cannot_certify_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prove(problem(images(1), **changes))


def test_a_base_model_of_nan_is_refused() -> None:
    broken = Model(torch.nn.Sequential(NaN()), HALF_SPACE.network, 3, (2,), "broken", 0.0)
    with pytest.raises(UsageError, match="not finite"):
        prove(problem(images(1), robust=broken))


class NaN(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_full((len(x), 3), float("nan"))


# ---------------------------------------------------------------- planted mistakes

REPETITIONS = 2000


def allowed(share: float, repetitions: int = REPETITIONS) -> int:
    """More failures than this have probability below 1e-9 if each has probability at most `share`."""
    return int(binom.isf(1e-9, repetitions, share))


def fair_votes(rng: np.random.Generator, draws: int) -> np.ndarray:
    return np.eye(2)[rng.integers(0, 2, draws)]


def certified(selection: np.ndarray, sample: np.ndarray, share: float) -> bool:
    """A positive radius at alpha 1: false for fair votes."""
    plan = smoothing_plan.choose(selection, "direct", len(sample), share, 1.0, 0.0)
    counts = [s.counts(sample, plan.predicted) for s in plan.statistics]
    lower = smoothing_plan.lower_bounds(plan, counts, len(sample), confidence.split(share, plan.statements))
    return smoothing_plan.largest_shift(plan, lower, 1.0, 0.0) > 0


def test_one_sample_for_both_stages_is_caught() -> None:
    share, draws, rng = 0.2, 101, np.random.default_rng(2)
    honest = planted = 0
    for _ in range(REPETITIONS):
        sample = fair_votes(rng, draws)
        honest += certified(fair_votes(rng, draws), sample, share)
        planted += certified(sample, sample, share)
    assert honest <= allowed(share)
    assert planted > allowed(share)


def test_a_threshold_chosen_on_the_certifying_sample_is_caught() -> None:
    share, draws, rng = 0.1, 20, np.random.default_rng(4)
    lower = confidence.clopper_pearson_lower(np.arange(draws + 1), draws, share)

    def fails(chosen_on: np.ndarray, sample: np.ndarray) -> bool:
        """The top of the widest gap of `chosen_on`; T(s) = (1 − s)/2 for values uniform in [−1, 1]."""
        order = np.sort(chosen_on)
        threshold = order[np.diff(order, prepend=-1.0).argmax()]
        return bool(lower[int((sample >= threshold).sum())] > (1 - threshold) / 2)

    honest = planted = 0
    for _ in range(REPETITIONS):
        sample = rng.uniform(-1, 1, draws)
        honest += fails(rng.uniform(-1, 1, draws), sample)
        planted += fails(sample, sample)
    assert honest <= allowed(share)
    assert planted > allowed(share)


@pytest.mark.parametrize(("bound", "repetitions"), [("direct", 300), ("distributional", REPETITIONS)])
def test_statements_of_a_plan_hold_together_and_a_forgotten_split_is_caught(
    bound: smoothing_plan.Bound, repetitions: int
) -> None:
    share, draws, rng = 0.1, 60, np.random.default_rng(6)

    def outputs(n: int) -> np.ndarray:
        return rng.dirichlet([2.0, 1.0, 0.5], n)

    reference = outputs(400_000)
    honest = forgotten = 0
    for _ in range(20):
        plans = smoothing_plan.candidates(outputs(100), bound, draws, share)
        plan = max(plans, key=lambda p: p.statements)
        truths = [truth(plan, s, reference) for s in plan.statistics]
        for _ in range(repetitions // 20):
            sample = outputs(draws)
            counts = [s.counts(sample, plan.predicted) for s in plan.statistics]
            for each, tally in ((confidence.split(share, plan.statements), 0), (share, 1)):
                lower = smoothing_plan.lower_bounds(plan, counts, draws, each)
                failed = any(bool((b > t + 0.003).any()) for b, t in zip(lower, truths, strict=True))
                honest, forgotten = honest + (failed and tally == 0), forgotten + (failed and tally == 1)
    assert honest <= allowed(share, repetitions)
    if bound == "distributional":  # stakes of a mean leave too much room for the mistake to show there
        assert forgotten > allowed(share)


def truth(plan: smoothing_plan.Plan, statistic: smoothing_plan.Statistic, reference: np.ndarray) -> np.ndarray:
    values = smoothing_plan.values(statistic.kind, reference, plan.predicted, statistic.classes)
    if statistic.bets:
        return np.array([values.mean()])
    return np.array([(values >= s).mean() for s in statistic.thresholds])


# ---------------------------------------------------------------- replay


def run_folder(path: Path, forge: bool, **changes: object) -> Path:
    """An audit's folder of smoothing certificates, with one count of every certificate raised if `forge`."""
    inputs = np.array([[0.9, 0.5], [0.05, 0.2], [0.31, 0.0], [0.8, 0.8]], np.float32)
    p = problem(inputs, **{"samples": 1003, "failure_probability": 0.01, "base": "soft", **changes})
    store = Store(path)
    labels = np.zeros(4, np.int64)
    standard = None if p.standard.network is None else p.standard.network.sha256
    header = parse.RunHeader(standard, p.network.sha256, dataset_sha256(inputs, labels), 4, {})
    store.open(header, [n for n in (p.network, p.standard.network) if n is not None], inputs, labels)
    outcomes = prove(p)
    assert sum(isinstance(o, Certified) for o in outcomes) == 3
    lines = [
        o.line if isinstance(o, Certified) else record_line(i, 0, o)  # type: ignore[arg-type]
        for i, o in enumerate(outcomes)
    ]
    store.add(0, [forged(line) if forge and b'"certified"' in line else line for line in lines])
    store.finish()
    return path


def forged(line: bytes) -> bytes:
    """Ten draws of every block moved from below the first threshold to above the last."""
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    value = json.loads(line)
    evidence = value["evidence"]
    parts = [g["tail"] for g in evidence["groups"]] if "predicted" not in evidence else [evidence["predicted"]]
    for part in parts:
        part["counts"] = [[c - 10 for c in block] for block in part["counts"]]
    del value["sha256"]
    return parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1])


def replay_command(path: Path, *more: str) -> int:
    parser = Parser()
    command_replay.add_arguments(parser)
    return command_replay.run(parser.parse_args([str(path), "--seed", "1", "--device", "cpu", *more]))


def test_a_replay_finds_the_same_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder(tmp_path / "run", forge=False)
    assert replay_command(path, "--share", "0") == 0
    total = sum(r.draws for r in replay.replay(path, 10, np.random.default_rng(1), "cpu", 512))
    assert f"replayed {total} draws of 3 certificates; at least 0 differ" in capsys.readouterr().out
    found = replay.replay(path, 1, np.random.default_rng(0), "cpu", 7)
    assert [(r.draws, r.differing) for r in found] == [(block_size(1003), 0)]


def test_a_replay_redoes_draws_that_stopped_at_any_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for base in ("soft", "hard"):
        path = run_folder(tmp_path / base, forge=False, base=base, radius=0.05, looks=())
        assert replay_command(path, "--share", "0") == 0
        assert "draws of 3 certificates; at least 0 differ" in capsys.readouterr().out
    path = run_folder(tmp_path / "forged", forge=True, radius=0.05, looks=())
    assert replay_command(path, "--share", "0") == 1


def test_a_replay_finds_forged_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_folder(tmp_path / "run", forge=True)
    assert replay_command(path) == 1
    assert "at least 10 differ" in capsys.readouterr().out
    assert replay_command(path, "--share", "0.5") == 0


def test_a_replay_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.json"):
        replay_command(tmp_path)
    path = run_folder(tmp_path / "run", forge=False)
    with pytest.raises(UsageError, match="share"):
        replay_command(path, "--share", "1.5")


def test_differing_counts_whole_draws() -> None:
    stated = np.array([9, 5, 1])
    assert replay.differing(stated, stated) == 0
    assert replay.differing(stated, np.array([9, 6, 1])) == 1
    assert replay.differing(stated, np.array([10, 6, 2])) == 1
    assert replay.differing(stated, np.array([8, 6, 1])) == 2


def test_the_comparison_command_shows_every_bound(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser()
    smoothing_command.add_arguments(parser)
    given = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "smoothed.onnx")]
    given += ["--data", str(digits / "audit.npz"), "--limit", "2", "--noise-std", "0.5", "--samples", "1000"]
    given += ["--prediction-samples", "50", "--device", "cpu", "--json", str(tmp_path / "radii.json")]
    assert smoothing_command.run(parser.parse_args([*given, "--alpha", "0.8"])) == 0
    shown = capsys.readouterr().out
    radii = json.loads((tmp_path / "radii.json").read_text())["radii"]
    for bound in smoothing_plan.BOUNDS:
        assert bound in shown
        assert len(radii[bound]) == 2
    with pytest.raises(UsageError, match="alpha > 1/2"):
        smoothing_command.run(parser.parse_args([*given, "--alpha", "0.4"]))


# ---------------------------------------------------------------- stopping at any draw


def drawn(outcome: Certified) -> int:
    """Certifying draws behind a certificate that may have stopped at any of them."""
    found = parse.line(outcome.line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    assert found.rule == "stopped_means"
    return found.evidence.sample.samples


@pytest.mark.parametrize("base", ["hard", "soft"])
def test_sampling_stops_the_sooner_the_less_is_asked_for(base: str) -> None:
    x = np.array([[0.9, 0.5]], np.float32)
    draws = []
    for radius in (0.05, 0.2, 0.35):
        (outcome,) = prove(problem(x, radius=radius, base=base, looks=(), failure_probability=0.001))
        assert isinstance(outcome, Certified)
        assert outcome.radius == radius
        draws.append(drawn(outcome))
    assert draws == sorted(draws)
    assert draws[0] < 200
    assert draws[-1] > 2 * draws[0]


def test_what_the_draws_cannot_prove_is_refused_and_misuse_of_any_looks_is_said(tmp_path: Path) -> None:
    x = np.array([[0.9, 0.5]], np.float32)
    (outcome,) = prove(problem(x, radius=0.7, looks=()))
    assert isinstance(outcome, Abstained)
    assert outcome.reason == Reason.RADIUS_NOT_REACHED
    with pytest.raises(UsageError, match="give the radius"):
        prove(problem(x, looks=()))
    with pytest.raises(UsageError, match="bound must be best or direct, got distributional"):
        prove(problem(x, radius=0.1, looks=(), bound="distributional"))
    stopping = problem(x, radius=0.1, looks=())
    with pytest.raises(UsageError, match="looks any does not go with that"):
        compare(stopping, judge_session(stopping.network, stopping.standard.network))
