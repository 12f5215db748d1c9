"""`certmix lipschitz` and `--method lipschitz`: the sandwich of constants, judged certificates, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from small_networks import NORMS, ORDER
from torch import nn

from certmix.commands import lipschitz
from certmix.commands.parsing import Parser
from certmix.errors import UsageError
from certmix.models.model import Model, from_module
from certmix.provers.judging import check
from certmix.provers.lipschitz import LipschitzProver, Proposals, certify_lipschitz
from certmix.provers.lipschitz_constants import Request, global_pairs, measure
from certmix.provers.lipschitz_relaxed import askers
from certmix.provers.problem import ProverProblem
from certmix.provers.session import open_session
from certmix.records.outcomes import Abstained, Certified, Reason
from certmix.settings import Settings
from proofs_check import certificate as c
from proofs_check import judge
from proofs_check.certificate import Accepted, Assumption
from proofs_check.kernel import bounds, jacobian
from verifiers.engine import EngineError
from verifiers.lipschitz.estimate import Search
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP
from verifiers.lipschitz.value_bounds import Balls
from verifiers.network.module import PlainModule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the ONNX exporter


def mlp(seed: int, hidden: int = 12, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(9, hidden), nn.ReLU(), nn.Linear(hidden, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        model[-1].weight *= scale
    return model


def conv(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.LeakyReLU(0.1), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(3, 3)
    ).eval()


class Residual(nn.Module):
    """A pooled residual block with every smooth activation between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 2, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.pool, self.last = nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.sigmoid(self.norm(self.second(x)) + x)
        return self.last(torch.tanh(self.pool(x)).flatten(1))


def residual(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Residual().eval()


def model_of(module: nn.Module) -> Model:
    return from_module(module.eval(), (1, 3, 3))


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand((count, 1, 3, 3), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("build", [mlp, conv, residual])
def test_sampled_estimate_local_and_global_constants_are_in_order_with_zero_tolerance(build, norm: c.Norm) -> None:
    for seed in range(2):
        network = model_of(build(seed)).network
        assert network is not None
        maps, x = LinearMaps(network), images(4, seed)
        for radius in (0.01, 0.4):
            request = Request(norm, radius, search=Search(6, 2, seed))
            engines, _ = askers(network, "crown", "cpu")
            found = measure(maps, x, request, global_pairs(maps, request, [0, 1, 2]), engines)
            assert bool((found.estimate <= found.local).all())
            assert bool((found.local <= found.overall).all())
            assert bool((found.probability_estimate <= found.probability_local).all())
            assert bool((found.probability_local <= found.probability_overall).all())
            sampled = sampled_quotients(network, x, radius, norm, found.predicted)
            # the sampled quotients are rounded themselves
            assert bool((sampled * (1 - 1e-9) <= found.local).all())


def sampled_quotients(
    network: c.PlainNetwork, x: torch.Tensor, radius: float, norm: c.Norm, y: torch.Tensor
) -> torch.Tensor:
    """(N,) the largest |d_j(x') - d_j(x)| / ‖x' - x‖ over random x' of ball and domain."""
    model = PlainModule(network).double()
    generator = torch.Generator().manual_seed(5)
    best = torch.zeros(len(x), dtype=torch.float64)
    base = model(x.double())
    for _ in range(60):
        move = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        size = torch.linalg.vector_norm(move.flatten(1), ord=ORDER[norm], dim=1).reshape(-1, 1, 1, 1)
        near = (x.double() + move * (radius * 0.999 / size)).clamp(0, 1)
        length = torch.linalg.vector_norm((near - x.double()).flatten(1), ord=ORDER[norm], dim=1)
        change = model(near) - base
        change = (change - change.gather(1, y[:, None])).abs().amax(dim=1)
        best = torch.maximum(best, change / length)
    return best


def problem(robust: Model, x: torch.Tensor, **kw: object) -> ProverProblem:
    given: dict = {"alpha": 0.9, "norm": "L2", "method": "lipschitz", "attack_steps": 0} | kw
    count = len(x)
    return ProverProblem(model_of(mlp(99)), robust, x, tuple(range(count)), (0,) * count, Settings(**given))


def prove(given: ProverProblem) -> list:
    assert given.standard.network is not None
    return certify_lipschitz(given, open_session(given))


def only(kind: str, given: ProverProblem) -> LipschitzProver:
    """A prover with one kind of evidence."""

    def nothing(self, point, inputs):
        return Proposals(torch.zeros(len(inputs), dtype=torch.float64))

    others = {"_relaxed", "_local", "_global", "_layers"} - {kind}
    prover = type("OnlyOneKind", (LipschitzProver,), dict.fromkeys(others, nothing))
    session = open_session(given)
    table = session.global_table
    return prover(given, session.judge, session.engine, table.maps, table)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("build", [mlp, conv])
def test_every_certificate_is_accepted_by_the_judge_without_assumptions(build, norm: c.Norm) -> None:
    robust = model_of(mlp(3, scale=20.0) if build is mlp else conv(3))
    outcomes = prove(problem(robust, images(6, 1), norm=norm, temperature=1.0 if build is mlp else 8.0))
    certified = [o for o in outcomes if isinstance(o, Certified)]
    assert certified
    for outcome in certified:
        assert check(outcome) == Accepted(frozenset())
        assert 0 < outcome.radius <= outcome.proposed_radius
        assert outcome.method == "lipschitz"


def test_the_judges_bounds_are_derived_by_the_judge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    judging, outside = [False], [0]
    check_one, derive = judge.check, bounds.value_bounds

    def checked(*arguments):
        judging[0] = True
        verdict = check_one(*arguments)
        judging[0] = False
        return verdict

    def derived(*arguments):
        outside[0] += not judging[0]
        return derive(*arguments)

    monkeypatch.setattr(judge, "check", checked)
    monkeypatch.setattr(bounds, "value_bounds", derived)
    outcomes = prove(problem(model_of(mlp(3, scale=20.0)), images(6, 1)))
    assert any(isinstance(o, Certified) for o in outcomes)
    assert outside == [0]


@pytest.mark.parametrize("norm", NORMS)
def test_anchored_constants_alone_certify_although_the_judge_derives_its_own(norm: c.Norm) -> None:
    outcomes = only("_local", problem(model_of(mlp(3, scale=20.0)), images(6, 1), norm=norm)).prove()
    certified = [o for o in outcomes if isinstance(o, Certified)]
    assert certified
    for outcome in certified:
        assert json.loads(outcome.line)["evidence"]["rule"] == "lipschitz_local"
        assert check(outcome) == Accepted(frozenset())
        assert outcome.radius == outcome.proposed_radius


def test_a_judge_whose_constants_are_larger_costs_no_more_than_that_much_of_the_radius(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = problem(model_of(mlp(3, scale=20.0)), images(6, 1))
    radii = [o.radius if isinstance(o, Certified) else 0.0 for o in only("_local", given).prove()]
    larger = jacobian.difference_constants
    monkeypatch.setattr(jacobian, "difference_constants", lambda *arguments: larger(*arguments) * 1.02)
    smaller = [o.radius if isinstance(o, Certified) else 0.0 for o in only("_local", given).prove()]
    for before, after in zip(radii, smaller, strict=True):
        assert before * 0.965 <= after <= before


def test_an_engines_relaxed_constants_carry_the_assumption() -> None:
    outcomes = prove(problem(model_of(mlp(3, scale=20.0)), images(6, 1), evidence="engine"))
    certified = [o for o in outcomes if isinstance(o, Certified)]
    assert certified
    assert {check(o) for o in certified} == {Accepted(frozenset({Assumption.ENGINE_TRUSTED}))}
    assert {json.loads(o.line)["evidence"]["rule"] for o in certified} == {"engine_lipschitz_relaxed"}


def test_a_fixed_radius_is_decided_and_a_larger_one_is_never_easier() -> None:
    robust, x = model_of(mlp(3, scale=20.0)), images(6, 1)
    largest = [o.radius if isinstance(o, Certified) else 0.0 for o in prove(problem(robust, x))]
    middle = sorted(largest)[3]
    assert middle > 0
    below, above = (prove(problem(robust, x, radius=middle * f)) for f in (0.9, 3.0))
    for r, small, large in zip(largest, below, above, strict=True):
        assert isinstance(small, Certified) == (r >= middle * 0.9)
        assert not (isinstance(large, Certified) and not isinstance(small, Certified))
    refused = [o for o in above if isinstance(o, Abstained)]
    assert {o.reason for o in refused} <= {Reason.RADIUS_NOT_REACHED, Reason.MARGIN_TOO_SMALL}


def test_no_corner_of_a_certified_ball_changes_the_mix() -> None:
    robust, standard = model_of(mlp(3, scale=20.0)), model_of(mlp(99))
    x = images(6, 1)
    generator = torch.Generator().manual_seed(0)
    for k, outcome in enumerate(prove(problem(robust, x, norm="Linf", alpha=0.8))):
        if not isinstance(outcome, Certified):
            continue
        signs = torch.randint(0, 2, (400, 1, 3, 3), generator=generator).double() * 2 - 1
        near = (x[k].double() + signs * outcome.radius * (1 - 1e-9)).clamp(0, 1)
        parts = [torch.softmax(PlainModule(m.network).double()(near), dim=1) for m in (standard, robust)]  # type: ignore[arg-type]
        assert bool(((0.2 * parts[0] + 0.8 * parts[1]).argmax(dim=1) == outcome.predicted).all())


def test_without_a_domain_the_largest_radius_is_still_found() -> None:
    robust, x = model_of(mlp(3, scale=20.0)), images(4, 1)
    boxed, free = prove(problem(robust, x, norm="Linf")), prove(problem(robust, x, norm="Linf", domain=None))
    for a, b in zip(boxed, free, strict=True):
        assert isinstance(a, Certified) == isinstance(b, Certified)
        if isinstance(a, Certified) and isinstance(b, Certified):
            assert 0 < b.radius <= a.radius * 1.01


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alpha": 0.5}, Reason.NO_THEOREM),
        ({"alpha": 0.51, "temperature": 0.01}, Reason.MARGIN_TOO_SMALL),
        ({"semantics": "float32"}, Reason.NO_THEOREM),
        ({"radius": 50.0}, Reason.RADIUS_NOT_REACHED),
    ],
)
def test_what_no_theorem_covers_is_an_outcome_with_its_reason(change: dict, reason: Reason) -> None:
    for outcome in prove(problem(model_of(mlp(3, scale=20.0)), images(2, 1), **change)):
        assert isinstance(outcome, Abstained)
        assert outcome.reason == reason
        assert outcome.advice


def test_an_engine_that_knows_no_bound_is_an_outcome_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise EngineError("node 3 (Attention) has no known Lipschitz bound")

    monkeypatch.setattr("certmix.provers.session.LinearMaps", unknown)
    for outcome in prove(problem(model_of(mlp(5)), images(2, 1))):
        assert isinstance(outcome, Abstained)
        assert (outcome.reason, "Attention" in outcome.advice) == (Reason.ENGINE_FAILED, True)


def test_a_session_computes_what_holds_everywhere_once_for_all_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    solve = LipSDP.bounds

    def counted(self: LipSDP, maps: LinearMaps, forms: Any, slopes: Any) -> Any:
        calls.append(len(forms))
        return solve(self, maps, forms, slopes)

    monkeypatch.setattr(LipSDP, "bounds", counted)
    given = problem(model_of(mlp(3, scale=20.0)), images(2, 1))
    session = open_session(given)
    certify_lipschitz(given, session)
    once = list(calls)
    certify_lipschitz(given, session)
    assert once
    assert calls == once
    certify_lipschitz(given, open_session(given))
    assert calls == once * 2


def test_solvers_that_fail_leave_the_other_kinds_of_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise EngineError("the SDP solver failed")

    monkeypatch.setattr("verifiers.lipschitz.lipsdp.LipSDP.bounds", fail)
    outcomes = prove(problem(model_of(mlp(6, scale=20.0)), images(6, 1)))
    rules = {json.loads(o.line)["evidence"]["rule"] for o in outcomes if isinstance(o, Certified)}
    assert rules
    assert "lipschitz_global" not in rules


@pytest.mark.parametrize(
    ("rule", "norm"), [("_global", "L2"), ("_layers", "L2"), ("_layers", "Linf"), ("_layers", "L1")]
)
def test_global_constants_alone_certify_and_are_accepted(rule: str, norm: c.Norm) -> None:
    outcomes = only(rule, problem(model_of(mlp(3, scale=20.0)), images(6, 1), norm=norm)).prove()
    certified = [o for o in outcomes if isinstance(o, Certified)]
    assert certified
    for outcome in certified:
        assert json.loads(outcome.line)["evidence"]["rule"] == f"lipschitz{rule}"
        assert check(outcome) == Accepted(frozenset())


def test_semidefinite_bounds_are_for_pairs_with_a_class_asked_for_and_bound_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = model_of(mlp(3, scale=20.0)).network
    assert network is not None
    maps, request = LinearMaps(network), Request("L2", 0.1)
    everything = global_pairs(maps, request, [0, 1, 2])
    asked: list[np.ndarray] = []
    bounds_of = LipSDP.bounds

    def counted(self, maps, forms, slopes):
        asked.extend(forms)
        return bounds_of(self, maps, forms, slopes)

    monkeypatch.setattr(LipSDP, "bounds", counted)
    ticks: list[tuple[int, int]] = []
    found = global_pairs(maps, request, [1], lambda: ticks.append((len(asked), 1)))
    assert {tuple(form) for form in asked} == {(1.0, -1.0, 0.0), (0.0, 1.0, -1.0)}
    assert ticks == [(2, 1)]
    assert found.source == "LipSDP"
    assert bool((found.values[1] <= everything.values[1] * (1 + 1e-3)).all())
    assert found.values[0, 2] >= everything.values[0, 2] * (1 - 1e-3)
    assert found.values[0, 2] <= (found.values[0, 1] + found.values[1, 2]) * (1 + 1e-12)
    assert bool((found.values == found.values.T).all())


def test_slopes_are_tuned_only_where_untuned_ones_do_not_suffice_and_radii_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    robust, x = model_of(mlp(3, scale=20.0)), images(6, 1)
    tuned = [0]
    ask = LipschitzProver._ask

    def counted(self, inputs, radii, predicted):
        tuned[0] += len(inputs)
        return ask(self, inputs, radii, predicted)

    monkeypatch.setattr(LipschitzProver, "_ask", counted)
    few = only("_relaxed", problem(robust, x)).prove()
    here = tuned[0]
    monkeypatch.setattr(LipschitzProver, "_untuned", ask)  # what is tuned passes wherever the untuned does
    monkeypatch.setattr("certmix.provers.lipschitz.LARGEST_TUNABLE_LACK", np.inf)
    many = only("_relaxed", problem(robust, x)).prove()
    assert any(isinstance(o, Certified) for o in few)
    for a, b in zip(few, many, strict=True):
        assert isinstance(a, Certified) == isinstance(b, Certified)
        if isinstance(a, Certified) and isinstance(b, Certified):
            assert a.radius == b.radius
    without = only("_relaxed", problem(robust, x, optimise=0)).prove()
    radii = [sum(o.radius for o in outcomes if isinstance(o, Certified)) for outcomes in (without, few)]
    assert radii[0] < radii[1]
    assert 0 < here < 60


class MaxMin(nn.Module):
    """Of channel pairs, as published nets write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.split(x.shape[1] // 2, 1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def test_a_deep_maxmin_network_is_certified_with_its_true_constant() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(6):
        layer = nn.Conv2d(8, 8, 1) if layers else nn.Conv2d(1, 8, 1)
        nn.init.orthogonal_(layer.weight)
        layers += [layer, MaxMin()]
    last = nn.Linear(72, 3)
    nn.init.orthogonal_(last.weight)
    robust = model_of(nn.Sequential(*layers, nn.Flatten(), last))
    assert robust.network is not None
    assert sum(isinstance(node, c.Relu) for node in robust.network.nodes) == 6
    given = problem(robust, images(4, 1), temperature=40.0, alpha=0.7)
    table = open_session(given).global_table
    constants = table.layer_constants(0, "L2")
    assert bool((constants <= 2**0.5 * (1 + 1e-4)).all())  # of the logits of a 1-Lipschitz network
    certified = [o for o in only("_layers", given).prove() if isinstance(o, Certified)]
    assert certified
    assert all(check(o) == Accepted(frozenset()) for o in certified)


# ---------------------------------------------------------------- the subcommand


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    data, model = tmp_path / "d.npz", tmp_path / "h.onnx"
    x = images(5, 2)
    np.savez(data, images=x.numpy(), labels=np.zeros(5, np.int64))
    torch.onnx.export(mlp(3, scale=20.0).eval(), (x[:1],), str(model), dynamo=False)
    return model, data


def call(*words: object) -> int:
    parser = Parser(prog="certmix lipschitz")
    lipschitz.add_arguments(parser)
    return lipschitz.run(parser.parse_args([str(w) for w in words]))


def test_the_command_prints_a_table_and_writes_json_and_a_plot(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = files
    out = tmp_path / "out"
    words = ("--robust", model, "--data", data, "--norm", "L2", "--radius", "0.2", "--alpha", "0.8", "--limit", 3)
    assert call(*words, "--out", out, "--steps", 4, "--restarts", 1) == 0
    text = capsys.readouterr().out
    assert "certified local" in text
    assert "estimate" in text
    assert max(map(len, text.splitlines())) <= 80
    record = json.loads((out / "lipschitz.json").read_text())
    assert [row["index"] for row in record["rows"]] == [0, 1, 2]
    for row in record["rows"]:
        for kind in ("logits", "probability"):
            assert row[kind]["estimate"] <= row[kind]["local"] <= row[kind]["overall"]
        radius = row["radius"]
        assert radius["local, paper"] <= radius["local, bisected"] <= 0.2
        assert radius["global, closed form"] <= radius["global, bisected"] * (1 + 1e-6)
    assert (out / "lipschitz.png").stat().st_size > 1000


def test_upstreams_jacobian_bounds_are_said_to_be_used_or_why_not(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = files
    words = ("--robust", model, "--data", data, "--norm", "L2", "--radius", "0.2", "--limit", 2, "--no-lipsdp")
    words = (*words, "--steps", 2, "--restarts", 1, "--upstream-jacobian")

    def missing(*_: object) -> torch.Tensor:
        raise EngineError("auto_LiRPA 0.3 has no JacobianOP")

    monkeypatch.setattr("certmix.provers.lipschitz_constants.upstream_constants", missing)
    assert call(*words, "--out", tmp_path / "without") == 0
    without = json.loads((tmp_path / "without" / "lipschitz.json").read_text())
    assert without["notes"] == ["upstream's Jacobian bounds left out: auto_LiRPA 0.3 has no JacobianOP"]

    def small(network: c.PlainNetwork, balls: Balls, predicted: torch.Tensor) -> torch.Tensor:
        return torch.full((len(predicted), network.classes), 1e-3, dtype=torch.float64)

    monkeypatch.setattr("certmix.provers.lipschitz_constants.upstream_constants", small)
    assert call(*words, "--out", tmp_path / "with") == 0
    used = json.loads((tmp_path / "with" / "lipschitz.json").read_text())
    assert "JacobianOP" in used["notes"][0]
    assert [row["logits"]["local"] for row in used["rows"]] == [1e-3, 1e-3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--radius": "0"}, "radius must be > 0"),
        ({"--alpha": "1.5"}, "alpha must be in"),
        ({"--temperature": "0"}, "temperature must be > 0"),
        ({"--steps": "0"}, "steps must be >= 1"),
        ({"--robust": "missing.onnx"}, "missing.onnx"),
        ({"--norm": "L3"}, "invalid choice"),
    ],
)
def test_bad_input_is_one_line(files: tuple[Path, Path], change: dict[str, str], message: str) -> None:
    model, data = files
    options = {"--robust": str(model), "--data": str(data), "--norm": "L2", "--radius": "0.2"} | change
    with pytest.raises(UsageError) as error:
        call(*(w for pair in options.items() for w in pair))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_without_a_lipschitz_bound_is_named_not_bounded(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    graph = onnx.load(model)
    for node in graph.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Softmax"
    path = tmp_path / "softmax.onnx"
    onnx.save(graph, path)
    with pytest.raises(UsageError, match=r"softmax\.onnx has no Lipschitz bound: Exp layers"):
        call("--robust", path, "--data", data, "--norm", "L2", "--radius", "0.2")
