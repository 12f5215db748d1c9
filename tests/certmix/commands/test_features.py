"""Features with units of their own: scaled inputs, models that scale back, radii in units, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refusal
from torch import nn

import certmix
from certmix.__main__ import main
from certmix.data.features import Features
from proofs_check.__main__ import main as judge

ENDS = Features((17.0, 0.0, -1.0), (90.0, 1e5, 1.0), (10.0, 2e4, 0.5), ("age", "income", "change"))
ALPHA = 0.8


def linear(weights: list[float], bias: float) -> nn.Module:
    """Two logits, of which the first exceeds the second by weights @ x + bias."""
    net = nn.Linear(len(weights), 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([weights, [0.0] * len(weights)]))
        net.bias.copy_(torch.tensor([bias, 0.0]))
    return net


SLOPES = [0.25, 1e-4, -2.0]
H = linear(SLOPES, -13.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table")
    (path / "domain.csv").write_text("feature,low,high,unit\nage,17,90,10\nincome,0,100000,20000\nchange,-1,1,0.5\n")
    (path / "d.csv").write_text("age,income,change,label\n40,50000,0.1,0\n60,20000,0.2,0\n17,100000,-1,0\n")
    torch.manual_seed(0)
    for name, net in (("h", H), ("g", nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))):
        torch.onnx.export(net, (torch.zeros(2, 3),), str(path / f"{name}.onnx"), dynamo=False,
                          input_names=["x"], dynamic_axes={"x": {0: "n"}}, verbose=False)  # fmt: skip
    return path


def audit(folder: Path, out: Path, *more: str) -> list[str]:
    files = [f"--standard={folder / 'g.onnx'}", f"--robust={folder / 'h.onnx'}", f"--data={folder / 'd.csv'}"]
    return ["audit", *files, f"--alpha={ALPHA}", "--domain", str(folder / "domain.csv"), f"--out={out}", *more]


def test_a_radius_is_in_units_of_each_feature_and_as_large_as_the_formula_says(folder, tmp_path, capsys) -> None:
    """h is linear: its class holds until radius * (the sum of |weight| * unit) has used up the margin. At the ends of
    the domain, where the third input lies, age and change cannot move the wrong way."""
    out = tmp_path / "run"
    assert main(audit(folder, out, "--attack-steps=3")) == 0
    told = "takes (x - low) / unit of raw inputs x, and radii are in these units: age 17 to 90"
    assert told in capsys.readouterr().out
    radii = [json.loads(line)["radius"] for line in (out / "certificates.jsonl").read_text().splitlines()]
    raw, slopes = np.array([[40, 50000, 0.1], [60, 20000, 0.2], [17, 100000, -1]]), np.array(SLOPES)
    required = math.log(1 / (2 * ALPHA - 1))  # of d: (1 - e^-d) / (1 + e^-d) > (1 - alpha) / alpha
    margins = raw @ slopes - 13 - required
    moved = np.abs(slopes) * np.array(ENDS.unit)
    expected = margins / np.array([moved.sum(), moved.sum(), moved[1:].sum()])
    assert radii == pytest.approx(expected, rel=5e-3)
    assert (np.array(radii) <= expected).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_model_of_scaled_inputs_is_that_of_raw_ones(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    module, raw = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), torch.rand(20, 3)
    raw = raw * torch.tensor([73.0, 1e5, 2.0]) + torch.tensor(ENDS.low)
    scaled = torch.from_numpy(ENDS.scaled(raw.numpy()))
    for model in (certmix.from_module(module, (3,), features=ENDS), of_file(module, tmp_path)):
        torch.testing.assert_close(model.module(scaled), module(raw), rtol=1e-3, atol=1e-3)
    assert ((scaled >= 0) & (scaled <= torch.from_numpy(ENDS.ends))).all()
    model = certmix.from_module(module, (3,), features=ENDS)
    beyond = torch.from_numpy(ENDS.ends)[None] + torch.tensor([[0.0, 1.0, 2.0]])
    at_the_ends = module(torch.tensor([ENDS.high]))
    torch.testing.assert_close(model.module(beyond), at_the_ends, rtol=1e-3, atol=1e-3)


def of_file(module: nn.Module, folder: Path) -> certmix.Model:
    path = folder / "m.onnx"
    torch.onnx.export(module, (torch.zeros(2, 3),), str(path), dynamo=False, input_names=["x"],
                      dynamic_axes={"x": {0: "n"}}, verbose=False)  # fmt: skip
    return certmix.load_model(path, features=ENDS)


def test_without_units_each_is_its_features_width(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("low,high\n17,90\n0,0.3\n-3e6,1e7\n")
    features = Features.read(tmp_path / "f.csv")
    assert features.domain == (0.0, 1.0)
    assert features.ends.tolist() == [1.0, 1.0, 1.0]
    assert [op for op, _, _ in features.steps((3,))] == ["Mul", "Add"], "and nothing need be cut"
    x = features.scaled(np.array([[90, 0.3, 1e7], [17, 0, -3e6]], dtype=np.float32))
    assert x.tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def test_reports_check_and_the_judge_follow(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(audit(folder, out, "--radius=0.01", "--attack-steps=2")) == 0
    assert judge([str(out)]) == 0
    capfd.readouterr()
    files = ["--standard", str(folder / "g.onnx"), "--robust", str(folder / "h.onnx"), "--data", str(folder / "d.csv")]
    assert main(["check", str(out), *files]) == 0
    told = capfd.readouterr().out
    assert "By the run's header each network takes (x - low) / unit of raw inputs x" in told
    assert "These are your models and your data." in told
    assert main(["report", str(out), "--attack-steps", "0"]) == 0
    assert "radius 0.01 in units of each feature" in capfd.readouterr().out.replace("\n", " ")
    page = (out / "report.html").read_text()
    assert "scaled feature by feature" in page
    assert "income 0 to 100000 in units of 20000" in page
    assert main(["show", str(out), "0"]) == 0
    assert "radii, in units of each feature" in capfd.readouterr().out


def test_a_configuration_names_the_file_relative_to_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "a.toml").write_text(
        'standard = "g.onnx"\nrobust = "h.onnx"\ndata = "d.csv"\ndomain = "domain.csv"\nalpha = 0.8\nradius = 0.01\n'
        "attack-steps = 0\n"
    )
    assert main(["audit", "--config", str(folder / "a.toml"), "--out", str(tmp_path / "run")]) == 0


WRONG = {
    "low\n1\n": "needs a row of names, low,high",
    "low,high\n": "needs a row of names",
    "low,high\n1,2\n3\n": "shorter",
    "low,high\n1,b\n": "could not convert string to float",
    "low,high\n1,1\n": "needs low < high",
    "low,high,unit\n0,1,0\n": "unit > 0",
    "low,high,unit\n0,inf,1\n": "finite",
    "low,high\n0,1\n": "inputs have 3 features, the domain 1",
    "feature,low,high\nage,17,90\nchange,-1,1\nincome,0,1e5\n": "feature 1 is 'income', and 'change' in the domain",
    "low,high\n17,90\n0,100000\n0,1\n": "feature 2 of input 2 is -1.0, outside its domain [0, 1]",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_meant_is_refused(text: str, folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "f.csv").write_text(text)
    words = audit(folder, tmp_path / "run")
    words[words.index("--domain") + 1] = str(tmp_path / "f.csv")
    assert WRONG[text] in refusal(capsys, words)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_domain_is_two_numbers_or_a_file(folder: Path, tmp_path: Path, capsys) -> None:
    for given, why in (
        (["0"], "two numbers, or one file"), (["0", "1", "2"], "two numbers, or one file"),
        (["0", "x.csv"], "two numbers, or one file"), ([str(tmp_path / "no.csv")], "cannot be read"),
    ):  # fmt: skip
        words = [w for w in audit(folder, tmp_path / "run") if w != str(folder / "domain.csv")]
        words[words.index("--domain") : words.index("--domain") + 1] = ["--domain", *given]
        assert why in refusal(capsys, words)
