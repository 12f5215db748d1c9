"""Robust classifiers with curved activations, from the file a torch exporter writes to the judge's verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from certmix.__main__ import main
from proofs_check.__main__ import main as judge


def written(folder: Path, activation: nn.Module) -> list[str]:
    """Three clusters, and a classifier of them that is trained until it is sure: its files as options."""
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(40)
    centers = torch.tensor([[0.2, 0.2, 0.8, 0.5], [0.8, 0.3, 0.2, 0.5], [0.5, 0.9, 0.5, 0.1]])
    images = (centers[labels] + 0.05 * torch.randn(120, 4)).clamp(0, 1)
    model = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3))
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
    [(nn.GELU(), "margin"), (nn.GELU(), "lipschitz"), (nn.SiLU(), "margin"), (nn.ELU(), "lipschitz")],
    ids=str,
)
def test_a_curved_network_is_the_robust_classifier_of_an_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], activation: nn.Module, method: str
) -> None:
    options = [*written(tmp_path, activation), "--norm", "L2", "--radius", "0.02", "--method", method]
    out = tmp_path / "run"
    assert main(["audit", *options, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["certified", "certified"]
    capsys.readouterr()
    assert judge([str(out)]) == 0
    assert "2 accepted" in capsys.readouterr().out


def test_an_engine_that_does_not_know_a_curve_says_which_one_does(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["audit", *written(tmp_path, nn.GELU()), "--engine", "auto_lirpa", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "certificates.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == {"ENGINE_FAILED"}
    assert {line["advice"] for line in lines} == {
        "Gelu layers have no steps for auto_LiRPA: take the native engine (--engine crown)"
    }
