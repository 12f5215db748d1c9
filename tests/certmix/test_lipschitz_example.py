"""examples/lipschitz: the stored net is 1-Lipschitz to the judge, its mix is certified, its data never overlap."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import certmix
from certmix.provers.judging import prepared
from proofs_check.rules.lipschitz.layer_norms import global_constants

FOLDER = Path(__file__).parents[2] / "examples" / "lipschitz"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_lipschitz_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_stored_net_is_1_lipschitz() -> None:
    network = certmix.load_model(FOLDER / "robust.onnx").require_network()
    constants = global_constants(prepared(network), 0, "L2")
    assert 1 < max(constants) <= math.sqrt(2) * (1 + 1e-4)


def test_the_mix_is_certified_and_right(digits: Path) -> None:
    data = certmix.load_data(digits / "audit.npz", 12)
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    models = (certmix.load_model(digits / "standard.onnx"), certmix.load_model(FOLDER / "robust.onnx"))
    (row,) = script("sweep").sweep(*models, x, labels, (0.75,), (10.0,))
    assert row.judged >= 10
    assert row.clean >= 0.9
    assert row.certified[0] >= 0.6
    assert row.certified[0] >= row.certified[1] > 0


def test_no_mnist_image_is_in_both_parts(certmix_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CERTMIX_DATA", str(certmix_data))
    train, audit = script("train_lipschitz").mnist_splits()
    assert (len(train.labels), len(audit.labels)) == (600, 400)
    images = [part.images.flatten(1).numpy() for part in (train, audit)]
    assert len(np.unique(np.concatenate(images), axis=0)) == 1000
    assert 0.9 <= float(train.images.max()) <= 1
