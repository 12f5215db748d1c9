"""--output and --outputs: which output of a model's file holds the logits, and what is behind them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from certmix.__main__ import main
from certmix.commands import arguments, parsing
from certmix.errors import UsageError

WEIGHT = 3 * np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["z"])
ENDS = {
    "two": [helper.make_node("Identity", ["z"], ["y"]), helper.make_node("ArgMax", ["z"], ["l"], axis=1, keepdims=0)],
    "log": [helper.make_node("LogSoftmax", ["z"], ["y"], axis=1)],
    "soft": [helper.make_node("Softmax", ["z"], ["y"], axis=1)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One linear classifier with three ends, and its data."""
    path = tmp_path_factory.mktemp("ends")
    for name, tail in ENDS.items():
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
        outputs += [helper.make_tensor_value_info("l", TensorProto.INT64, ["n"])] if name == "two" else []
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
        graph = helper.make_graph([PRODUCT, *tail], "g", [x], outputs, [numpy_helper.from_array(WEIGHT, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path / f"{name}.onnx")
    inputs = np.random.default_rng(1).random((3, 4)).astype(np.float32)
    np.savez(path / "d.npz", images=inputs, labels=(inputs @ WEIGHT).argmax(1))
    return path


def audit(folder: Path, out: Path, g: str, h: str, *more: str) -> int:
    files = "--standard", str(folder / f"{g}.onnx"), "--robust", str(folder / f"{h}.onnx")
    data = "--data", str(folder / "d.npz"), "--alpha", "0.9", "--attack-steps", "0", "--out", str(out)
    return main(["audit", *files, *data, *more])


CASES = {
    "two log": ("--output", "standard=y"),
    "two two": ("--output", "y"),
    "log soft": ("--outputs", "robust=probabilities"),
    "soft soft": ("--outputs", "probabilities"),
    "two soft": ("--output", "standard=z", "--outputs", "robust=probabilities"),
}


@pytest.mark.parametrize("pair", CASES)
def test_a_run_of_other_ends_is_the_same_run_and_is_compared_with_the_same_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: str
) -> None:
    g, h = pair.split()
    assert audit(folder, tmp_path / "run", g, h, *CASES[pair]) == 0
    shown = capsys.readouterr().out
    assert ("ends in LogSoftmax, which is left out" in shown) == ("log" in pair)
    assert ("ends in Softmax, which is left out" in shown) == ("soft" in pair)
    header = json.loads((tmp_path / "run" / "run.json").read_bytes())
    assert header["standard"] == header["robust"], "all are the network before the end"
    files = "--standard", str(folder / f"{g}.onnx"), "--robust", str(folder / f"{h}.onnx")
    assert main(["check", str(tmp_path / "run"), *files, "--data", str(folder / "d.npz")]) == 0


@pytest.mark.parametrize(
    ("pair", "more", "words"),
    [
        ("log two", (), r"two\.onnx: has 2 outputs, 'y', 'l': name the one that holds the logits \(--output\)"),
        ("log two", ("--output", "robust=q"), "has no output 'q': its outputs are 'y', 'l'"),
        ("log soft", (), r"soft\.onnx .*ends in Softmax.* --outputs probabilities"),
        ("log soft", ("--outputs", "probabilities"), r"log\.onnx: does not end in Softmax.* --outputs robust="),
        ("log soft", ("--outputs", "odds"), "--outputs must be logits or probabilities, got 'odds'"),
        ("two two", ("--output", "y", "l"), "--output says 'y' and 'l' of the same model"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_way_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pair: str, more: tuple[str, ...], words: str
) -> None:
    assert audit(folder, tmp_path / "run", *pair.split(), *more) == 2
    error = capsys.readouterr().err

    assert re.search(words, error), error
    assert not (tmp_path / "run").exists()


def test_a_role_comes_before_what_is_said_of_both() -> None:
    parser = parsing.Parser()
    arguments.add_ends(parser)
    arguments.add_data(parser)
    found = arguments.ends(parser.parse_args(["--output", "y", "robust=a=b"]))
    assert [end.output for end in found] == ["y", "a=b"]
    with pytest.raises(UsageError, match="must be logits"):
        arguments.ends(parser.parse_args(["--outputs", "standard=votes"]))
