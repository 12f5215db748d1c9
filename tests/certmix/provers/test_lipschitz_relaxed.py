"""Relaxed local constants: attacks below engines, engines agreed, and both libraries on the ordinary path."""

from __future__ import annotations

import json
from pathlib import Path

import cvxpy
import numpy as np
import pytest
import torch

from certmix.__main__ import main
from certmix.provers.lipschitz_constants import Request, measure_all
from certmix.provers.lipschitz_relaxed import RelaxedLocal, askers, contradiction
from proofs_check import certificate as c
from verifiers.auto_lirpa import compat
from verifiers.engine import EngineError
from verifiers.lipschitz.estimate import Search
from verifiers.network.module import build

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits"


def network(seed: int, hidden: int = 12) -> c.PlainNetwork:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (2 * rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)

    head = [c.Input((6,)), c.Linear((0,), draw(hidden, 6), draw(hidden)), c.Relu((1,))]
    return build([*head, c.Linear((2,), draw(3, hidden), draw(3))])


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_estimates_stay_below_what_engines_certify_and_their_radii_above(norm: c.Norm) -> None:
    compared = 0
    for seed in range(3):
        x = torch.rand((8, 6), generator=torch.Generator().manual_seed(seed))
        request = Request(norm, 0.2, (0.0, 1.0), 0.7, 3.0, lipsdp=False, search=Search(5, 2, seed))
        (found,) = measure_all(network(seed), x, request, "cpu", 8, lambda *_: None)
        assert found.notes == ()
        for name in ("crown", "auto_lirpa"):
            assert bool((found.relaxed["estimate"] <= found.relaxed[name]).all())
            assert bool((found.radii[f"local, {name}"] <= found.radii["estimate, paper"]).all())
            assert bool((found.radii[f"local, {name}"] <= 0.2).all())
            compared += int(((found.radii[f"local, {name}"] > 0) & (found.radii[f"local, {name}"] < 0.2)).sum())
        best = torch.maximum(found.radii["local, crown"], found.radii["local, auto_lirpa"])
        assert found.relaxed_holds.tolist() == (best == 0.2).tolist()
    assert compared >= 2, "some fixed points must lie inside for this test to mean anything"


def test_a_fixed_point_passes_where_it_is_and_fails_a_little_beyond() -> None:
    net, x = network(3), torch.rand((8, 6), generator=torch.Generator().manual_seed(0))
    common = {"domain": (0.0, 1.0), "alpha": 0.7, "temperature": 3.0, "lipsdp": False, "search": Search(1, 1)}
    (found,) = measure_all(net, x, Request("Linf", 0.2, **common), "cpu", 8, lambda *_: None)
    radii = found.radii["local, auto_lirpa"]
    inside = ((radii > 0) & (radii < 0.2)).nonzero()[:4, 0].tolist()
    assert len(inside) == 4
    for n in inside:
        for factor, holds in ((1.0, True), (1.03, False)):
            request = Request("Linf", float(radii[n]) * factor, **common, engine="auto_lirpa")
            (there,) = measure_all(net, x[n : n + 1], request, "cpu", 8, lambda *_: None)
            assert bool(there.relaxed_holds[0]) == holds


def test_engines_that_contradict_each_other_are_found() -> None:
    def bounds(lower: list[float], upper: list[float]) -> RelaxedLocal:
        low, high = (torch.tensor([[0.0, v] for v in ends], dtype=torch.float64) for ends in (lower, upper))
        return RelaxedLocal(low, high, low, low[:, 0])

    first, second = bounds([-1.0, -1.0, 0.5], [0.0, 0.0, 1.0]), bounds([-2.0, 1e-9, -1.0], [1.0, 2.0, 0.4])
    assert contradiction(first, second) == contradiction(second, first) == [2]


def test_without_auto_lirpa_the_best_engine_is_the_native_one_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise EngineError("auto_LiRPA is not installed; pip install it")

    monkeypatch.setattr(compat, "load", absent)
    net = network(0)
    found, notes = askers(net, "best", "cpu")
    assert list(found) == ["crown"]
    assert notes == ("auto_LiRPA left out: auto_LiRPA is not installed; pip install it",)
    with pytest.raises(EngineError, match="not installed"):
        askers(net, "auto_lirpa", "cpu")
    request = Request("Linf", 0.1, alpha=0.8, search=Search(1, 1))
    parts = measure_all(net, torch.rand(4, 6), request, "cpu", 2, lambda *_: None)
    assert [part.notes for part in parts] == [notes, notes]  # as_record names each note once
    assert set(parts[0].relaxed) == {"estimate", "crown"}
    models = [f"--robust={DIGITS / 'robust.onnx'}", f"--data={DIGITS / 'audit.npz'}", "--limit=1"]
    assert main(["lipschitz", *models, "--radius=0.01", "--engine=auto_lirpa"]) == 2
    assert "auto_LiRPA is not installed; pip install it" in capsys.readouterr().err


def test_the_ordinary_path_of_certmix_lipschitz_asks_auto_lirpa_and_cvxpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the README, with no option that names either, on a network small enough for the cone program."""
    lirpa, modules, solves = compat.load(), [], []
    make, solve = lirpa.BoundedModule.__init__, cvxpy.Problem.solve
    monkeypatch.setattr(lirpa.BoundedModule, "__init__", lambda *a, **k: (modules.append(1), make(*a, **k))[1])
    monkeypatch.setattr(cvxpy.Problem, "solve", lambda *a, **k: (solves.append(1), solve(*a, **k))[1])
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).eval()
    torch.onnx.export(module, (torch.zeros(1, 6),), str(tmp_path / "h.onnx"), dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}})  # fmt: skip
    np.savez(tmp_path / "d.npz", images=np.random.default_rng(0).random((3, 6), np.float32), labels=np.arange(3))
    command = ["lipschitz", f"--robust={tmp_path / 'h.onnx'}", f"--data={tmp_path / 'd.npz'}", "--norm=L2"]
    assert main([*command, "--radius=0.1", "--alpha=0.9", "--steps=2", f"--out={tmp_path / 'out'}"]) in (0, None)
    assert len(modules) > 0
    assert len(solves) > 0
    row = json.loads((tmp_path / "out" / "lipschitz.json").read_text())["rows"][0]
    assert set(row["relaxed"]) == {"estimate", "crown", "auto_lirpa"}
