"""What cannot be h says which node, why and what would help, and that it can still be g, which it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from certmix.errors import UsageError
from certmix.models.model import load_model

# reason -> operator, its constants, its attributes, the shape of one input
Case = tuple[str, list[np.ndarray], dict[str, object], tuple[int, ...]]
ONE = np.float32(1)
IMAGE, VOLUME = (2, 6, 6), (2, 4, 4, 4)
KERNEL = np.ones((2, 2, 2, 2), np.float32)
REFUSED: dict[str, Case] = {
    "has no counterpart in the plain network: docs/operators.md": ("Sin", [], {}, (4,)),
    "has no counterpart in the plain network: end the model before it": ("LogSoftmax", [], {}, (4,)),
    "has the exponent 1.5; .* multiply such": ("Pow", [np.float32(1.5)], {}, (4,)),
    "has dilations.*: take none": ("MaxPool", [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, IMAGE),
    "interpolates .linear.*export it with mode='nearest'": (
        "Resize", [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, IMAGE,
    ),
    "has auto_pad or output_shape, .*export it with pads": (
        "ConvTranspose", [KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, IMAGE,
    ),
    "needs a 2-d image": ("GlobalAveragePool", [], {}, VOLUME),
    "needs a 2-d kernel|needs a 2-d image": ("Conv", [np.ones((1, 2, 2, 2, 2), np.float32)], {}, VOLUME),
    "takes a diagonal 'aa' of its constant: store": (
        "Einsum", [np.ones((4, 4), np.float32)], {"equation": "na,aa->na"}, (4,),
    ),
    "sums its constant over .*: work the sum out": (
        "Einsum", [np.ones((4, 3), np.float32)], {"equation": "na,ab->na"}, (4,),
    ),
    "has 3 inputs: write it as several": (
        "Einsum", [np.ones(4, np.float32)] * 2, {"equation": "na,a,a->na"}, (4,),
    ),
    "compares 300 numbers .*take fewer tokens": ("Softmax", [], {}, (300,)),
    "is over one number, which is always 1: leave it out": ("Softmax", [], {"axis": 1}, (1, 5)),
    "casts to another type than float32: export": ("Cast", [], {"to": TensorProto.DOUBLE}, (4,)),
    "its min is NaN": ("Clip", [np.float32(np.nan)], {}, (4,)),
}  # fmt: skip


def save(path: Path, case: Case) -> None:
    """The operator, and back to float32; then logits linear in its value."""
    op, constants, attributes, shape = case
    tensors = [numpy_helper.from_array(value, f"c{k}") for k, value in enumerate(constants)]
    nodes = [
        helper.make_node(op, ["x", *(t.name for t in tensors)], ["a"], name="odd", **attributes),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1]),
        helper.make_node("Concat", ["m", "m"], ["y"], axis=1),
    ]
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "g", [ends], [logits], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_h_says_why_and_that_it_can_still_be_g(tmp_path: Path, reason: str) -> None:
    case = REFUSED[reason]
    save(tmp_path / "m.onnx", case)
    model = load_model(tmp_path / "m.onnx")
    assert model.module(torch.rand(3, *case[3])).shape == (3, 2), "it runs as g"
    with pytest.raises(UsageError, match=rf"operator {case[0]} \(node 'odd'\):? .*({reason})") as caught:
        model.require_network()
    text = str(caught.value)
    assert "it cannot be h, the robust classifier, but it can still be g, the standard one" in text
    assert "\n" not in text
