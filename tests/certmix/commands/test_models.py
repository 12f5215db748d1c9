"""certmix models DIR says of every ONNX file whether it can be g, h, or neither, and why."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from refusals import refusal

from certmix.__main__ import main
from certmix.models.catalogue import page
from certmix.models.onnx.operators import CAN_FOLD, OPERATORS
from proofs_check.certificate import NODE_TYPES

W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def save(path: Path, operator: str | None, shape: tuple[object, ...] = ("n", 4)) -> None:
    """Logits linear in what the operator makes of the inputs."""
    nodes = [] if operator is None else [helper.make_node(operator, ["x"], ["s"], name="odd")]
    nodes.append(helper.make_node("MatMul", ["x" if operator is None else "s", "w"], ["y"]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, s)] for name, s in (("x", shape), ("y", ("n", 3)))]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(W, "w")])
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "a_plain.onnx", None)
    save(tmp_path / "b_sine.onnx", "Sin")
    save(tmp_path / "more" / "c_open.onnx", None, ("n", "features"))
    (tmp_path / "d_text.onnx").write_text("no model")
    (tmp_path / "notes.txt").write_text("no model either")
    return tmp_path


def test_every_file_is_named_with_what_it_can_be_and_what_stands_in_the_way(folder: Path, capsys) -> None:
    assert main(["models", str(folder)]) == 1
    plain, sine, text, left_open, total = capsys.readouterr().out.splitlines()
    assert plain.startswith("a_plain.onnx: (4,) -> 3 classes: g, h (differs from onnxruntime by ")
    assert sine.startswith("b_sine.onnx: (4,) -> 3 classes: g in onnxruntime; not h: operator Sin (node 'odd')")
    assert text.startswith("d_text.onnx: neither g nor h: not a complete ONNX model")
    assert left_open.startswith("more/c_open.onnx: neither g nor h: input 'x' leaves its shape open")
    assert total == "of 4 files 2 (50.0 %) can be g, 1 (25.0 %) can be h"


def test_the_same_in_json_and_a_shape_for_files_that_leave_it_open(folder: Path, capsys) -> None:
    assert main(["models", str(folder), "--json", "--input-shape", "4"]) == 1
    found = {each.pop("file"): each for each in json.loads(capsys.readouterr().out)}
    assert list(found) == ["a_plain.onnx", "b_sine.onnx", "d_text.onnx", "more/c_open.onnx"]
    assert [each["standard"] for each in found.values()] == ["plain network", "onnxruntime", None, "plain network"]
    assert [each["robust"] for each in found.values()] == [True, False, False, True]
    assert found["a_plain.onnx"] == {
        "standard": "plain network", "robust": True, "input_shape": [4], "classes": 3,
        "difference": found["a_plain.onnx"]["difference"], "why": "",
    }  # fmt: skip


def test_every_bundled_model_can_be_both(digits: Path, capsys) -> None:
    assert main(["models", str(digits)]) == 0
    assert "of 3 files 3 (100.0 %) can be g, 3 (100.0 %) can be h" in capsys.readouterr().out


def test_every_real_model_can_be_both(certmix_data: Path, capsys) -> None:
    assert main(["models", str(certmix_data)]) == 0
    assert "(100.0 %) can be g, 5 (100.0 %) can be h" in capsys.readouterr().out


def test_a_folder_without_models_and_no_folder_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    assert "is no folder" in refusal(capsys, ["models", str(folder / "a_plain.onnx")])
    shutil.rmtree(folder / "more")
    for path in folder.glob("*.onnx"):
        path.unlink()
    assert "holds no file that ends in .onnx" in refusal(capsys, ["models", str(folder)])
    assert "--input-shape" in refusal(capsys, ["models", str(folder), "--input-shape", "3,0"])


def test_the_page_of_operators_names_every_one_and_says_something_of_it() -> None:
    text = page()
    assert not [row for row in text.splitlines() if row.startswith("| `") and "|  |" in row]
    assert all((Path(__file__).parents[3] / "docs" / path).is_file() for path in re.findall(r"\]\((\.\./\S+)\)", text))
    assert all(f"| `{name}` |" in text for name in (*OPERATORS, *NODE_TYPES))
    assert all(f"`{name}`" in text for name in CAN_FOLD)


def test_the_page_in_docs_is_the_one_that_the_tables_give() -> None:
    """To write it anew: python benchmarks/operators.py"""
    assert (Path(__file__).parents[3] / "docs" / "operators.md").read_text() == page()
