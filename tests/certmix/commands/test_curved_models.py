"""Robust classifiers with curved activations, gates, norms and attention, from the file a torch exporter writes to the
judge's verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certmix.__main__ import main
from proofs_check.__main__ import main as judge


class Gated(nn.Module):
    """Squeeze and excitation: channels times a sigmoid of what their means are, of an image of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv1d(1, 6, 2), nn.Linear(6, 6), nn.Linear(18, 3)

    def forward(self, x: Tensor) -> Tensor:
        channels = torch.relu(self.first(x[:, None]))
        return self.last((channels * torch.sigmoid(self.gate(channels.mean(2)))[:, :, None]).flatten(1))


class Attending(nn.Module):
    """Two tokens of two features: attention with a residual connection, layer norm and a perceptron with GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(2, 12), nn.LayerNorm(4)
        self.out, self.last = nn.Linear(2, 4), nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 2, 2)
        query, key, value = self.mix(tokens).chunk(3, 2)
        attended = torch.softmax(query @ key.transpose(1, 2), 2) @ value
        return self.last(self.norm(attended + self.out(tokens)).flatten(1))


def perceptron(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3))


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def written(folder: Path, model: nn.Module) -> list[str]:
    """Three clusters, and a classifier of them that is trained until it is sure: its files as options."""
    labels = torch.arange(3).repeat(40)
    centers = torch.tensor([[0.2, 0.2, 0.8, 0.5], [0.8, 0.3, 0.2, 0.5], [0.5, 0.9, 0.5, 0.1]])
    images = (centers[labels] + 0.05 * torch.randn(120, 4)).clamp(0, 1)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    torch.onnx.export(model.eval(), (images[:1],), folder / "m.onnx", dynamo=False, dynamic_axes={"x": {0: "batch"}},
                      input_names=["x"])  # fmt: skip
    np.savez(folder / "d.npz", images=images[::60].numpy(), labels=labels[::60].numpy())
    model_path = str(folder / "m.onnx")
    return ["--standard", model_path, "--robust", model_path, "--data", str(folder / "d.npz"), "--alpha", "0.75"]


@pytest.mark.parametrize(
    ("activation", "method"),
    [(nn.GELU(), "margin"), (nn.GELU(), "lipschitz"), (nn.SiLU(), "margin"), (nn.ELU(), "lipschitz"),
     (nn.Mish(), "margin")],
    ids=str,
)  # fmt: skip
def test_a_curved_network_is_the_robust_classifier_of_an_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], activation: nn.Module, method: str
) -> None:
    torch.manual_seed(0)
    assert_certified(tmp_path, capsys, perceptron(activation), method)


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        (Gated, "margin"),
        (Gated, "lipschitz"),
        (normalized, "margin"),
        (Attending, "margin"),
        pytest.param(Attending, "lipschitz", marks=pytest.mark.slow),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_gates_norms_and_attention_are_the_robust_classifier_of_an_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], architecture: Callable[[], nn.Module], method: str
) -> None:
    torch.manual_seed(0)
    assert_certified(tmp_path, capsys, architecture(), method)


def assert_certified(folder: Path, capsys: pytest.CaptureFixture[str], model: nn.Module, method: str) -> None:
    """Every input, and the judge agrees."""
    options = [*written(folder, model), "--norm", "L2", "--radius", "0.02", "--method", method]
    out = folder / "run"
    assert main(["audit", *options, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["certified", "certified"]
    capsys.readouterr()
    assert judge([str(out)]) == 0
    assert "2 accepted" in capsys.readouterr().out


def test_an_engine_that_does_not_know_a_curve_says_which_one_does(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["audit", *written(tmp_path, perceptron(nn.GELU())), "--engine", "auto_lirpa", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"ENGINE_FAILED"}
    assert {line["advice"] for line in lines} == {
        "Gelu layers have no steps for auto_LiRPA: take the native engine (--engine crown)"
    }
