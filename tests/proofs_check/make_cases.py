"""Writes {accepted,rejected,malformed}/NAME beside it: small runs that any judge of the format can be tried on.

Run by hand when the format changes: python tests/proofs_check/make_cases.py
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import Identity

from certmix.data.dataset import Dataset
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.models.model import Model, load_model
from certmix.runs.adaptive import audit_adaptive
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import Settings, SmoothingSettings
from proofs_check.certificate import (
    AveragePool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MixedNuts,
    Norm,
    PlainNetwork,
    Relu,
    Shift,
    Transform,
)
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules.lipschitz.layer_norms import global_constants
from verifiers.network.module import PlainModule, build

HERE = Path(__file__).resolve().parent


def network(seed: int, classes: int = 3) -> PlainNetwork:
    rng = np.random.default_rng(seed)

    def f(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    return build(
        [
            Input((1, 6, 6)),
            Shift((0,), np.full((1, 1, 1), -0.5, np.float32)),
            Conv2d((1,), f(4, 1, 3, 3), f(4), (1, 1), (1, 1, 1, 1), (1, 1), 1),
            Relu((2,)),
            AveragePool2d((3,), (2, 2), (2, 2), (0, 0, 0, 0), True),
            Flatten((4,)),
            Linear((5,), 20 * f(classes, 36), f(classes)),
        ]
    )


def model(net: PlainNetwork) -> Model:
    return Model(PlainModule(net).eval(), net, net.classes, net.input_shape, "made for this test", 0.0)


def run(folder: Path, settings: Settings, mix: AdaptiveMix | None = None) -> None:
    """An audit of the four surest of some random inputs."""
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(5)
    inputs = rng.random((64, 1, 6, 6), dtype=np.float32)
    robust = network(1)
    probabilities = torch.softmax(PlainModule(robust)(torch.from_numpy(inputs)), 1).numpy()
    chosen = np.argsort(-probabilities.max(axis=1))[:4]
    inputs, labels = inputs[chosen], probabilities[chosen].argmax(axis=1).astype(np.int64)
    data = Dataset(inputs, labels, "random")
    if mix is None:
        Audit(model(network(2)), model(robust), data, settings, Store(folder)).run()
    else:
        audit_adaptive(model(network(2)), model(robust), data, mix, settings, folder)
    (folder / "audit.json").unlink()
    shutil.rmtree(folder / "curves", ignore_errors=True)


def model_file(folder: Path) -> None:
    """A smoothing run whose robust model is an ONNX file, with a node that no plain network has."""
    rng = np.random.default_rng(1)
    weight, bias = (20 * rng.normal(size=(3, 36))).astype(np.float32), np.zeros(3, np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "weight", "bias"], ["z"], transB=1),
        helper.make_node("Cos", ["z"], ["c"]),
        helper.make_node("Add", ["z", "c"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", ["N", 1, 6, 6]), ("y", ["N", 3]))]  # fmt: skip
    tensors = [numpy_helper.from_array(value, name) for name, value in (("weight", weight), ("bias", bias))]
    graph = helper.make_graph(nodes, "h", ends[:1], ends[1:], tensors)
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "h.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        robust = load_model(path)
        inputs = rng.random((4, 1, 6, 6), dtype=np.float32)
        logits = inputs.reshape(4, -1) @ weight.T
        data = Dataset(inputs, logits.argmax(axis=1).astype(np.int64), "random")
        Audit(model(network(2)), robust, data, ACCEPTED["smoothing_hard"], Store(folder)).run()
    (folder / "audit.json").unlink()


FEW_DRAWS = SmoothingSettings(noise_std=0.05, samples=2000, selection_samples=200)
ACCEPTED = {
    "margin_linf": Settings(0.75),
    "margin_l2": Settings(0.75, norm="L2"),
    "margin_l1": Settings(0.75, norm="L1"),
    "margin_temperature": Settings(0.6, temperature=4.0),
    "margin_float32": Settings(0.75, semantics="float32", radius=0.003),
    "engine_trusted": Settings(0.75, evidence="engine", engine="auto_lirpa", radius=0.003),
    "pair": Settings(0.4, use_standard=True),
    "branched": Settings(0.75, radius=0.07, branch=5.0),
    "lipschitz_l2": Settings(0.75, norm="L2", method="lipschitz"),
    "lipschitz_linf": Settings(0.75, method="lipschitz", radius=0.002),
    "smoothing_soft": Settings(0.75, norm="L2", method="smoothing", smoothing=FEW_DRAWS),
    "smoothing_hard": Settings(
        0.75, norm="L2", method="smoothing", smoothing=dataclasses.replace(FEW_DRAWS, base="hard")
    ),
    "smoothing_stopped": Settings(
        0.75, norm="L2", method="smoothing", radius=0.03, smoothing=dataclasses.replace(FEW_DRAWS, looks=())
    ),
}

ADAPTIVE = {
    "adaptive_network": AdaptiveMix(SigmoidAlpha(network(3, classes=2), 0.6, 0.95)),
    "adaptive_declared": AdaptiveMix(Identity(), 0.75),
    "adaptive_clamp": AdaptiveMix(0.75, transform=Transform(0.5, 2.0, True)),
    "adaptive_cube": AdaptiveMix(0.75, transform=Transform(0.0, 3.0, False)),
    "adaptive_nuts": AdaptiveMix(0.75, transform=MixedNuts(6.0, -0.5, 2.0)),
}


def layers(folder: Path, norm: Norm) -> None:
    """The Lipschitz run of this norm with every certificate resting on constants of the whole space."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "accepted" / f"lipschitz_{norm.lower()}", folder)
    path, robust = folder / "certificates.jsonl", prepare(network(1))
    lines: list[bytes] = []
    for line in path.read_bytes().splitlines():
        value = json.loads(line)
        if value["outcome"] == "certified":
            constants = global_constants(robust, value["predicted"], norm)
            value |= {
                "radius": 0.001,
                "evidence": {"rule": "lipschitz_layers", "theorem": "4a", "constants": constants},
            }
        del value["sha256"]
        lines.append(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    path.write_bytes(b"".join(x + b"\n" for x in lines))
    rewrite_settings(folder, radius=0.001 if norm == "Linf" else None)


def rewrite_settings(folder: Path, without: Iterable[str] = (), **changed: Any) -> None:
    """Change the settings that the header names, or leave them out, its digest recomputed."""
    path = folder / "run.json"
    value = json.loads(path.read_bytes())
    del value["sha256"]
    value["settings"] = {n: v for n, v in {**value["settings"], **changed}.items() if n not in without}
    path.write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))


def edit(source: str, target: Path, line: int, **fields: Any) -> None:
    """A copy of an accepted run with one line changed, its digest recomputed; the header is silent on it."""
    shutil.copytree(HERE / "accepted" / source, target)
    path = target / "certificates.jsonl"
    lines = path.read_bytes().splitlines()
    value = json.loads(lines[line])
    if value["outcome"] != "certified":
        raise ValueError(f"line {line} of {source} certifies nothing")
    del value["sha256"]
    lines[line] = parse.seal(json.dumps({**value, **fields}, separators=(",", ":")).encode()[:-1])
    path.write_bytes(b"".join(x + b"\n" for x in lines))
    rewrite_settings(target, without=fields)


REJECTED: dict[str, tuple[str, dict[str, Any]]] = {
    "larger_radius": ("margin_linf", {"radius": 0.5}),
    "smaller_alpha": ("margin_linf", {"alpha": 0.6}),
    "half_alpha": ("margin_linf", {"alpha": 0.5}),
    "other_norm": ("margin_l1", {"norm": "Linf"}),
    "other_temperature": ("margin_temperature", {"temperature": 1.0}),
    "other_robust_network": ("margin_linf", {"robust": network(2).sha256}),
    "other_standard_network": ("margin_linf", {"standard": network(1).sha256}),
    "other_input": ("margin_linf", {"input": "0" * 64}),
    "domain_without_input": ("margin_linf", {"domain": [0.0, 0.1]}),
    "smoothed": (
        "margin_linf",
        {
            "method": "smoothing",
            "smoothing": {
                "noise_std": 0.5,
                "base": "soft",
                "failure_probability": 0.001,
                "grid": 255,
                "networks": "robust",
            },
        },
    ),
    "garbage_witness": ("margin_linf", {"evidence": {"rule": "network_margin", "witness": "AAAA"}}),
    "engine_bounds_too_weak": (
        "engine_trusted",
        {"evidence": {"rule": "engine_margin", "engine": "x", "lower": [-9.0] * 3, "upper": [0.0] * 3}},
    ),
}
for _name in ("lipschitz_l2", "lipschitz_linf", "smoothing_soft", "smoothing_hard", "smoothing_stopped"):
    REJECTED |= {f"{_name}_larger_radius": (_name, {"radius": 3.0}), f"{_name}_half_alpha": (_name, {"alpha": 0.5})}
REJECTED |= {
    "lipschitz_layers_l2_larger_radius": ("lipschitz_layers_l2", {"radius": 3.0}),
    "lipschitz_layers_linf_half_alpha": ("lipschitz_layers_linf", {"alpha": 0.5}),
    "lipschitz_layers_constants_too_small": (
        "lipschitz_layers_l2",
        {"evidence": {"rule": "lipschitz_layers", "theorem": "4a", "constants": [1e-6, 0.0, 1e-6]}},
    ),
    "lipschitz_layers_too_few_constants": (
        "lipschitz_layers_l2",
        {"evidence": {"rule": "lipschitz_layers", "theorem": "4a", "constants": [1e6, 0.0]}},
    ),
    "adaptive_network_larger_alpha": ("adaptive_network", {"alpha": 0.95}),
    "adaptive_network_half_alpha": ("adaptive_network", {"alpha": 0.5}),
    "adaptive_declared_larger_alpha": ("adaptive_declared", {"alpha": 0.76}),
    "adaptive_declared_too_low": (
        "adaptive_declared",
        {"adaptive": {"alpha": {"network": None, "low": 0.7, "high": 1.0}, "transform": None}},
    ),
    "adaptive_clamp_larger_radius": ("adaptive_clamp", {"radius": 0.5}),
    "adaptive_clamp_everything": (
        "adaptive_clamp",
        {"adaptive": {"alpha": None, "transform": {"shift": -1e6, "power": 2.0, "clamp": True}}},
    ),
    "adaptive_cube_half_alpha": ("adaptive_cube", {"alpha": 0.5}),
    "adaptive_nuts_larger_radius": ("adaptive_nuts", {"radius": 0.5}),
    "adaptive_nuts_moved_away": (
        "adaptive_nuts",
        {"adaptive": {"alpha": None, "transform": {"scale": 6.0, "shift": -3.0, "power": 2.0}}},
    ),
    "adaptive_claim_by_another_rule": (
        "margin_linf",
        {"adaptive": {"alpha": None, "transform": {"shift": 0.0, "power": 3.0, "clamp": False}}},
    ),
    "adaptive_rule_without_adaptive_claim": (
        "margin_linf",
        {"evidence": {"rule": "adaptive_margin", "witness": None, "alpha_witness": None}},
    ),
}
REJECTED |= {
    "branched_larger_radius": ("branched", {"radius": 0.08}),
    "branched_half_alpha": ("branched", {"alpha": 0.5}),
    "branched_float32": ("branched", {"semantics": "float32"}),
}
# the tree of line 0 of `branched`, unpacked; 144 neurons
FORGED_TREES: dict[str, Callable[[bytes], bytes]] = {
    "branched_missing_leaf": lambda tree: tree[: tree.rindex(tree[-145:])],
    "branched_first_side_only": lambda tree: tree[: _first_leaf(tree) + 145],
    "branched_other_split": lambda tree: tree[:1] + struct.pack("<I", 0) + tree[5:],
    "branched_no_such_neuron": lambda tree: tree[:1] + struct.pack("<I", 144) + tree[5:],
    "branched_negative_multiplier": lambda tree: tree[:-4] + struct.pack("<f", -1e-30),
    "branched_infinite_multiplier": lambda tree: tree[:-4] + struct.pack("<f", float("inf")),
    "branched_multiplier_not_a_number": lambda tree: tree[:-4] + struct.pack("<f", float("nan")),
    "branched_trailing_byte": lambda tree: tree + b"\0",
    "branched_without_splits": lambda tree: bytes(145),
}
MALFORMED_LINE: dict[str, dict[str, Any]] = {
    "unknown_field": {"note": "trust me"},
    "negative_radius": {"radius": -0.1},
    "unknown_rule": {"evidence": {"rule": "because"}},
    "other_version": {"format": "certmix-certificate/2"},
    "other_label": {"label": 7},
    "other_index": {"index": 3},
    "nuts_with_a_clamp": {
        "adaptive": {"alpha": None, "transform": {"scale": 6.0, "shift": 0.0, "power": 2.0, "clamp": True}}
    },
    "nuts_without_scale": {"adaptive": {"alpha": None, "transform": {"scale": 0.0, "shift": 0.0, "power": 2.0}}},
    "unknown_theorem": {"evidence": {"rule": "lipschitz_layers", "theorem": "3.6", "constants": [1e6, 0.0, 1e6]}},
    "trees_not_an_array": {"evidence": {"rule": "branched_margin", "witness": None, "trees": "AAAA"}},
    "adaptive_without_content": {"adaptive": {"alpha": None, "transform": None}},
    "lines_of_two_alphas": {"alpha": 0.8},  # true, like all others, but of another mix
    "lines_of_two_standards": {"standard": None},
}


def _first_leaf(tree: bytes) -> int:
    """Where it begins: after the splits on its way."""
    at = 0
    while tree[at] > 1:
        at += {2: 5, 3: 13}[tree[at]]
    return at


def forged_tree(change: Callable[[bytes], bytes]) -> dict[str, Any]:
    """The evidence of line 0 of `branched` with its first tree changed."""
    line = (HERE / "accepted" / "branched" / "certificates.jsonl").read_bytes().splitlines()[0]
    evidence = json.loads(line)["evidence"]
    place = next(j for j, tree in enumerate(evidence["trees"]) if tree is not None)
    changed = change(zlib.decompress(base64.b64decode(evidence["trees"][place])))
    evidence["trees"][place] = base64.b64encode(zlib.compress(changed)).decode()
    return evidence


def damage(name: str, change: Any) -> None:
    target = HERE / "malformed" / name
    shutil.copytree(HERE / "accepted" / "margin_linf", target)
    change(target)


def cut_lines(folder: Path) -> None:
    path = folder / "certificates.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def flip_network(folder: Path) -> None:
    path = next((folder / "networks").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def flip_input(folder: Path) -> None:
    found = np.load(folder / "inputs.npz")
    np.savez(folder / "inputs.npz", inputs=1 - found["inputs"], labels=found["labels"])


def truncate_header(folder: Path) -> None:
    (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:-3])


def main() -> None:
    for kind in ("accepted", "rejected", "malformed"):
        shutil.rmtree(HERE / kind, ignore_errors=True)
    for name, settings in ACCEPTED.items():
        run(HERE / "accepted" / name, settings)
    for norm in ("L2", "Linf"):
        layers(HERE / "accepted" / f"lipschitz_layers_{norm.lower()}", norm)
    model_file(HERE / "accepted" / "smoothing_model_file")
    for name, mix in ADAPTIVE.items():
        run(HERE / "accepted" / name, Settings(0.75, attack_steps=0), mix)
    for name, (source, fields) in REJECTED.items():
        edit(source, HERE / "rejected" / name, 0, **fields)
    for name, change in FORGED_TREES.items():
        edit("branched", HERE / "rejected" / name, 0, evidence=forged_tree(change))
    for name, fields in MALFORMED_LINE.items():
        edit("margin_linf", HERE / "malformed" / name, 0, **fields)
    damage("claims_of_another_run", lambda folder: rewrite_settings(folder, alpha=0.6))
    damage("missing_line", cut_lines)
    damage("changed_network", flip_network)
    damage("changed_inputs", flip_input)
    damage("truncated_header", truncate_header)
    damage("missing_inputs", lambda folder: (folder / "inputs.npz").unlink())


if __name__ == "__main__":
    main()
