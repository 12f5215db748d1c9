"""Models are loaded exactly, agree with onnxruntime, and are refused in one line where they cannot be used."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import external_data_helper, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from certmix.data.dataset import load_data
from certmix.errors import UsageError
from certmix.models.model import from_module, load_model
from proofs_check import certificate as c

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("CERTMIX_DATA", ROOT / "../shared/data"))
FLOAT = onnx.TensorProto.FLOAT
REAL = {
    "mnist/standard.onnx": "mnist/test_1000.npz",
    "mnist/robust.onnx": "mnist/test_1000.npz",
    "cifar10/standard_resnet20.onnx": "cifar10/test_100.npz",
    "cifar10/robust_resnet4b.onnx": "cifar10/test_100.npz",
    "cifar10/robust_kw_base.onnx": "cifar10/test_100.npz",
}
# clean accuracy stated beside the models, of the images stored there
ACCURACY = {
    "cifar10/standard_resnet20.onnx": 0.94,
    "cifar10/robust_resnet4b.onnx": 0.81,
    "cifar10/robust_kw_base.onnx": 0.73,
}


def constants(**values: object) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    initial: list[onnx.TensorProto],
    shape: tuple[object, ...] = ("batch", 4),
    kind: int = FLOAT,
) -> Path:
    """A model from x to y, y of shape (batch, 3)."""
    x = helper.make_tensor_value_info("x", kind, shape)
    y = helper.make_tensor_value_info("y", kind, [shape[0], 3])
    graph = helper.make_graph(nodes, "g", [x], [y], initial)
    domains = {"": 17} | {n.domain: 1 for n in nodes if n.domain}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "m.onnx")
    return folder / "m.onnx"


def linear(name: str = "x", out: str = "y") -> onnx.NodeProto:
    return helper.make_node("Gemm", [name, "w", "b"], [out], name="last")


def last() -> list[onnx.TensorProto]:
    return constants(w=weights(4, 3), b=weights(3))


def ops(network: c.PlainNetwork | None) -> list[str]:
    assert network is not None
    return [type(node).__name__ for node in network.nodes]


# ---------------------------------------------------------------- the real models


@pytest.mark.parametrize("name", REAL)
def test_every_real_model_agrees_with_onnxruntime_on_its_images(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent: set CERTMIX_DATA")
    data = load_data(DATA / REAL[name], limit=100)
    model = load_model(DATA / name, data.inputs)
    session = onnxruntime.InferenceSession(str(DATA / name), providers=["CPUExecutionProvider"])
    expected = np.asarray(session.run(None, {"image": data.inputs})[0])
    found = model.module(torch.from_numpy(data.inputs)).numpy()
    difference = float(np.abs(found - expected).max())
    assert difference <= model.faithfulness <= 1e-4
    assert model.classes == 10
    assert model.input_shape == data.inputs.shape[1:]
    if name in ACCURACY:
        assert (found.argmax(1) == data.labels).mean() == pytest.approx(ACCURACY[name])


@pytest.mark.parametrize("name", ["standard", "robust", "smoothed"])
def test_the_digits_models_load_and_classify_their_audit_split(name: str) -> None:
    data = load_data(ROOT / "examples/digits/audit.npz")
    model = load_model(ROOT / f"examples/digits/{name}.onnx", data.inputs)
    assert model.faithfulness <= 1e-4
    found = model.module(torch.from_numpy(data.inputs)).argmax(1).numpy()
    assert (found == data.labels).mean() > 0.95


# ---------------------------------------------------------------- exactness


def test_subtraction_and_division_by_constants_keep_their_exact_values(tmp_path: Path) -> None:
    mean, std = weights(4), np.abs(weights(4)) + np.float32(0.1)
    nodes = [helper.make_node("Sub", ["x", "m"], ["a"]), helper.make_node("Div", ["a", "s"], ["d"]), linear("d")]
    network = load_model(save(tmp_path, nodes, last() + constants(m=mean, s=std))).require_network()
    _, shift, divide, final = network.nodes
    assert isinstance(shift, c.Shift)
    assert isinstance(divide, c.Divide)
    assert isinstance(final, c.Linear)
    assert np.array_equal(shift.constant, -mean)
    assert np.array_equal(divide.constant, std)
    assert np.array_equal(final.weight, weights(4, 3).T)
    assert np.array_equal(final.bias, weights(3))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,)])
def test_a_product_followed_by_a_constant_is_one_linear_node(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["k", "a"], ["y"])]
    network = load_model(save(tmp_path, nodes, constants(w=weights(4, 3), k=weights(*shape)))).require_network()
    assert ops(network) == ["Input", "Linear"]
    assert np.array_equal(network.nodes[1].bias, np.broadcast_to(weights(*shape).ravel(), 3))  # type: ignore[union-attr]


def test_a_product_used_twice_keeps_its_own_value(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["e"]),
        helper.make_node("Add", ["a", "e"], ["y"]),
    ]
    model = load_model(save(tmp_path, nodes, constants(w=weights(4, 3), k=weights(3))))
    assert ops(model.network) == ["Input", "Linear", "Shift", "Add"]
    x = torch.randn(2, 4)
    torch.testing.assert_close(
        model.module(x), 2 * (x @ torch.from_numpy(weights(4, 3))) + torch.from_numpy(weights(3))
    )


def test_nodes_that_do_not_reach_the_output_are_left_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Erf", ["x"], ["unused"]), helper.make_node("Relu", ["x"], ["r"]), linear()]
    assert ops(load_model(save(tmp_path, nodes, last())).network) == ["Input", "Linear"]


def test_a_loaded_module_is_differentiable_and_its_weights_are_frozen(tmp_path: Path) -> None:
    module = load_model(save(tmp_path, [linear()], last())).module
    x = torch.zeros(2, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x)[:, 0].sum(), x)
    assert torch.equal(slope, torch.from_numpy(weights(4, 3))[:, 0].expand(2, 4))
    assert not any(p.requires_grad for p in module.parameters())


def test_default_attributes_are_the_float32_numbers_of_the_onnx_standard(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"klmn"], ["a"]),
        helper.make_node("LeakyRelu", ["a"], ["r"]),
        linear("r"),
    ]
    initial = last() + constants(**{name: np.ones(4, np.float32) for name in "klmn"})
    _, norm, leaky, _ = load_model(save(tmp_path, nodes, initial)).require_network().nodes
    assert isinstance(norm, c.BatchNorm)
    assert isinstance(leaky, c.LeakyRelu)
    assert norm.epsilon == float(np.float32(1e-5))
    assert leaky.slope == float(np.float32(0.01))


def test_equal_files_give_equal_digests_and_changed_weights_another(tmp_path: Path) -> None:
    digests = []
    for k, scale in enumerate([1, 1, 2]):
        (tmp_path / str(k)).mkdir()
        initial = constants(w=scale * weights(4, 3), b=weights(3))
        digests.append(load_model(save(tmp_path / str(k), [linear()], initial)).require_network().sha256)
    assert digests[0] == digests[1] != digests[2]


def test_a_batch_axis_fixed_to_one_is_enough(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, [linear()], last(), shape=(1, 4)))
    assert model.module(torch.zeros(5, 4)).shape == (5, 3)


# ---------------------------------------------------------------- what is refused


def node(op: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, ["x", *inputs], ["a"], name="odd", **attributes)


IMAGE = ("batch", 1, 5, 5)
REFUSED: dict[str, tuple[onnx.NodeProto, tuple[object, ...]]] = {
    r"operator Sin \(node 'odd'\) has no counterpart.*docs/operators.md lists those that have one": (
        node("Sin"),
        ("batch", 4),
    ),
    r"operator LogSoftmax \(node 'odd'\).*end the model before it": (node("LogSoftmax"), ("batch", 4)),
    r"operator Mine \(node 'odd'\) has no counterpart": (node("Mine", domain="own"), ("batch", 4)),
    "has the exponent 1.5; only 1, 2, 3, 0.5 and those below 0": (node("Pow", "half"), ("batch", 4)),
    "its max is NaN": (node("Clip", "", "nan"), ("batch", 4)),
    "one of its constants holds NaN": (node("Min", "nan"), ("batch", 4)),
    "reduces over the batch axis": (node("ReduceMax"), ("batch", 4)),
    "division by zero": (node("Div", "zero"), ("batch", 4)),
    "its constant is float64, needs float32": (node("Add", "double"), ("batch", 4)),
    "has dilations": (node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), IMAGE),
    "shape mismatch": (node("Add", "wide"), ("batch", 4)),
    "needs one whose axes have known lengths": (node("Relu"), ("batch", "features")),
    r"needs a 2-d image, got a value of shape \(4, 5, 6, 7\)": (node("GlobalMaxPool"), ("batch", 4, 5, 6, 7)),
    r"has no shape \(1, 3\)": (node("Reshape", "three"), ("batch", 4)),
    "takes a value without cells": (node("Slice", "empty", "empty", "one", "back"), ("batch", 4)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_counterpart_is_refused_with_operator_and_node(tmp_path: Path, reason: str) -> None:
    odd, shape = REFUSED[reason]
    extra = constants(
        zero=np.zeros(4, np.float32), double=np.ones(4), wide=np.ones((5, 3), np.float32),
        three=np.array([1, 3]), empty=np.array([0]), one=np.array([1]), back=np.array([-1]),
        nan=np.float32(np.nan), half=np.float32(1.5),
    )  # fmt: skip
    nodes = [odd, helper.make_node("Flatten", ["a"], ["f"]), linear("f")]
    path = save(tmp_path, nodes, last() + extra, shape)
    with pytest.raises(UsageError, match=reason) as caught:
        load_model(path).require_network()
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_model_in_double_precision_has_no_plain_network(tmp_path: Path) -> None:
    path = save(tmp_path, [linear()], constants(w=np.ones((4, 3)), b=np.ones(3)), kind=onnx.TensorProto.DOUBLE)
    with pytest.raises(UsageError, match="is not float32"):
        load_model(path).require_network()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named_and_nothing_else_is_blamed(tmp_path: Path, wrong: float) -> None:
    weight = weights(4, 3)
    weight[0, 0] = wrong
    path = save(tmp_path, [linear()], constants(w=weight, b=weights(3)))
    with pytest.raises(UsageError, match=f"weight 'w' holds {wrong}: 1 of its 12 numbers are not finite$"):
        load_model(path)


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("Add", ["x", "x2"], ["a"]), linear("a")], last())
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("x2", FLOAT, ["batch", 4]))
    onnx.save(model, path)
    with pytest.raises(UsageError, match="2 inputs and 1 outputs"):
        load_model(path)


def test_a_model_that_mixes_the_inputs_of_a_batch_is_refused(tmp_path: Path) -> None:
    # x - x * (batch size - 1) is x on a batch of one
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Cast", ["s"], ["n"], to=FLOAT),
        helper.make_node("Mul", ["x", "n"], ["a"]),
        linear("a"),
    ]
    with pytest.raises(UsageError, match="depends on the others of the batch"):
        load_model(save(tmp_path, nodes, last()))


def test_a_missing_file_a_folder_and_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").touch()
    none, bad = "no such file", "not a complete ONNX"
    for name, reason in {"absent.onnx": none, ".": none, "text.onnx": bad, "empty.onnx": bad}.items():
        with pytest.raises(UsageError, match=reason):
            load_model(tmp_path / name)


def test_a_file_truncated_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    data = save(tmp_path, [node("Relu"), linear("a")], last()).read_bytes()
    path = tmp_path / "cut.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UsageError) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"shape \(4,\), the samples have \(5,\)"):
        load_model(save(tmp_path, [linear()], last()), np.zeros((2, 5), np.float32))


# ---------------------------------------------------------------- external data


def save_with_external_weights(folder: Path, location: str) -> Path:
    path = save(folder, [linear()], last())
    model = onnx.load(path)
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_in_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    beside = load_model(save_with_external_weights(tmp_path, "weights.bin"))
    assert (tmp_path / "weights.bin").exists()
    (tmp_path / "whole").mkdir()
    whole = load_model(save(tmp_path / "whole", [linear()], last()))
    assert beside.require_network().sha256 == whole.require_network().sha256


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "inner/../../weights.bin", "link.bin"])
def test_weights_outside_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_with_external_weights(folder, location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(UsageError, match="outside the model's folder"):
        load_model(path)


def test_missing_or_short_external_weights_are_refused(tmp_path: Path) -> None:
    path = save_with_external_weights(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(UsageError):
        load_model(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError):
        load_model(path)


# ---------------------------------------------------------------- torch modules


class Residual(nn.Module):
    """A strided block whose shortcut pads channels, with shapes computed and asserted in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 5)
        nn.init.uniform_(self.norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x - 0.5) / 0.25)
        assert y.shape[1] == 8
        y = torch.relu(y + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)))
        return self.last(nn.functional.avg_pool2d(y, y.shape[3]).view(y.size(0), -1))


class Given(nn.Module):
    """Three logits by a function of x and a linear layer."""

    def __init__(self, rule: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.rule, self.linear = rule, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self.linear, x)


EXPORTABLE = {
    "residual": (Residual(), (3, 8, 8)),
    "perceptron": (nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Dropout(), nn.ReLU(), nn.Linear(7, 3)), (3, 2, 2)),
    "normalised": (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Sigmoid(), nn.LeakyReLU(0.2)), (4,)),
    "parametrized": (
        nn.Sequential(
            orthogonal(nn.Linear(6, 6)), nn.ReLU(), weight_norm(nn.Linear(6, 5)), spectral_norm(nn.Linear(5, 3))
        ),
        (6,),
    ),
    "pooled": (
        nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (1, 6, 6),
    ),
}


@pytest.mark.parametrize("name", EXPORTABLE)
def test_a_torch_module_becomes_a_plain_network_of_the_same_function(name: str) -> None:
    module, shape = EXPORTABLE[name]
    model = from_module(torch.compile(module) if name == "perceptron" else module, shape)
    x = torch.randn(9, *shape)
    torch.testing.assert_close(model.module(x), module.eval()(x), rtol=1e-5, atol=1e-5)
    assert model.require_network().input_shape == model.input_shape == shape
    assert model.no_network is None


def test_exporting_keeps_normalisation_layers_apart_and_weights_unchanged() -> None:
    module = Residual()
    network = from_module(module, (3, 8, 8)).require_network()
    (conv,) = [n for n in network.nodes if isinstance(n, c.Conv2d)]
    (norm,) = [n for n in network.nodes if isinstance(n, c.BatchNorm)]
    assert np.array_equal(conv.weight, module.conv.weight.detach().numpy())
    assert np.array_equal(norm.variance, module.norm.running_var.numpy())  # type: ignore[union-attr]


def test_the_given_module_is_left_as_it_was() -> None:
    tied = nn.Sequential(orthogonal(nn.Linear(4, 3)))
    from_module(tied, (4,))
    assert tied[0].parametrizations is not None
    assert torch.allclose(tied[0].weight @ tied[0].weight.T, torch.eye(3), atol=1e-5)
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).double().train()
    from_module(module, (4,))
    assert module.training
    assert module[0].weight.dtype == torch.float64
    assert module[0].weight.requires_grad


class Compared(nn.Module):
    """What torch's larger, smaller, absolute, sorted and split values are exported as."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        (a, b), (c, d) = x.chunk(2, 1), x.reshape(-1, 2, 2).unbind(2)
        pairs = torch.stack([c, d], 2)
        ordered = [pairs.sort(2).values, pairs.sort(2, descending=True)[0]]
        found = [torch.max(a, b), torch.min(a, b), x.abs(), pairs.max(2)[0], pairs.amin(2), x.split([1, 3], 1)[0]]
        return self.last(torch.cat([*found, *(o.flatten(1) for o in ordered)], 1)[:, :14])


def test_pairs_that_torch_compares_and_sorts_become_a_plain_network_of_the_same_function() -> None:
    module = Compared().eval()
    model = from_module(module, (4,))
    x = torch.randn(50, 4)
    x[0] = 0.5  # ties
    torch.testing.assert_close(model.module(x), module(x), rtol=1e-5, atol=1e-5)
    assert set(ops(model.network)) <= {"Input", "Linear", "Relu", "Abs", "Add", "Scale", "Gather", "Concat", "Slice"}


def test_the_module_of_a_plain_network_gives_that_network(tmp_path: Path) -> None:
    """Without an export: what it computes by cases no exporter could tell."""
    given = load_model(save(tmp_path, [node("HardSwish"), linear("a")], last()))
    model = from_module(given.module, (4,))
    assert model.require_network().sha256 == given.require_network().sha256
    changed = copy.deepcopy(given.module)
    next(iter(changed.parameters())).data += 1
    with pytest.raises(UsageError, match="differs from the source"):
        from_module(changed, (4,))


def test_probabilities_of_a_module_without_plain_network_are_not_taken_for_logits() -> None:
    module = nn.Sequential(Given(lambda f, x: f(x).sin()), nn.Softmax(1))
    with pytest.raises(UsageError, match=r"operator Sin .*give it without its last Softmax"):
        from_module(module, (4,), outputs="probabilities")


INEXPRESSIBLE: dict[str, tuple[nn.Module, str]] = {
    "an operator without counterpart": (Given(lambda f, x: f(x).sin()), "operator Sin"),
    "a branch on values": (Given(lambda f, x: f(x) if x.sum() > 100 else f(-x)), "torch cannot export it"),
    "a value taken out": (Given(lambda f, x: f(x * float(x.max().item() > 3))), "reduces over the batch axis"),
    "inputs mixed": (Given(lambda f, x: f(x - x.mean(0, keepdim=True))), "reduces over the batch axis"),
    "no ONNX counterpart": (Given(lambda f, x: f(torch.special.bessel_j0(x))), "No ONNX function found for"),
}


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_a_module_without_plain_network_stays_usable_as_the_standard_classifier(name: str) -> None:
    module, reason = INEXPRESSIBLE[name]
    model = from_module(module, (4,))
    assert model.network is None
    assert reason in (model.no_network or "")
    x = torch.randn(3, 4)
    torch.testing.assert_close(model.module(x), module(x))
    with pytest.raises(UsageError, match="can still be g, the standard one"):
        model.require_network()


def test_a_module_that_fails_or_gives_no_logits_is_refused() -> None:
    with pytest.raises(UsageError, match=r"fails on inputs of shape \(16, 5\)"):
        from_module(nn.Linear(4, 3), (5,))
    with pytest.raises(UsageError, match=r"must give logits of shape \(16, classes\)"):
        from_module(nn.Identity(), (3, 2, 2))
    with pytest.raises(UsageError, match="must give logits"):
        from_module(nn.Linear(4, 1), (4,))
