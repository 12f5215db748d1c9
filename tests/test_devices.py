"""Every engine, estimate and attack on a device against the processor: `make test-gpu`, which names it in
CERTMIX_DEVICE. Noise and counts, and LipSDP's descent, have files of their own that run on any machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from small_networks import NORMS, mlp

import certmix
from certmix.__main__ import main
from certmix.attacks.ball import make_ball
from certmix.attacks.worst import Budget, worst
from certmix.data.dataset import load_data
from certmix.mixing.mixed import MixedClassifier
from certmix.models.model import load_model
from certmix.provers.lipschitz_constants import Request, as_record, measure_all
from certmix.settings import Settings, SmoothingSettings
from proofs_check.certificate import Norm
from verifiers import ENGINES
from verifiers.engine import MarginQuery
from verifiers.lipschitz.estimate import Search
from verifiers.network.module import PlainModule

DEVICE = os.environ.get("CERTMIX_DEVICE", "")
pytestmark = pytest.mark.skipif(not DEVICE, reason="make test-gpu names a device in CERTMIX_DEVICE")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_engines_bound_the_same(engine: str, norm: Norm) -> None:
    network = mlp(0, (6, 12, 9, 4))
    x = torch.rand((7, 6), generator=torch.Generator().manual_seed(0))
    y = PlainModule(network)(x).argmax(dim=1)
    query = MarginQuery(network, x, norm, torch.full((7,), 0.1, dtype=torch.float64), (0.0, 1.0), y)
    here, there = (ENGINES[engine](steps=3, device=d).bounds(query) for d in ("cpu", DEVICE))
    assert torch.allclose(here.lower, there.lower, rtol=1e-3, atol=1e-4)
    assert torch.allclose(here.upper, there.upper, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_lipschitz_constants_and_estimates_are_the_same(norm: Norm) -> None:
    network = mlp(0, (6, 12, 9, 4))
    x = torch.rand((5, 6), generator=torch.Generator().manual_seed(0))
    request = Request(norm, 0.05, (0.0, 1.0), 0.9, 1.0, True, False, Search(5, 2, 0), "best")
    here, there = (
        as_record(measure_all(network, x, request, d, 3, lambda done, total: None), request) for d in ("cpu", DEVICE)
    )
    for one, other in zip(here["rows"], there["rows"], strict=True):
        assert one["predicted"] == other["predicted"]
        for group in ("logits", "probability", "relaxed"):
            certified = {k: v for k, v in one[group].items() if "estimate" not in k}
            assert {k: other[group][k] for k in certified} == pytest.approx(certified, rel=1e-3, abs=1e-6)
            # an attack may end elsewhere, never above what is certified
            for k in one[group].keys() - certified.keys():
                assert other[group][k] <= max(certified.values()) * (1 + 1e-6)


def test_certificates_by_smoothing_are_the_same(digits: Path) -> None:
    data = load_data(digits / "audit.npz", 4)
    standard, robust = load_model(f"{digits}/standard.onnx"), load_model(f"{digits}/smoothed.onnx")
    found = []
    for device in ("cpu", DEVICE):
        smoothing = SmoothingSettings(0.5, 2000, base="hard")
        settings = Settings(0.9, norm="L2", method="smoothing", smoothing=smoothing, device=device)
        found.append(certmix.certify(standard, robust, torch.from_numpy(data.inputs), settings=settings))
    for one, other in zip(*found, strict=True):
        assert type(one) is type(other)
        if isinstance(one, certmix.Certified) and isinstance(other, certmix.Certified):
            assert other.radius == pytest.approx(one.radius, rel=0.05)  # a vote may turn with a network's last digit
            assert certmix.check(other)


def test_attacks_find_no_less(digits: Path) -> None:
    data = load_data(digits / "audit.npz", 24)
    models = [load_model(f"{digits}/{name}.onnx").module for name in ("standard", "robust")]
    found = []
    for device in ("cpu", DEVICE):
        mix = MixedClassifier(models[0].to(device), models[1].to(device), 0.75)
        x, labels = (torch.from_numpy(v).to(device) for v in (data.inputs, data.labels))
        ball = make_ball(x, 0.15, "Linf", (0.0, 1.0))
        found.append(int(worst(mix, ball, labels, Budget(5)).found.sum()))
    assert found[0] > 0
    assert abs(found[0] - found[1]) <= 2


def test_the_quick_paths_of_the_command_take_the_device(digits: Path, tmp_path: Path) -> None:
    models = [f"--standard={digits}/standard.onnx", f"--robust={digits}/robust.onnx", f"--data={digits}/audit.npz"]
    given = ["--limit=3", f"--device={DEVICE}"]
    for method in (["--alpha=0.75"], ["--alpha=0.75", "--method=lipschitz"]):
        assert main(["audit", *models, *given, *method, f"--out={tmp_path}/{len(method)}"]) == 0
        assert main(["check", f"{tmp_path}/{len(method)}"]) == 0
