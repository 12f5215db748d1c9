"""Normalisation in front of a model: the same function of raw inputs, certified in raw units, remembered by the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from refusals import refusal
from torch import nn

import certmix
from certmix.__main__ import main
from certmix.models.onnx.ends import Asked
from certmix.models.preprocess import Preprocess
from proofs_check import certificate as c
from proofs_check.__main__ import main as judge

MEAN, STD = 0.5, 0.25  # powers of two: the way there and back is exact in float32


def of_normalised(source: Path, path: Path) -> Path:
    """The model as one of inputs that were normalised: it takes x * STD + MEAN of them first."""
    model = onnx.load(source)
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["raw" if i == name else i for i in node.input]
    for key, value in (("m", MEAN), ("s", STD)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), key))
    model.graph.node.insert(0, helper.make_node("Mul", [name, "s"], ["scaled"]))
    model.graph.node.insert(1, helper.make_node("Add", ["scaled", "m"], ["raw"]))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def robust(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_normalised(digits / "robust.onnx", tmp_path_factory.mktemp("model") / "robust.onnx")


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 3), (3,)])
def test_it_is_the_formula_for_channels_first_last_and_features(shape: tuple[int, ...]) -> None:
    given, x = Preprocess((0.1, 0.2, 0.3), (0.5, 1.5, 2.5)), np.random.default_rng(0).random((4, *shape), np.float32)
    last = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3))
    model = certmix.from_module(last, shape, x, preprocess=given)
    along = (1, 3, 1, 1) if shape[0] == 3 and len(shape) == 3 else (1, 1, 1, 3) if len(shape) == 3 else (1, 3)
    mean, std = (np.array(v, np.float32).reshape(along) for v in (given.mean, given.std))
    with torch.no_grad():
        expected = last(torch.from_numpy((x - mean) / std))
        torch.testing.assert_close(model.module(torch.from_numpy(x)), expected, rtol=1e-5, atol=1e-5)
    assert [type(node) for node in model.require_network().nodes[1:3]] == [c.Shift, c.Divide]


def test_the_audit_is_of_raw_inputs_and_check_reads_the_file_the_same_way(robust, digits, tmp_path, capsys) -> None:
    words = ["audit", f"--standard={digits / 'standard.onnx'}", f"--data={digits / 'audit.npz'}", "--limit=3"]
    words += ["--alpha=0.8", "--radius=0.02", "--attack-steps=2"]
    asked = ["--preprocess", f"robust={MEAN}:{STD}"]
    assert main([*words, f"--robust={robust}", *asked, "--out", str(tmp_path / "a")]) == 0
    assert "robust.onnx) takes (x - mean) / std of raw inputs x: mean 0.5, std 0.25" in capsys.readouterr().out
    assert main([*words, f"--robust={digits / 'robust.onnx'}", "--out", str(tmp_path / "b")]) == 0
    lines = [
        [json.loads(line) for line in (tmp_path / name / "certificates.jsonl").read_text().splitlines()]
        for name in "ab"
    ]
    assert [r["outcome"] for r in lines[0]] == [r["outcome"] for r in lines[1]]
    assert [r["predicted"] for r in lines[0]] == [r["predicted"] for r in lines[1]]
    assert any(r["outcome"] == "certified" for r in lines[0])
    assert judge([str(tmp_path / "a")]) == 0
    assert main(["check", str(tmp_path / "a"), f"--robust={robust}"]) == 0
    assert main(["check", str(tmp_path / "b"), f"--robust={robust}"]) == 4, "without normalisation another function"
    header = json.loads((tmp_path / "a" / "run.json").read_text())
    assert header["settings"]["model_ends"]["robust"]["preprocess"] == {"mean": [MEAN], "std": [STD]}


def test_a_model_that_runs_in_onnxruntime_is_normalised_too(robust: Path, tmp_path: Path, digits: Path) -> None:
    model = onnx.load(robust)
    (name,) = (v.name for v in model.graph.output)
    for node in model.graph.node:
        node.output[:] = ["inner" if o == name else o for o in node.output]
    model.graph.node.append(helper.make_node("Cos", ["inner"], [name]))
    onnx.save(model, tmp_path / "cos.onnx")
    loaded = certmix.load_model(tmp_path / "cos.onnx", preprocess=Preprocess((MEAN,), (STD,)))
    assert loaded.network is None
    assert loaded.end == Asked(preprocess=Preprocess((MEAN,), (STD,)))
    x = torch.from_numpy(certmix.load_data(digits / "audit.npz", 5).inputs)
    with torch.no_grad():
        expected = torch.cos(certmix.load_model(digits / "robust.onnx").module(x))
        torch.testing.assert_close(loaded.module(x), expected, rtol=1e-3, atol=1e-3)


HOSTILE = {
    "0.5": "takes MEAN:STD, such as",
    "a:1": "must be a number",
    "0.5:0": "std must be > 0, got 0",
    "0.5:-1": "std must be > 0, got -1",
    "0.5:1e-60": "std must be > 0",
    "1e60:1": "mean must be finite numbers",
    "0,1:1,2,3": "2 means and 3 standard deviations",
    "0,1,2:1": "preprocess gives 3 numbers, for channels along the first or the last axis of inputs",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_cannot_be_meant_is_refused(text: str, robust: Path, digits: Path, tmp_path: Path, capsys) -> None:
    words = ["audit", f"--standard={digits / 'standard.onnx'}", f"--robust={robust}", f"--data={digits / 'audit.npz'}"]
    given = [*words, "--alpha=0.8", "--preprocess", text, "--out", str(tmp_path / "r")]
    assert HOSTILE[text] in refusal(capsys, given)
    assert not (tmp_path / "r" / "run.json").exists()
