"""A plain network as an ONNX file, for programs that read such files."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from certmix.errors import UsageError
from certmix.models.exporter import quietly
from certmix.models.onnx.folding import one_line
from certmix.models.onnx.reader import plain_network
from proofs_check.certificate import PlainNetwork
from verifiers.network.module import PlainModule


def written(network: PlainNetwork) -> onnx.ModelProto:
    """`network` on one input: (1, *shape) -> (1, K).

    Ensures: the model reads back as `network`, to the byte. Raises UsageError where it would not.
    """
    example = torch.zeros(1, *network.input_shape)
    try:
        with quietly():
            program = torch.onnx.export(PlainModule(network).eval(), (example,), dynamo=True, verbose=False)
        if program is None:
            raise TypeError("excluded by dynamo=True")
        model = program.model_proto
        same = plain_network(model).sha256 == network.sha256
    except Exception as error:  # the exporter's errors share no base class
        raise UsageError(f"the network cannot be written as ONNX: {one_line(error)}") from error
    if not same:
        raise UsageError(f"the network {network.sha256} cannot be written as ONNX: it reads back as another")
    return model


def gaps(model: onnx.ModelProto, predicted: int) -> onnx.ModelProto:
    """`model`, (1, *shape) -> (1, K), with z_y - z_i for its outputs, (1, K - 1): of every i but y = `predicted`, in
    order. Ensures: exact in floats but for one subtraction each."""
    gapped = onnx.ModelProto()
    gapped.CopyFrom(model)
    graph = gapped.graph
    logits, classes = graph.output[0].name, graph.output[0].type.tensor_type.shape.dim[1].dim_value
    rows = np.delete(-np.eye(classes, dtype=np.float32), predicted, axis=0)
    rows[:, predicted] = 1
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rows.T), "gaps_of"))
    graph.node.append(helper.make_node("MatMul", [logits, "gaps_of"], ["gaps"]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("gaps", onnx.TensorProto.FLOAT, [1, classes - 1]))
    onnx.checker.check_model(gapped, full_check=True)
    return gapped
