"""The experiments: known answers on hand-made classifiers, and the command from arguments to files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor, nn

from certmix.__main__ import main as certmix_command
from certmix.attacks import Ball, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective
from certmix.attacks.pgd import Candidates, Schedule
from certmix.attacks.worst import Budget, worst
from certmix.commands import experiment
from certmix.commands.parsing import Parser, parse
from certmix.errors import UsageError
from certmix.experiments import accuracy_vs_alpha, confidence, match_clean, tradeoff
from certmix.experiments.certified_curves import Radii
from certmix.experiments.pair import Pair, load_classifier
from certmix.mixing.general import SCALINGS
from certmix.mixing.mixed import MixedClassifier
from certmix.records.smoothing_log import read_log

DIGITS = Path(__file__).parents[3] / "examples" / "digits"
PAPER = Path(__file__).parents[3] / "examples" / "paper"
OURS = Path(__file__).parents[3] / "examples" / "experiments"


class Threshold(nn.Module):
    """Logits ∓ scale · (x_k − 1/2) / 2: class 1 where coordinate k exceeds 1/2."""

    def __init__(self, coordinate: int, scale: float) -> None:
        super().__init__()
        self.coordinate, self.scale = coordinate, scale

    def forward(self, x: Tensor) -> Tensor:
        lead = self.scale * (x[:, self.coordinate] - 0.5)
        return torch.stack([-lead / 2, lead / 2], 1)


def pair(inputs: list[list[float]], labels: list[int], radius: float, scale: float = 100.0) -> Pair:
    """g reads coordinate 0 and is sure at once; h reads coordinate 1, gently."""
    return Pair(
        Threshold(0, scale), Threshold(1, 8.0), torch.tensor(inputs), torch.tensor(labels), "Linf", radius, (0.0, 1.0),
        Budget(steps=10), batch_size=2, sources={},
    )  # fmt: skip


def run(arguments: list[str]) -> int:
    parser = Parser(prog="certmix experiment", allow_abbrev=False)
    experiment.add_arguments(parser)
    return experiment.run(parse(parser, arguments))


def test_accuracy_against_alpha_is_what_can_be_computed_by_hand() -> None:
    # input 0: both models lost within 0.1. Input 1: g lost, h keeps a lead of tanh(8 · .3 / 2) = 0.83.
    # Input 2: h wrong
    made = pair([[0.55, 0.55], [0.55, 0.9], [0.9, 0.1]], [1, 1, 1], 0.1)
    low, high = accuracy_vs_alpha.measure(made, (0.5, 0.6), 1.0)
    third = 100 / 3
    assert (low.clean, high.clean) == (100.0, pytest.approx(2 * third))
    # at 0.5 the sure g wins: only input 2 survives. At 0.6 (required margin 0.67) h saves input 1 and loses 2
    assert low.worst == pytest.approx(third)
    assert high.worst == pytest.approx(third)
    assert high.std == pytest.approx(third)
    assert high.rob == pytest.approx(2 * third)
    for row in (low, high):
        assert row.worst <= min(row.clean, row.std, row.rob, row.mix)


def test_the_floor_attack_breaks_what_cross_entropy_on_the_mix_does_not() -> None:
    # g is flat where it is sure: its softmax gradient vanishes in float32, so MIX sees only h
    mix = MixedClassifier(Threshold(0, 4000.0), Threshold(1, 8.0), 0.6)
    ball, labels = make_ball(torch.tensor([[0.55, 0.6]]), 0.1, "Linf", (0.0, 1.0)), torch.tensor([1])
    plain = pgd(ClassifierObjective(mix, "cross_entropy"), ball, labels, Schedule(50, step="fixed", random_start=False))
    assert not bool(plain.found[0])
    assert bool(worst(mix, ball, labels, Budget(steps=10), ("floor",)).found[0])


def test_confidence_gaps_are_means_and_medians_of_the_two_largest_probabilities() -> None:
    made = pair([[0.5, 0.6], [0.5, 0.7], [0.5, 0.9], [0.5, 0.2]], [1, 1, 1, 1], 1e-9)
    rows = {(g.model, g.inputs, g.prediction): g for g in confidence.measure(made)}
    expected = [math.tanh(4 * d) for d in (0.1, 0.2, 0.4)]
    correct, wrong = rows["robust", "clean", "correct"], rows["robust", "clean", "wrong"]
    assert correct.count == 3
    assert correct.mean == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert correct.median == pytest.approx(expected[1], abs=1e-6)
    assert (wrong.count, wrong.mean) == (1, pytest.approx(math.tanh(4 * 0.3), abs=1e-6))
    assert rows["robust", "attacked", "correct"].mean == pytest.approx(correct.mean, abs=1e-5)
    assert rows["standard", "clean", "correct"].count == 0
    assert rows["standard", "clean", "correct"].mean is None


def test_the_tradeoff_runs_from_g_to_h_for_every_variant() -> None:
    # a gentle g: where its gradient underflows, R_i = 0 and even gamma = inf means g
    made = pair([[0.55, 0.55], [0.55, 0.9], [0.9, 0.1]], [1, 1, 1], 0.1, scale=20.0)
    points = tradeoff.measure(made, (0.0, math.inf))
    third = 100 / 3
    for p in points:
        # g keeps input 2 alone; h keeps input 1 alone
        assert p.clean == pytest.approx(100.0 if p.gamma == 0 else 2 * third)
        assert p.worst == pytest.approx(third)
        assert p.worst <= p.pgd
    assert len(points) == 16


def test_g_and_h_are_marked_where_the_curve_of_eq_4_begins_and_ends() -> None:
    made = pair([[0.55, 0.55], [0.55, 0.9], [0.9, 0.1]], [1, 1, 1], 0.1, scale=20.0)
    points = tradeoff.measure(made, (0.0, 1.5, math.inf))
    for attacked in ("pgd", "worst"):
        panel = tradeoff.panel(points, "accuracy", attacked)
        assert [line.name for line in panel.lines][:2] == [f"{tradeoff.RATIOS[s]}, probabilities" for s in SCALINGS[:2]]
        eq4 = panel.lines[0]
        (g, h) = panel.marks
        assert (g.name, g.x, g.y) == ("g", eq4.x[0], eq4.y[0])
        assert (h.name, h.x, h.y) == ("h", eq4.x[-1], eq4.y[-1])
        assert g.x == pytest.approx(100 * float(made.correct(made.standard).double().mean()))
        assert h.x == pytest.approx(100 * float(made.correct(made.robust).double().mean()))


def test_an_attack_on_survivors_sees_them_alone_and_brings_none_back() -> None:
    made = pair([[0.1, 0.5], [0.2, 0.5], [0.3, 0.5], [0.4, 0.5]], [1, 1, 1, 1], 0.1)
    seen: list[float] = []

    def attack(ball: Ball, labels: Tensor) -> Candidates:
        seen.extend(ball.center[:, 0].tolist())
        return Candidates(ball.center, ball.center[:, 0] > 0.35)

    left = made.surviving(torch.tensor([True, False, True, True]), attack)
    assert seen == pytest.approx([0.1, 0.3, 0.4])
    assert left.tolist() == [True, False, True, False]
    assert not bool(made.surviving(torch.zeros(4, dtype=torch.bool), attack).any())


@pytest.mark.parametrize("name", ["tradeoff", "accuracy-vs-alpha", "confidence"])
def test_each_experiment_leaves_a_table_a_figure_and_json(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [f"--{m}={DIGITS / m}.onnx" for m in ("standard", "robust")]
    grid = ["--alphas", "0.5", "3/4", "--gammas", "0", "inf"]
    code = run([name, *models, f"--data={DIGITS / 'tune.npz'}", "--radius=0.05", "--steps=2", "--limit=8",
                *grid, f"--out={tmp_path}"])  # fmt: skip
    assert code == 0
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["experiment"] == name
    assert found["settings"]["radius"] == 0.05
    assert found["settings"]["inputs"] == 8
    assert len(found["rows"]) == {"tradeoff": 16, "accuracy-vs-alpha": 2, "confidence": 8}[name]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert found["columns"][1] in capsys.readouterr().out


def test_certified_curves_are_read_from_logs_and_match_the_theorems(tmp_path: Path) -> None:
    header = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    rows = ["0\t1\t1\t2.000\t1\t0", "1\t1\t0\t3.000\t0\t0", "2\t1\t-1\t0.0\t0\t0", "3\t1\t1\t0.250\t1\t0"]
    log = tmp_path / "h.tsv"
    log.write_text(header + "\n".join(rows) + "\n")
    code = run(["certified-curves", f"--log={log}", "--noise-std=1", "--alpha=0.75", f"--baseline-log={log}",
                "--baseline-noise-std=1", f"--out={tmp_path}"])  # fmt: skip
    assert code == 0
    found = json.loads((tmp_path / "certified-curves.json").read_text())
    table = {row[0]: dict(zip(found["columns"][1:], row[1:], strict=True)) for row in found["rows"]}
    mixed = next(v for k, v in table.items() if k.startswith("mix") and "direct" in k)
    alone = next(v for k, v in table.items() if k.startswith("baseline") and "direct" in k)
    # the price of mixing at 0.75 is Φ⁻¹(2/3) = 0.431: radius 2 becomes 1.569, radius 0.25 is lost
    assert (mixed["0.0"], mixed["1.5"], mixed["2.0"]) == (25.0, 25.0, 0.0)
    assert (alone["0.0"], alone["0.25"], alone["1.5"]) == (50.0, 25.0, 25.0)
    assert (tmp_path / "certified-curves.png").exists()


def log_of(path: Path, radii: list[float], predicted: list[int], labels: list[int]) -> Path:
    rows = zip(range(len(radii)), labels, predicted, radii, strict=True)
    lines = [f"{k}\t{label}\t{j}\t{r:.4f}\t{int(j == label)}\t0" for k, label, j, r in rows]
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + "\n".join(lines) + "\n")
    return path


def test_an_estimated_clean_accuracy_counts_no_input_that_an_h_of_the_log_could_lose(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count, classes = 400, 4
    radii, predicted = rng.uniform(0.01, 2.0, count), rng.integers(0, classes, count)
    labels = np.where(rng.random(count) < 0.6, predicted, rng.integers(0, classes, count))
    log = read_log(log_of(tmp_path / "h.tsv", radii.tolist(), predicted.tolist(), labels.tolist()), 1.0)
    g = rng.dirichlet(np.full(classes, 0.3), count)
    p = ndtr(log.radius)
    for alpha in (0.55, 0.7, 0.9):
        right = match_clean.estimated_right(log, g, alpha)
        survived = np.ones(count, dtype=bool)
        for k in range(200):
            rest = rng.dirichlet(np.full(classes - 1, 1.0 if k % 2 else 0.05), count) * (1 - p[:, None])
            h = np.zeros((count, classes))
            h[np.arange(classes)[None] != log.predicted[:, None]] = rest.ravel()
            h[np.arange(count), log.predicted] = p
            survived &= ((1 - alpha) * g + alpha * h).argmax(1) == log.labels
        assert not (right & ~survived).any()
        assert (survived & ~right).sum() <= 0.03 * count  # and hardly any that none could


def test_match_clean_chooses_the_largest_alpha_that_is_as_accurate_as_the_baseline(tmp_path: Path) -> None:
    # h is wrong at input 1 with p = Φ(0.5) = .69; a sure g is right: the mix is, from alpha < 1/1.69 = .591 down
    mix = log_of(tmp_path / "h.tsv", [2.0, 0.5, 0.0, 1.0], [1, 0, -1, 2], [1, 1, 2, 0])
    baseline = log_of(tmp_path / "b.tsv", [0.5, 0.5, 0.0, 0.5], [1, 1, -1, 1], [1, 1, 2, 0])
    g = tmp_path / "g.npz"
    np.savez(g, probabilities=np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=float))
    logs = [f"--log={mix}", "--noise-std=1", f"--baseline-log={baseline}", "--baseline-noise-std=1"]
    common = ["certified-curves", *logs, f"--out={tmp_path}"]
    assert run([*common, f"--match-clean={g}"]) == 0
    settings = json.loads((tmp_path / "certified-curves.json").read_text())["settings"]
    assert [s["alpha"] for s in settings["sources"]] == [0.59, 1.0]
    assert [s["inputs"] for s in settings["sources"]] == [3, 3]  # those that g's predictions cover
    assert list(settings["clean_accuracy"].values()) == pytest.approx([200 / 3, 200 / 3])
    with pytest.raises(UsageError, match="leave out --alpha"):
        run([*common, f"--match-clean={g}", "--alpha=0.7"])
    with pytest.raises(UsageError, match="baseline-log"):
        run([*common[:3], f"--match-clean={g}"])
    np.savez(g, logits=np.zeros((4, 3)))
    with pytest.raises(UsageError, match="no alpha above 1/2"):
        run([*common, f"--match-clean={g}"])
    bad = {"add up": {"probabilities": np.ones((3, 3))}, "one array": {"x": np.ones(3)},
           "shape": {"logits": np.ones(3)}, "2 classes": {"logits": np.ones((3, 2))}}  # fmt: skip
    for complaint, arrays in bad.items():
        np.savez(g, **arrays)
        with pytest.raises(UsageError, match=complaint):
            run([*common, f"--match-clean={g}"])
    g.write_text("nothing")
    with pytest.raises(UsageError, match=r"no \.npz"):
        run([*common, f"--match-clean={g}"])


@pytest.fixture(scope="module")
def smoothing_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of six digits with randomised smoothing, few draws."""
    out = tmp_path_factory.mktemp("runs") / "smoothed"
    models = [f"--standard={DIGITS / 'standard.onnx'}", f"--robust={DIGITS / 'smoothed.onnx'}"]
    drawn = ["--method=smoothing", "--noise-std=0.5", "--samples=2000", "--selection-samples=200"]
    code = certmix_command(["audit", *models, f"--data={DIGITS / 'audit.npz'}", "--limit=6", "--alpha=0.8", "--norm=L2",
                            *drawn, "--attack-steps=0", f"--out={out}"])  # fmt: skip
    assert code == 0
    return out


def curves_of(folder: Path) -> dict[str, dict[str, list[float]]]:
    found = json.loads((folder / "certified-curves.json").read_text())
    return {curve["name"].split(": ")[1]: curve for curve in found["settings"]["curves"]}


def test_certified_curves_are_read_from_a_smoothing_run(smoothing_run: Path, tmp_path: Path) -> None:
    assert run(["certified-curves", f"--run={smoothing_run}", f"--out={tmp_path}"]) == 0
    records = [json.loads(line) for line in (smoothing_run / "certificates.jsonl").read_text().splitlines()]
    radii = [r["radius"] for r in records if r["outcome"] == "certified" and r["predicted"] == r["label"]]
    assert len(radii) >= 3, "the run must certify something for this test to mean anything"
    curve = curves_of(tmp_path)["certificates of the audit"]
    assert curve["radii"] == [0.0, *sorted(set(radii))]  # every step: nothing is sampled
    for radius, share in zip(curve["radii"], curve["accuracy"], strict=True):
        assert share == pytest.approx(100 * sum(r > radius for r in radii) / 6)
    assert (tmp_path / "certified-curves.png").exists()


def test_a_drawn_curve_is_the_exact_one_between_its_steps_too() -> None:
    radius = np.array([0.5, 0.25, -np.inf, 0.125, 0.25, 0.75])
    found = Radii("c", "b", radius, np.array([True, True, True, True, True, False]))
    assert found.steps() == (0.0, 0.125, 0.25, 0.5)
    for at in np.linspace(0, 1, 81):
        held = max(step for step in found.steps() if step <= at)
        assert found.at((float(at),)) == found.at((held,))


def test_every_bound_of_a_run_is_drawn_on_the_runs_own_draws(smoothing_run: Path, tmp_path: Path) -> None:
    log = tmp_path / "b.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t2.000\t1\t0\n")
    also = [f"--baseline-log={log}", "--baseline-noise-std=1"]
    assert run(["certified-curves", f"--run={smoothing_run}", "--all-bounds", *also, f"--out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "certified-curves.json").read_text())
    assert [next(iter(s)) for s in found["settings"]["sources"]] == ["run", "log"]
    mixed = {row[0].split(": ")[1]: row[1:] for row in found["rows"] if row[0].startswith("mix")}
    # the chosen bound counts what the audit counted; a smaller constant is never worse
    audited, best = mixed["certificates of the audit"], mixed["best bound, chosen beforehand"]
    assert best == pytest.approx(audited)
    # clean accuracies: the mix's estimated by draws, at least what is certified at 0; the baseline's from its log
    clean = found["settings"]["clean_accuracy"]
    assert [key.split(",")[0] for key in clean] == ["mix", "baseline"]
    assert next(iter(clean.values())) >= best[0]
    assert clean["baseline, σ 1"] == 100.0
    pairs = zip(mixed["Theorem 3.5, constant 1/(σ√(2π))"], mixed["Theorem 3.5, constant √(2/πσ²)"], strict=True)
    assert all(tight >= paper for tight, paper in pairs)


def test_a_folder_without_a_smoothing_run_is_refused(smoothing_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        run(["certified-curves", f"--out={tmp_path}"])
    with pytest.raises(UsageError, match="no run"):
        run(["certified-curves", f"--run={tmp_path}"])
    header = json.loads((smoothing_run / "run.json").read_text())
    for changes, complaint in (({"method": "margin"}, "margin"), ({"radius": 0.25}, "one radius"), ({}, "unfinished")):
        content = {**header, "settings": {**header["settings"], **changes}}
        (tmp_path / "run.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match=complaint):
            run(["certified-curves", f"--run={tmp_path}"])


def test_a_model_of_any_layers_loads_from_a_saved_program(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 3)).eval()
    program = torch.export.export(
        module, (torch.rand(2, 4),), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=1024)},)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(UsageError, match="can run code that it holds: if you trust it, --allow-code"):
        load_classifier(str(tmp_path / "m.pt2"))
    loaded = load_classifier(str(tmp_path / "m.pt2"), allow_code=True)
    x = torch.rand(5, 4, requires_grad=True)
    assert torch.allclose(loaded(x), module(x))
    (gradient,) = torch.autograd.grad(loaded(x).sum(), x)
    assert float(gradient.abs().sum()) > 0


def test_bad_input_is_one_line_of_advice(tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, images=np.zeros((2, 1, 8, 8), np.uint8), labels=np.array([0, 1]))
    models = [f"--{m}={DIGITS / m}.onnx" for m in ("standard", "robust")]
    with pytest.raises(UsageError, match="radius is missing"):
        run(["confidence", *models, f"--data={data}", f"--out={tmp_path}"])
    with pytest.raises(UsageError, match="gammas"):
        run(["tradeoff", *models, f"--data={data}", "--radius=0.1", "--gammas", "nan", f"--out={tmp_path}"])
    with pytest.raises(UsageError, match="alpha"):
        run(["accuracy-vs-alpha", *models, f"--data={data}", "--radius=0.1", "--alphas", "2", f"--out={tmp_path}"])
    with pytest.raises(UsageError, match="alpha"):
        run(["certified-curves", "--log=x.tsv", "--noise-std=1", "--alpha=0.5"])
    with pytest.raises(UsageError, match="no such file"):
        load_classifier(str(tmp_path / "missing.pt2"))
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"torch\.export"):
        load_classifier(str(tmp_path / "bad.pt2"), allow_code=True)


@pytest.mark.parametrize("config", sorted(PAPER.glob("*.toml")), ids=lambda p: p.stem)
def test_the_shipped_settings_of_the_paper_parse(config: Path) -> None:
    name = {"figure1": "tradeoff", "figure2": "accuracy-vs-alpha", "figure3": "certified-curves",
            "figure4": "tradeoff", "table1": "confidence"}[config.stem.split("_")[0]]  # fmt: skip
    parser = Parser(prog="certmix experiment", allow_abbrev=False)
    experiment.add_arguments(parser)
    options = parse(parser, [name, "--config", str(config)])
    if name == "certified-curves":
        assert options.alpha > 0.5
    else:
        assert options.radius > 0
        assert options.steps in (10, 20)


@pytest.mark.parametrize("config", sorted(OURS.glob("*.toml")), ids=lambda p: p.stem)
def test_the_figures_of_the_experiments_page_come_from_the_shipped_settings(config: Path) -> None:
    pair_name, name = config.stem.split("_")
    parser = Parser(prog="certmix experiment", allow_abbrev=False)
    experiment.add_arguments(parser)
    options = parse(parser, [name, "--config", str(config)])
    folder = Path(options.out)
    assert folder.resolve() == OURS.parents[1] / "docs" / "experiments" / pair_name
    found = json.loads((folder / f"{name}.json").read_text())
    assert (folder / f"{name}.png").exists()
    settings = found["settings"]
    if name == "certified-curves":
        runs = [Path(s["run"]).name for s in settings["sources"] if "run" in s]
        assert runs == [Path(r).name for r in options.run or ()]
        mixed = [s["alpha"] for s in settings["sources"] if "log" in s][:1]
        assert mixed == [options.alpha] if options.alpha else bool(mixed) == bool(options.match_clean)
        return
    assert settings["inputs"] <= options.limit
    for key in ("norm", "radius", "steps", "restarts", "rivals", "seed"):
        assert settings[key] == getattr(options, key)
