"""The frozen types of a certificate and of the plain network it speaks of. They *are* the format.

`FORMAT.md` beside this file specifies the bytes; `parse.py` reads them. No arithmetic lives here, so
that both sides of the trust line may share these types.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

FORMAT = "certmix-certificate/1"
NETWORK_FORMAT = "certmix-network/1"
RUN_FORMAT = "certmix-run/1"

Norm = Literal["Linf", "L2", "L1"]
Semantics = Literal["real", "float32"]
ClassOf = Literal["robust", "mix"]

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
Digest = Annotated[str, re.compile("[0-9a-f]{64}")]  # SHA-256; the pattern is part of the type that `parse.read` reads


class MalformedError(ValueError):
    """Bytes that are not a certificate, a run header or a plain network; `place` says where."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


class RejectedError(Exception):
    """A well-formed certificate whose claim was not proven; `step` names the failing check."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


def need(condition: object, step: str, reason: str) -> None:
    """Raise RejectedError unless `condition` holds (an `assert` that `python -O` cannot remove)."""
    if not condition:
        raise RejectedError(step, reason)


def wellformed(condition: object, place: str, reason: str) -> None:
    """Raise MalformedError unless `condition` holds."""
    if not condition:
        raise MalformedError(place, reason)


class Assumption(enum.Enum):
    """What an accepted certificate still rests on, beyond the exact export of the model."""

    ENGINE_TRUSTED = "bounds were taken from an engine and not re-derived"
    SAMPLES_IID = "the certifying draws were independent, distributed as stated, and taken after the plan was fixed"
    COUNTS_TRUSTED = "the counts are those of the stated draws through the stated networks, and were not recounted"
    REAL_ARITHMETIC_BASE = "the base model's floating-point outputs count as its exact values"
    MODEL_FILE = "the model's file gives as many logits, for inputs of the shape, as the claim states"
    ALPHA_BOUND_TRUSTED = "the declared lower bound of the input-dependent alpha was not re-derived"


# ---------------------------------------------------------------- the plain network (normal form)


@dataclass(frozen=True, eq=False)
class Input:
    """The raw input, of at most 8 axes; always node 0. Where it is no image and no vector, only `Flatten` and `Gather`
    read it: every other value is one, (channels, height, width) or (features,)."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Unary:
    """A node with one input, an earlier node's number. Kinds without a field of their own are plain subclasses."""

    inputs: tuple[int]


@dataclass(frozen=True, eq=False)
class Linear(Unary):
    """y = weight @ x + bias; weight (out, in), bias (out,); x is a vector."""

    weight: Float32Array
    bias: Float32Array


@dataclass(frozen=True, eq=False)
class Conv2d(Unary):
    """Cross-correlation; weight (out, in / groups, kh, kw); padding (top, left, bottom, right) of zeros."""

    weight: Float32Array
    bias: Float32Array
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, eq=False)
class BatchNorm(Unary):
    """Per channel (axis 0): scale * (x - mean) / sqrt(variance + epsilon) + shift, in real arithmetic."""

    scale: Float32Array
    shift: Float32Array
    mean: Float32Array
    variance: Float32Array
    epsilon: float


@dataclass(frozen=True, eq=False)
class WithConstant(Unary):
    """`constant` broadcasts against x by numpy's rules without enlarging x."""

    constant: Float32Array


class Shift(WithConstant):
    """x + constant."""


class Scale(WithConstant):
    """x * constant."""


class Divide(WithConstant):
    """x / constant; no entry of constant is zero. The real quotient, not a float32 one."""


class Relu(Unary):
    """max(x, 0)."""


@dataclass(frozen=True, eq=False)
class LeakyRelu(Unary):
    """x if x >= 0 else slope * x; 0 <= slope <= 1."""

    slope: float


class Sigmoid(Unary):
    """1 / (1 + exp(-x))."""


class Tanh(Unary):
    """tanh(x)."""


class Softplus(Unary):
    """log(1 + exp(x))."""


class Exp(Unary):
    """exp(x)."""


class Square(Unary):
    """x * x."""


class Cube(Unary):
    """x * x * x."""


class Erf(Unary):
    """erf(x)."""


class Abs(Unary):
    """|x|."""


class HardSwish(Unary):
    """x * min(max(x + 3, 0), 6) / 6."""


@dataclass(frozen=True, eq=False)
class Elu(Unary):
    """x if x >= 0 else alpha * (exp(x) - 1); alpha >= 0."""

    alpha: float


@dataclass(frozen=True, eq=False)
class Gelu(Unary):
    """x * (1 + erf(x / divisor)) / 2; divisor > 0."""

    divisor: float


@dataclass(frozen=True, eq=False)
class Swish(Unary):
    """x / (1 + exp(-(linear * x + cubic * x^3))); linear > 0, cubic >= 0. GELU in its tanh form is one, too."""

    linear: float
    cubic: float


@dataclass(frozen=True, eq=False)
class InversePower(Unary):
    """1 / x^exponent, of x > 0; exponent > 0. Nothing is proven where x may be 0 or less."""

    exponent: float


class SquareRoot(Unary):
    """sqrt(x), of x >= 0. Nothing is proven where x may be less."""


class Product(Unary):
    """The first half of x along axis 0 times the second half, cell by cell."""


@dataclass(frozen=True, eq=False)
class Pool(Unary):
    """Windows of an image; padding (top, left, bottom, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


class MaxPool2d(Pool):
    """Maximum over windows; padded cells do not take part."""


@dataclass(frozen=True, eq=False)
class AveragePool2d(Pool):
    """Mean over windows; padded zeros count in the denominator iff count_padding."""

    count_padding: bool


@dataclass(frozen=True, eq=False)
class Pad(Unary):
    """Surround with `value`: before / after give cells per axis."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float


@dataclass(frozen=True, eq=False)
class Slice(Unary):
    """x[start:stop:step] per axis; 0 <= start < stop <= length, step >= 1."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Concat:
    """Join along axis 0 (channels)."""

    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of two nodes of equal shape (a residual connection)."""

    inputs: tuple[int, int]


class Flatten(Unary):
    """To a vector, in C order."""


@dataclass(frozen=True, eq=False)
class Gather(Unary):
    """y[i] = x[index[i]], x in C order; index has y's shape, and entries that may repeat."""

    index: Int32Array


Node = (
    Input | Linear | Conv2d | BatchNorm | Shift | Scale | Divide | Relu | LeakyRelu | Sigmoid | Tanh
    | Softplus | Exp | Square | Cube | Erf | Abs | HardSwish | Elu | Gelu | Swish
    | InversePower | SquareRoot | Product
    | MaxPool2d | AveragePool2d | Pad | Slice | Concat | Add | Flatten
    | Gather
)  # fmt: skip

NODE_TYPES: dict[str, type[Node]] = {
    "input": Input,
    "linear": Linear,
    "conv2d": Conv2d,
    "batch_norm": BatchNorm,
    "shift": Shift,
    "scale": Scale,
    "divide": Divide,
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "softplus": Softplus,
    "exp": Exp,
    "square": Square,
    "cube": Cube,
    "erf": Erf,
    "abs": Abs,
    "hard_swish": HardSwish,
    "elu": Elu,
    "gelu": Gelu,
    "swish": Swish,
    "inverse_power": InversePower,
    "square_root": SquareRoot,
    "product": Product,
    "max_pool2d": MaxPool2d,
    "average_pool2d": AveragePool2d,
    "pad": Pad,
    "slice": Slice,
    "concat": Concat,
    "add": Add,
    "flatten": Flatten,
    "gather": Gather,
}


@dataclass(frozen=True, eq=False)
class PlainNetwork:
    """A network in normal form: nodes in topological order, node 0 the input, the last node the logits.

    `shapes[k]` is the shape of node k's value (no batch axis); `sha256` is the digest of `data`, the
    canonical bytes. Built by `parse.network` only, so that every instance is well formed.
    """

    nodes: tuple[Node, ...]
    shapes: tuple[tuple[int, ...], ...]
    sha256: str
    data: bytes

    def __repr__(self) -> str:
        return f"PlainNetwork({len(self.nodes)} nodes, {self.shapes[0]} -> {self.shapes[-1]}, {self.sha256[:12]}…)"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    @property
    def classes(self) -> int:
        return self.shapes[-1][0]


# ---------------------------------------------------------------- the certificate


@dataclass(frozen=True)
class ModelFile:
    """A classifier that need not be a plain network: what the ONNX file with this digest computes. Nothing of it is
    derived; counts of its answers may prove a claim. input_shape, classes: of one input, and how many logits it gives.
    """

    sha256: Digest
    input_shape: tuple[int, ...]
    classes: int

    def __post_init__(self) -> None:
        wellformed(self.classes >= 2, "classes", f"must be >= 2, got {self.classes}")


@dataclass(frozen=True)
class Smoothing:
    """h is the mean of h̄(q(x + ξ)) over ξ ~ N(0, noise_std² I) (docs/maths.md 5).

    q rounds every coordinate to the nearest multiple m / grid, then to the nearest float32. base "soft": h̄ =
    softmax(temperature * logits); "hard": h̄ = one-hot argmax of the logits (lowest index among ties).
    networks "both": g is smoothed too, in the same way and at temperature 1. The claim fails with
    probability at most `failure_probability` over the draws.
    """

    noise_std: float
    base: Literal["soft", "hard"]
    failure_probability: float
    grid: int = 255
    networks: Literal["robust", "both"] = "robust"

    def __post_init__(self) -> None:
        wellformed(0 < self.noise_std < math.inf, "noise_std", f"must be > 0 and finite, got {self.noise_std}")
        wellformed(
            0 < self.failure_probability < 1, "failure_probability", f"not in (0, 1): {self.failure_probability}"
        )
        wellformed(1 <= self.grid <= 2**16, "grid", f"must lie in [1, 65536], got {self.grid}")


@dataclass(frozen=True)
class InputAlpha:
    """A weight of h that depends on the input: a(x') = low + (high - low) / (1 + exp(s_0(x') - s_1(x'))).

    s: the two logits of the plain network with digest `network`. None: a is any function with values in [low, high].
    """

    network: Digest | None
    low: float
    high: float

    def __post_init__(self) -> None:
        wellformed(0 <= self.low <= self.high <= 1, "low", f"not 0 <= low <= high <= 1: {self.low}, {self.high}")


@dataclass(frozen=True)
class Transform:
    """M(z) = max(z + shift, 0)^power where `clamp`, else sign(z + shift) |z + shift|^power; each logit by itself."""

    shift: float
    power: float
    clamp: bool

    def __post_init__(self) -> None:
        wellformed(math.isfinite(self.shift), "shift", f"must be finite, got {self.shift}")
        wellformed(0 < self.power < math.inf, "power", f"must be > 0 and finite, got {self.power}")


@dataclass(frozen=True)
class MixedNuts:
    """The map of MixedNUTS as released, of all K logits z together: M(z) = scale sign(w) |w|^power, w = v Φ(v) (GELU),
    v = n / sqrt(n·n / (K - 1) + 1e-8) + shift, n = z - mean z; Φ is the normal distribution function."""

    scale: float
    shift: float
    power: float

    def __post_init__(self) -> None:
        wellformed(0 < self.scale < math.inf, "scale", f"must be > 0 and finite, got {self.scale}")
        wellformed(math.isfinite(self.shift), "shift", f"must be finite, got {self.shift}")
        wellformed(0 < self.power < math.inf, "power", f"must be > 0 and finite, got {self.power}")


@dataclass(frozen=True)
class Adaptive:
    """Another mix: a(x') in place of alpha, M(h) in place of h, or both; not both None."""

    alpha: InputAlpha | None
    transform: Transform | MixedNuts | None

    def __post_init__(self) -> None:
        given = self.alpha is not None or self.transform is not None
        wellformed(given, "alpha", "changes nothing, nor does transform: leave adaptive null")


@dataclass(frozen=True)
class Claim:
    """For every x' with ‖x' - x‖_norm <= radius (and, if `domain` is given, every coordinate of x' in it)
    the strict argmax of (1 - alpha) softmax(g(x')) + alpha softmax(temperature * h(x')) is `predicted`.

    g, h: the networks with digests `standard`, `robust`, or the models of such files; `standard` None: for *every* g
    with as many classes. x: the float32 array with digest `input`. class_of "robust": `predicted` is also the strict
    argmax of h(x); "mix": it need not be. Every float means exactly the IEEE double it parses to.
    semantics "float32": the claim also holds for the networks' logits as computed in IEEE float32 in any
    summation order. smoothing: softmax(temperature * h) is replaced by its Gaussian smoothing, also where class_of
    speaks of h, and softmax(g) too where smoothing.networks is "both". adaptive: in the mix above, adaptive.transform M
    replaces h by M(h), and adaptive.alpha replaces alpha by a(x'); then a(x') >= alpha on the whole set is part of the
    claim.
    """

    norm: Norm
    radius: float
    alpha: float
    temperature: float
    predicted: int
    class_of: ClassOf
    domain: tuple[float, float] | None
    semantics: Semantics
    robust: Digest | ModelFile
    standard: Digest | ModelFile | None
    input: Digest
    smoothing: Smoothing | None
    adaptive: Adaptive | None = None

    def __post_init__(self) -> None:
        wellformed(0 <= self.radius < math.inf, "radius", f"must be >= 0 and finite, got {self.radius}")
        wellformed(0 <= self.alpha <= 1, "alpha", f"must lie in [0, 1], got {self.alpha}")
        wellformed(0 < self.temperature < math.inf, "temperature", f"must be > 0 and finite, got {self.temperature}")
        wellformed(self.predicted >= 0, "predicted", f"must be >= 0, got {self.predicted}")
        low, high = self.domain or (0.0, 1.0)
        wellformed(-math.inf < low <= high < math.inf, "domain", f"is empty or not finite: {self.domain}")

    @property
    def alpha_network(self) -> Digest | None:
        """Of the input-dependent alpha, if the claim names one."""
        return None if self.adaptive is None or self.adaptive.alpha is None else self.adaptive.alpha.network


@dataclass(frozen=True)
class Accepted:
    """The claim is proven, given `assumptions`."""

    assumptions: frozenset[Assumption]


@dataclass(frozen=True)
class Rejected:
    """The claim is not proven: `step` is the check that failed."""

    step: str
    reason: str


Verdict = Accepted | Rejected
