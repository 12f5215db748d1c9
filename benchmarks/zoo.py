"""The table of docs/models.md: which classifiers of the usual architectures load as g and as h.

    python benchmarks/zoo.py [--folder FOLDER] [--write docs/models.md]

Builds each architecture that the folder lacks, small, from torch alone, with random weights; exports it by both of
torch's exporters, or writes the graph that other tools write; puts the models of this repository, and of CERTMIX_DATA
where it is there, beside them; and surveys the folder as `certmix models FOLDER` does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from certmix.formatting import upper
from certmix.models.exporter import exported, quietly
from certmix.models.survey import Surveyed, survey

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CERTMIX_DATA", ROOT / "../shared/data"))
BUNDLED = "bundled"
IMAGE, GREY, SEQUENCE, ROW = (3, 16, 16), (1, 8, 8), (2, 16), (8,)
START, END = "<!-- written by benchmarks/zoo.py -->", "<!-- to here -->"

# ---------------------------------------------------------------- blocks


def conv(a: int, b: int, k: int = 3, s: int = 1, act: nn.Module | None = None, **kw: object) -> nn.Sequential:
    parts = [nn.Conv2d(a, b, k, s, k // 2, bias=False, **kw), nn.BatchNorm2d(b), act or nn.ReLU()]  # type: ignore[arg-type]
    return nn.Sequential(*parts)


class Residual(nn.Module):
    def __init__(self, body: nn.Module, skip: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.skip, self.after = body, skip or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.skip(x))


class Joined(nn.Module):
    """What several bodies give, as channels; with the input in front where `keep`."""

    def __init__(self, *bodies: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.bodies, self.keep = nn.ModuleList(bodies), keep

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*([x] if self.keep else []), *(body(x) for body in self.bodies)], 1)


class Apply(nn.Module):
    def __init__(self, rule: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(x)


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1), gate
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.inner(x)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """ConvNeXt's layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.mix, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.mix(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).reshape(n, tokens, width))


class Multihead(nn.Module):
    """torch's own attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def perceptron(width: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), act, nn.Linear(2 * width, width))


def block(width: int, attention: nn.Module, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> nn.Sequential:
    return nn.Sequential(
        Residual(nn.Sequential(norm(width), attention)),
        Residual(nn.Sequential(norm(width), perceptron(width, nn.GELU()))),
    )


class Tokens(nn.Module):
    """Patches as tokens with positions; a token of the class in front where `of_class`, else their mean."""

    def __init__(self, body: nn.Module, width: int, of_class: bool) -> None:
        super().__init__()
        self.patches, self.body, self.of_class = nn.Conv2d(3, width, 8, 8), body, of_class
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, 4 + of_class, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self.of_class:
            tokens = torch.cat([self.cls.expand(x.shape[0], -1, -1), tokens], 1)
        tokens = self.norm(self.body(tokens + self.position))
        return self.head(tokens[:, 0] if self.of_class else tokens.mean(1))


class Windows(nn.Module):
    """Swin's attention in shifted windows of 2 x 2 tokens, on 4 x 4."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.attention, self.shift = Attention(width), shift

    def forward(self, x: Tensor) -> Tensor:
        n, _, width = x.shape
        x = torch.roll(x.reshape(n, 4, 4, width), (-self.shift, -self.shift), (1, 2))
        x = x.reshape(n, 2, 2, 2, 2, width).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 4, width)
        x = self.attention(x).reshape(n, 2, 2, 2, 2, width).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, width)
        return torch.roll(x, (self.shift, self.shift), (1, 2)).reshape(n, 16, width)


class Shuffle(nn.Module):
    """ShuffleNet V2's unit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels // 2
        self.body = nn.Sequential(conv(c, c, 1), conv(c, c, 3, act=nn.Identity(), groups=c), conv(c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        x = torch.cat([kept, self.body(changed)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def pooled(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def inverted(a: int, act: nn.Module, *more: nn.Module) -> Residual:
    return Residual(
        nn.Sequential(conv(a, 2 * a, 1, act=act), conv(2 * a, 2 * a, 3, act=act, groups=2 * a), *more,
                      conv(2 * a, a, 1, act=nn.Identity()))
    )  # fmt: skip


def max_min(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([torch.max(a, b), torch.min(a, b)], 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x[:, 0])[0][:, -1])


# ---------------------------------------------------------------- architectures

W = 8
SEQ = nn.Sequential
ARCHITECTURES: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "MLP, ReLU": lambda: (SEQ(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), GREY),
    "tabular MLP, BatchNorm, SELU": lambda: (
        SEQ(nn.BatchNorm1d(8), nn.Linear(8, 16), nn.SELU(), nn.Dropout(), nn.Linear(16, 3)), ROW),
    "MLP, GELU": lambda: (SEQ(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10)), GREY),
    "LeNet, tanh, average pooling": lambda: (
        SEQ(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 10)), GREY),
    "AlexNet, local response norm": lambda: (
        SEQ(conv(3, W), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2), *pooled(W)), IMAGE),
    "VGG, BatchNorm": lambda: (
        SEQ(conv(3, W), conv(W, W), nn.MaxPool2d(2), conv(W, W), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
        IMAGE),
    "ResNet, basic blocks": lambda: (
        SEQ(conv(3, W), Residual(SEQ(conv(W, W), conv(W, W, act=nn.Identity())), after=nn.ReLU()),
            Residual(SEQ(conv(W, 16, s=2), conv(16, 16, act=nn.Identity())), conv(W, 16, 1, 2, nn.Identity()),
                nn.ReLU()),
            *pooled(16)), IMAGE),
    "ResNet, bottlenecks, pre-activation": lambda: (
        SEQ(nn.Conv2d(3, W, 3), Residual(SEQ(nn.BatchNorm2d(W), nn.ReLU(), nn.Conv2d(W, 4, 1), nn.BatchNorm2d(4),
            nn.ReLU(), nn.Conv2d(4, W, 3, padding=1))), nn.MaxPool2d(3, 2, 1), *pooled(W)), IMAGE),
    "ResNeXt, grouped": lambda: (
        SEQ(conv(3, W), Residual(SEQ(conv(W, W, 1), conv(W, W, groups=4), conv(W, W, 1, act=nn.Identity()))),
            *pooled(W)),
        IMAGE),
    "ResNet, GroupNorm, weight-free skip": lambda: (
        SEQ(nn.Conv2d(3, W, 3), Residual(SEQ(nn.GroupNorm(2, W), nn.SiLU(), nn.Conv2d(W, W, 3, padding=1))),
            *pooled(W)),
        IMAGE),
    "DenseNet": lambda: (
        SEQ(conv(3, W), Joined(conv(W, 4), keep=True), Joined(conv(12, 4), keep=True), conv(16, W, 1), nn.AvgPool2d(2),
            *pooled(W)), IMAGE),
    "SqueezeNet, ceil_mode": lambda: (
        SEQ(conv(3, W), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(W, 4, 1), nn.ReLU(),
            Joined(conv(4, 4, 1), conv(4, 4, 3)), nn.Conv2d(W, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten()),
        IMAGE),
    "GoogLeNet, branches": lambda: (
        SEQ(conv(3, W), Joined(conv(W, 2, 1), conv(W, 2), conv(W, 2, 5),
                               SEQ(nn.MaxPool2d(3, 1, 1), conv(W, 2, 1))), *pooled(W)), IMAGE),
    "MobileNet V2, ReLU6": lambda: (SEQ(conv(3, W, act=nn.ReLU6()), inverted(W, nn.ReLU6()), *pooled(W)), IMAGE),
    "MobileNet V3, hard swish, SE": lambda: (
        SEQ(conv(3, W, act=nn.Hardswish()), inverted(W, nn.Hardswish(), Excite(2 * W, nn.Hardsigmoid())),
            *pooled(W)), IMAGE),
    "EfficientNet, SiLU, SE": lambda: (
        SEQ(conv(3, W, act=nn.SiLU()), inverted(W, nn.SiLU(), Excite(2 * W, nn.Sigmoid())), *pooled(W)), IMAGE),
    "ShuffleNet V2": lambda: (SEQ(conv(3, W), Shuffle(W), nn.MaxPool2d(2), Shuffle(W), *pooled(W)), IMAGE),
    "RegNet, SE": lambda: (SEQ(conv(3, W), Residual(SEQ(conv(W, W, groups=2), Excite(W, nn.Sigmoid()))), *pooled(W)),
        IMAGE),
    "ConvNeXt": lambda: (
        SEQ(nn.Conv2d(3, W, 4, 4), LayerNorm2d(W),
            Residual(SEQ(nn.Conv2d(W, W, 7, padding=3, groups=W), LayerNorm2d(W), nn.Conv2d(W, 2 * W, 1), nn.GELU(),
                         nn.Conv2d(2 * W, W, 1), Scaled(W))), *pooled(W)), IMAGE),
    "ConvMixer": lambda: (
        SEQ(nn.Conv2d(3, W, 4, 4), nn.GELU(), nn.BatchNorm2d(W),
            Residual(SEQ(nn.Conv2d(W, W, 3, groups=W, padding="same"), nn.GELU(), nn.BatchNorm2d(W))), *pooled(W)),
                IMAGE),
    "WideResNet, Swish (robust training)": lambda: (
        SEQ(nn.Conv2d(3, W, 3, padding=1), Residual(SEQ(nn.BatchNorm2d(W), nn.SiLU(), nn.Conv2d(W, W, 3, padding=1))),
            nn.BatchNorm2d(W), nn.SiLU(), *pooled(W)), IMAGE),
    "NFNet, scaled GELU": lambda: (
        SEQ(nn.Conv2d(3, W, 3), Residual(SEQ(nn.GELU(), Apply(lambda x: 1.7015 * x), nn.Conv2d(W, W, 3, padding=1))),
            *pooled(W)), IMAGE),
    "ViT, class token": lambda: (Tokens(block(W, Attention(W)), W, True), IMAGE),
    "ViT, mean, torch's attention": lambda: (Tokens(block(W, Multihead(W)), W, False), IMAGE),
    "ViT, RMSNorm, tanh GELU": lambda: (
        Tokens(SEQ(Residual(SEQ(nn.RMSNorm(W), Attention(W))), Residual(perceptron(W, nn.GELU("tanh")))), W, False),
        IMAGE),
    "transformer of torch (TransformerEncoderLayer)": lambda: (
        Tokens(nn.TransformerEncoderLayer(W, 2, 16, batch_first=True), W, False), IMAGE),
    "Swin, shifted windows": lambda: (
        SEQ(nn.Conv2d(3, W, 4, 4), Apply(lambda x: x.flatten(2).transpose(1, 2)), Windows(W, 0), Windows(W, 1),
            Apply(lambda x: x.mean(1)), nn.Linear(W, 10)), IMAGE),
    "MLP-Mixer": lambda: (
        Tokens(SEQ(Residual(SEQ(Apply(lambda x: x.transpose(1, 2)), perceptron(4, nn.GELU()),
                                Apply(lambda x: x.transpose(1, 2)))), Residual(perceptron(W, nn.GELU()))), W, False),
                                    IMAGE),
    "PoolFormer": lambda: (
        SEQ(nn.Conv2d(3, W, 4, 4), Residual(SEQ(nn.GroupNorm(1, W), nn.AvgPool2d(3, 1, 1, count_include_pad=False))),
            *pooled(W)), IMAGE),
    "1-Lipschitz, MaxMin": lambda: (SEQ(nn.Conv2d(1, W, 3), Apply(max_min), nn.Flatten(), nn.Linear(W * 36, 10)), GREY),
    "1-Lipschitz, full sort": lambda: (
        SEQ(nn.Flatten(), nn.Linear(64, 8), Apply(lambda x: x.sort(1).values), nn.Linear(8, 10)), GREY),
    "absolute values": lambda: (SEQ(nn.Flatten(), nn.Linear(64, 8), Apply(torch.abs), nn.Linear(8, 10)), GREY),
    "highway, gated linear units": lambda: (SEQ(nn.Flatten(), nn.Linear(64, 16), nn.GLU(), nn.Linear(8, 10)), GREY),
    "radial basis functions": lambda: (
        SEQ(nn.Flatten(), nn.Linear(64, 8), Apply(lambda x: torch.exp(-x * x)), nn.Linear(8, 10)), GREY),
    "1-d CNN of a time series": lambda: (
        SEQ(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
            nn.Linear(4, 3)), SEQUENCE),
    "decoder's upsampling": lambda: (
        SEQ(conv(3, W), nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(W, W, 2, 2), *pooled(W)),
        IMAGE),
    "sine activation (SIREN)": lambda: (SEQ(nn.Flatten(), nn.Linear(64, 8), Apply(torch.sin), nn.Linear(8, 10)), GREY),
    "LSTM": lambda: (Recurrent(), GREY),
    "ends in LogSoftmax": lambda: (SEQ(nn.Flatten(), nn.Linear(64, 10), nn.LogSoftmax(1)), GREY),
}  # fmt: skip


# ---------------------------------------------------------------- what other tools write


def graph(
    nodes: list[onnx.NodeProto], x: tuple[object, ...], y: tuple[object, ...], **initial: np.ndarray
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in initial.items()]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) / 4


def keras_cnn() -> onnx.ModelProto:
    """As tf2onnx writes a Keras model: channels last, transposed around every convolution."""
    nodes = [
        node("Transpose", "x", "a", perm=[0, 3, 1, 2]),
        node("Conv", "a w b", "c", auto_pad="SAME_UPPER"),
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "p", "t", perm=[0, 2, 3, 1]),
        node("Reshape", "t s", "f"),
        node("MatMul", "f v", "m"),
        node("Add", "m k", "y"),
    ]
    return graph(nodes, ("n", 8, 8, 1), ("n", 10), w=random(4, 1, 3, 3), b=random(4), s=np.array([-1, 64]),
                 v=random(64, 10), k=random(10))  # fmt: skip


def keras_softmax() -> onnx.ModelProto:
    made = keras_cnn()
    made.graph.node[-1].output[0] = "z"
    made.graph.node.append(node("Softmax", "z", "y", axis=-1))
    return made


def no_batch_axis() -> onnx.ModelProto:
    """As VNN-LIB benchmarks are written: (1, 784, 1) columns, weights from the left."""
    nodes = [
        node("Sub", "x m", "a"), node("Reshape", "a s", "f"), node("MatMul", "w f", "c"), node("Add", "c b", "d"),
        node("Relu", "d", "r"), node("MatMul", "v r", "e"), node("Reshape", "e q", "y"),
    ]  # fmt: skip
    return graph(nodes, (1, 64, 1), (1, 10), m=np.float32(0.5), s=np.array([64, 1]), w=random(16, 64), b=random(16, 1),
                 v=random(10, 16), q=np.array([1, 10]))  # fmt: skip


def vector_of_an_image() -> onnx.ModelProto:
    """A vector that the model itself makes an image of."""
    nodes = [
        node("Reshape", "x s", "i"), node("Conv", "i w", "c"), node("Relu", "c", "r"), node("Flatten", "r", "f"),
        node("Gemm", "f v", "y"),
    ]  # fmt: skip
    return graph(nodes, ("n", 64), ("n", 10), s=np.array([-1, 1, 8, 8]), w=random(4, 1, 3, 3), v=random(144, 10))


def unit_axes() -> onnx.ModelProto:
    """A fully convolutional classifier, whose logits are (N, K, 1, 1)."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "p"),
        node("Conv", "p v", "y"),
    ]
    return graph(nodes, ("n", 3, 16, 16), ("n", 10, 1, 1), w=random(4, 3, 3, 3), v=random(10, 4, 1, 1))


def fixed_batch() -> onnx.ModelProto:
    made = vector_of_an_image()
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 16
    return made


def half() -> onnx.ModelProto:
    nodes = [node("Gemm", "x w", "y")]
    made = graph(nodes, ("n", 8), ("n", 10), w=random(8, 10).astype(np.float16))
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return made


def quantised() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d"), node("Gemm", "d w", "y"),
    ]  # fmt: skip
    return graph(nodes, ("n", 8), ("n", 10), s=np.float32(0.01), z=np.uint8(0), w=random(8, 10))


def two_outputs() -> onnx.ModelProto:
    made = vector_of_an_image()
    made.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ("n", 144)))
    return made


WRITTEN: dict[str, Callable[[], onnx.ModelProto]] = {
    "Keras CNN, channels last (tf2onnx)": keras_cnn,
    "Keras CNN that ends in Softmax": keras_softmax,
    "VNN-COMP, columns without batch axis": no_batch_axis,
    "vector made an image inside": vector_of_an_image,
    "logits (N, K, 1, 1)": unit_axes,
    "batch axis fixed to 16": fixed_batch,
    "float16": half,
    "quantised, QDQ": quantised,
    "two outputs": two_outputs,
}

# ---------------------------------------------------------------- the folder and the table


def by_default(module: nn.Module, x: Tensor, path: Path) -> None:
    shapes = ({0: "n"},)
    torch.onnx.export(module, (x,), str(path), dynamic_shapes=shapes, external_data=False, verbose=False)


def by_trace(module: nn.Module, x: Tensor, path: Path) -> None:
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    torch.onnx.export(module, (x,), str(path), dynamo=False, verbose=False, **names)  # type: ignore[arg-type]


# torch's default; the same as `certmix.from_module` has it, without torch's optimiser; the exporter before
EXPORTS: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {
    "default": by_default,
    "module": lambda module, x, path: onnx.save(exported(module, x), path),
    "torchscript": by_trace,
}


def build(folder: Path) -> dict[str, str]:
    """Fills the folder; from file to what is said of it."""
    told: dict[str, str] = {}
    for name, make in ARCHITECTURES.items():
        torch.manual_seed(0)
        module, shape = make()
        module.eval()
        stem = "".join(c if c.isalnum() else "-" for c in name.lower())
        x = torch.rand(2, *shape)
        for way, export in EXPORTS.items():
            path = folder / f"{stem}.{way}.onnx"
            if path.exists():
                told[path.name] = name
                continue
            try:
                with quietly():
                    export(module, x, path)
            except torch.onnx.errors.UnsupportedOperatorError:  # of the old exporter, which knows fewer
                continue
            told[path.name] = name
    for name, write in WRITTEN.items():
        path = folder / f"{''.join(c if c.isalnum() else '-' for c in name.lower())}.onnx"
        onnx.save(write(), path)
        told[path.name] = name
    for source, label in ((ROOT / "examples", "examples"), (DATA, "data")):
        for path in sorted(source.rglob("*.onnx")) if source.is_dir() else []:
            kept = folder / BUNDLED / label / path.relative_to(source)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="put the table there, between its marks")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="zoo"))
    folder.mkdir(parents=True, exist_ok=True)
    told = build(folder)
    found = list(survey(folder))
    text = table(found, told)
    print(text)
    if options.write is not None:
        page = options.write.read_text("utf-8")
        before, after = page.split(START)[0], page.split(END)[1]
        options.write.write_text(f"{before}{START}\n{text}{END}{after}", "utf-8")


def table(found: list[Surveyed], told: dict[str, str]) -> str:
    """In Markdown: one row for each architecture, where its exports agree."""
    lines = ["| model | as g | as h | differs from onnxruntime by | otherwise |", "|---|---|---|---|---|"]
    rows: dict[str, list[Surveyed]] = {}
    for each in found:
        rows.setdefault(told.get(Path(each.file).name, each.file), []).append(each)
    for name in sorted(
        rows, key=lambda n: (n.startswith(BUNDLED), list(told.values()).index(n) if n in told.values() else 0, n)
    ):
        group = rows[name]
        as_g = " / ".join(dict.fromkeys(each.standard or "no" for each in group))
        as_h = " / ".join(dict.fromkeys("yes" if each.robust else "no" for each in group))
        seen = [each.difference for each in group if each.difference is not None]
        why = " / ".join(dict.fromkeys(each.why for each in group if each.why))
        shown = upper(max(seen), 1) if seen else ""
        lines.append(f"| {name} | {as_g} | {as_h} | {shown} | {why} |")
    for label, of in (("built for this table", [r for n, r in rows.items() if not n.startswith(BUNDLED)]),
                      ("bundled", [r for n, r in rows.items() if n.startswith(BUNDLED)])):  # fmt: skip
        flat = [each for group in of for each in group]
        g, h = (sum(map(bool, s)) for s in ([e.standard for e in flat], [e.robust for e in flat]))
        lines.append(f"| **{label}: {len(flat)} files** | **{g}** | **{h}** | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
