"""Models: an ONNX file or a torch module as a differentiable module and, where possible, a plain network."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from certmix.data.features import Features
from certmix.errors import UsageError
from certmix.models.exporter import exported
from certmix.models.faithfulness import Faithfulness, Reference, compare
from certmix.models.front import reshaped, same_pixels, with_shape
from certmix.models.onnx.ends import Asked, Ended, Outputs, ended
from certmix.models.onnx.folding import one_line
from certmix.models.onnx.reader import plain_network, read_file
from certmix.models.preprocess import Behind, Preprocess, prepended
from certmix.models.runtime import Runtime, RuntimeModule, ends_of, usable
from certmix.models.sources import of_torch
from certmix.models.torch_files import load_module
from proofs_check.certificate import Float32Array, ModelFile, PlainNetwork
from verifiers.network.module import PlainModule

SAMPLES = 16
INPUTS_LOOKED_AT = 64
REPR = 250  # characters
VALUES_ONLY = (
    "runs in onnxruntime, without gradients: attacks follow h's gradients and search at random, and take g's float32 "
    "logits as they are"
)
PROBABILITIES = "its outputs are probabilities, not logits: the mix takes softmax of them again; remove its softmax"
TAILS: dict[str, nn.Module] = {"LogSoftmax": nn.LogSoftmax(1), "Softmax": nn.Softmax(1)}
PROBABILITY_TOLERANCE = 1e-5  # of a sum of float32 probabilities


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier: (N, *input_shape) raw inputs -> (N, classes) logits.

    module: torch module in evaluation mode, differentiable unless it runs in onnxruntime. network: the plain network
    that certificates speak of; None if some operator has no counterpart there: such a model serves as the standard
    classifier, or as what smoothing counts on. source: where it came from. faithfulness: the largest |difference|
    between the module's logits and those of the source (onnxruntime, or the given module) over the samples compared; 0
    where the module is the source itself. no_network: why there is no plain network, or None if there is one.
    reference: the source itself, as a function; None where the module is it. note: what was left out behind the logits.
    onnx: the bytes of a model that runs in onnxruntime, or of one that claims call by its file; None of any other.
    end: what was asked of its end.
    """

    module: nn.Module
    network: PlainNetwork | None
    classes: int
    input_shape: tuple[int, ...]
    source: str
    faithfulness: float
    no_network: str | None = None
    reference: Reference | None = None
    note: str | None = None
    onnx: bytes | None = None
    end: Asked = dataclasses.field(default_factory=Asked)

    def compared_at(self, inputs: Float32Array) -> Faithfulness:
        """The plain network against the source at inputs (N, *input_shape). Raises UsageError where they differ."""
        if self.reference is None:
            return Faithfulness((0.0,) * self.classes, ())
        try:
            return compare(self.module, self.reference, inputs)
        except UsageError as error:
            raise UsageError(f"{self.source}: {error}") from error

    def require_network(self) -> PlainNetwork:
        """The plain network. Raises UsageError, saying why, where there is none."""
        if self.network is None:
            raise UsageError(
                f"{self.source} has no plain network ({self.no_network}): it cannot be h, the robust classifier, "
                "but it can still be g, the standard one, or the base of --method smoothing"
            )
        return self.network

    @property
    def file(self) -> ModelFile | None:
        """What claims about its answers call it where it has no plain network."""
        if self.onnx is None:
            return None
        return ModelFile(hashlib.sha256(self.onnx).hexdigest(), self.input_shape, self.classes)

    def require_stated(self) -> PlainNetwork | ModelFile:
        """What a claim about counts of its answers speaks of: the plain network, else the file. Raises UsageError where
        it is neither."""
        stated = self.network or self.file
        if stated is None:
            raise UsageError(
                f"{self.source} has no plain network ({self.no_network}) and is no ONNX file that a claim could name: "
                "export it with torch.onnx.export and load the file"
            )
        return stated

    @property
    def values_only(self) -> str:
        """What follows for a model that runs in onnxruntime."""
        return f"{VALUES_ONLY} ({self.no_network})"

    def named(self, role: str) -> str:
        """role, standard or robust, and where the model came from."""
        return f"{role} ({self.source})"

    def __repr__(self) -> str:
        what = f"no plain network ({self.no_network})" if self.network is None else repr(self.network)
        text = f"Model({self.source}: {self.input_shape} -> {self.classes} classes, {what}"
        return (text if len(text) <= REPR else text[: REPR - 1] + "…") + ")"


def load_pair(
    standard: str | Path,
    robust: str | Path,
    input_shape: tuple[int, ...],
    needs_network: bool = True,
    ends: tuple[Asked, Asked] = (Asked(), Asked()),
    allow_code: bool = False,
) -> tuple[Model, Model]:
    """g and h from their files, for inputs of this shape. needs_network: of h. ends: what is asked of g's and of h's.
    allow_code: as of `load_model`.
    Raises UsageError where they do not fit one another, or h has no plain network and needs one."""
    h = load_asked(robust, input_shape, ends[1], allow_code=allow_code)
    if needs_network:
        h.require_network()
    g = load_asked(standard, h.input_shape, ends[0], allow_code=allow_code)
    require_pair(g, h)
    return g, h


def load_asked(
    path: str | Path,
    input_shape: tuple[int, ...] | None,
    asked: Asked,
    samples: Float32Array | None = None,
    allow_code: bool = False,
) -> Model:
    """`load_model` with what is asked of the model's ends."""
    return load_model(
        path, samples, input_shape,
        output=asked.output, outputs=asked.outputs, preprocess=asked.preprocess, features=asked.features,
        allow_code=allow_code,
    )  # fmt: skip


def require_pair(standard: Model, robust: Model) -> None:
    """Raises UsageError, naming both, unless the two take inputs of one shape and know equally many classes."""
    g, h = (f"{name} ({m.source})" for name, m in (("standard", standard), ("robust", robust)))
    if standard.input_shape != robust.input_shape:
        raise UsageError(
            f"input shapes differ: {g} takes {standard.input_shape}, {h} takes {robust.input_shape}: "
            "export both for the same inputs"
        )
    if standard.classes != robust.classes:
        raise UsageError(f"class counts differ: {g} has {standard.classes}, {h} has {robust.classes}")


def gives_probabilities(outputs: Tensor) -> bool:
    """Whether outputs (N, K) at N inputs look like probabilities, not logits: nonnegative, every row's sum 1, and not
    the same for all inputs or one-hot. A mix that takes them for logits applies softmax twice."""
    values = outputs.double()
    sums = bool(((values.sum(dim=1) - 1).abs() <= PROBABILITY_TOLERANCE).all())
    varies = len(values) == 1 or bool((values != values[:1]).any())
    one_hot = bool(((values == 0) | (values == 1)).all())
    return sums and bool((values >= 0).all()) and varies and not one_hot


def about_probabilities(models: Mapping[str, nn.Module], inputs: Tensor) -> list[str]:
    """One sentence for each model, by the name it goes under, whose outputs at inputs (N, *shape) look like
    probabilities; the first INPUTS_LOOKED_AT are enough."""
    sentences: list[str] = []
    for name, module in models.items():
        with torch.no_grad():
            if gives_probabilities(module(inputs[:INPUTS_LOOKED_AT])):
                sentences.append(f"{name}: {PROBABILITIES}")
    return sentences


def load_model(
    path: str | Path,
    samples: Float32Array | None = None,
    input_shape: tuple[int, ...] | None = None,
    *,
    output: str | None = None,
    outputs: Outputs | None = None,
    preprocess: Preprocess | None = None,
    features: Features | None = None,
    allow_code: bool = False,
) -> Model:
    """The ONNX model at `path`: a plain network, compared with onnxruntime on random inputs in [0, 1] and on `samples`;
    or, where it has none, the model as onnxruntime runs it, without gradients (Model.no_network says why).

    path: also "arch.py:build@weights.safetensors", the module that the function `build` of a Python file builds, with
    these weights: that file's code is run. allow_code: also a program of torch.export (.pt2), a pickled module or state
    dict (.pt, .pth), which can run code that they hold: trusted ones only. All need input_shape, and become what the
    ONNX file would that torch exports of them.

    samples: (N, *input_shape) float32 or None. input_shape: of the inputs at hand, without the batch axis: fills in
    axes that the file leaves open, and where the model takes the same pixels in another shape (front.same_pixels), they
    are put into it. output: the name of the output that holds the logits, where there are several. outputs: what the
    outputs are; None: logits, and a model that ends in a Softmax over the classes has no plain network, while a
    LogSoftmax is left out, which changes no probability (onnx.ends). preprocess: what is put in front of a model of
    normalised inputs, so that it takes raw ones. features: the units of inputs that `load_data` has
    scaled by them, and of radii. Raises UsageError (one line) where the file is missing, truncated or not ONNX, gives
    no logits, or numbers that are not finite, or where the two compute something else.
    """
    if of_torch(path):
        return _of_torch(str(path), samples, input_shape, Asked(output, outputs, preprocess, features), allow_code)
    path = Path(path)
    model = read_file(path)
    try:
        kept = ended(model, output, outputs or "logits")
        if preprocess is not None:
            kept = Ended(prepended(kept.model, preprocess), kept.tail)
        fitted = kept if input_shape is None else Ended(_fitted(kept.model, input_shape), kept.tail)
        if features is not None:
            fitted = Ended(prepended(fitted.model, features), kept.tail)
        try:
            ended(model, output, outputs)  # a Softmax that nobody spoke of
            network = plain_network(fitted.model)
        except UsageError as error:
            loaded = _opaque(fitted, str(path), samples, str(error), path.read_bytes())
        else:
            loaded = _plain(network, fitted, str(path), samples)
        return _asked(loaded, Asked(output, outputs, preprocess, features))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _of_torch(
    source: str, samples: Float32Array | None, shape: tuple[int, ...] | None, end: Asked, allow_code: bool
) -> Model:
    """As `from_module`; what has no plain network runs in onnxruntime, as it will from a run's folder."""
    module = load_module(source, allow_code)
    if shape is None:
        raise UsageError(f"{source}: a file of torch does not say what inputs it takes: pass input_shape")
    if end.output is not None:
        raise UsageError(f"{source}: has one output; output {end.output!r} is for ONNX files that have several")
    try:
        model = from_module(
            module, shape, samples,
            outputs=end.outputs, preprocess=end.preprocess, features=end.features, name_it=True,
        )  # fmt: skip
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error
    if model.onnx is not None:
        model = dataclasses.replace(model, module=RuntimeModule(usable(model.onnx, _samples(shape, samples))).eval())
    return dataclasses.replace(model, source=source)


def _asked(model: Model, end: Asked) -> Model:
    """`model` knowing what was asked of its ends."""
    notes = [front.note for front in (end.features, end.preprocess) if front is not None]
    return dataclasses.replace(model, end=end, note="; ".join([*notes, *([model.note] if model.note else [])]) or None)


def _plain(network: PlainNetwork, cut: Ended, source: str, samples: Float32Array | None) -> Model:
    """Compared with onnxruntime."""
    module, shape = PlainModule(network).eval(), network.input_shape
    reference = _in_onnxruntime(cut.model, _samples(shape, None))
    faithfulness = compare(module, reference, _samples(shape, samples)).largest
    return Model(module, network, network.classes, shape, source, faithfulness, None, reference, cut.note)


def _opaque(cut: Ended, source: str, samples: Float32Array | None, reason: str, given: bytes) -> Model:
    """The model as onnxruntime runs it. reason: why it has no plain network. given: its file, which is kept as it is
    where it is all of the model, as it is run."""
    same = onnx.load_from_string(given) == cut.model
    data = given if same else cut.model.SerializeToString(deterministic=True)
    try:
        ends = Runtime(data).ends
        if 0 in ends.shape:
            raise UsageError(
                f"input {ends.input!r} leaves its shape open, {list(ends.shape)}: give input_shape, or data"
            )
        inputs = _samples(ends.shape, samples)
        runtime = usable(data, inputs)
        logits = runtime.logits(inputs)
    except UsageError as error:
        once = reason.startswith(str(error))
        raise UsageError(reason if once else f"{error}; no plain network either: {reason}") from error
    if not np.isfinite(logits).all():
        raise UsageError(f"its logits are not finite: {reason}")
    module = RuntimeModule(runtime).eval()
    return Model(module, None, logits.shape[1], ends.shape, source, 0.0, reason, None, cut.note, data)


def reopened(data: bytes, source: str) -> Model:
    """A model without plain network from the bytes that it was kept in (Model.onnx). Raises UsageError."""
    kept = Ended(onnx.load_from_string(data), None)
    return _opaque(kept, source, None, "it ran in onnxruntime when it was kept", data)


def _in_onnxruntime(model: onnx.ModelProto, inputs: Float32Array) -> Reference:
    """inputs: (N, *shape) to try. Raises UsageError where onnxruntime cannot run it."""
    return usable(model.SerializeToString(), inputs).logits


def _fitted(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The model for inputs of this shape, where it takes such; otherwise as it is."""
    ends = ends_of(model)
    if len(ends.shape) == len(shape) and all(n in (0, m) for n, m in zip(ends.shape, shape, strict=True)):
        return with_shape(model, ends, shape) if 0 in ends.shape else model
    return reshaped(model, ends, shape) if same_pixels(ends.shape, shape) else model


def from_module(
    module: nn.Module,
    input_shape: tuple[int, ...],
    samples: Float32Array | None = None,
    *,
    outputs: Outputs | None = None,
    preprocess: Preprocess | None = None,
    features: Features | None = None,
    name_it: bool = False,
) -> Model:
    """Any torch module as a model, compared with the module itself on samples.

    module: (N, *input_shape) -> (N, K) logits; it is copied and used in evaluation mode, in float32, on the
    CPU. outputs, preprocess, features: as of `load_model`. name_it: where there is no plain network, also export it as
    an ONNX file that computes the same at the samples, by which claims about counts of its answers can name it
    (Model.file).
    Ensures: `network` is the plain network if every operator has a counterpart; otherwise it is None and `module` is
    the copy. Raises UsageError where the module does not run on `input_shape` or gives no logits.
    """
    end = Asked(None, outputs, preprocess, features)
    if isinstance(module, PlainModule) and end in (Asked(), Asked(outputs="logits")):
        return _of_plain(module, samples)
    source = f"torch module {type(module).__name__}"
    try:
        module_copy = _settled(
            copy.deepcopy(getattr(module, "_orig_mod", module))
        )  # of torch.compile, what it compiles
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"{source} cannot be copied: {one_line(error)}") from error
    for front in (preprocess, features):
        module_copy = module_copy if front is None else Behind(module_copy, front, tuple(input_shape))
    inputs = _samples(tuple(input_shape), samples)
    classes = _logits(module_copy, inputs, source).shape[1]

    def reference(x: Float32Array) -> NDArray[np.float32]:
        return _logits(module_copy, x, source)

    written: onnx.ModelProto | None = None
    try:
        written = exported(module_copy, torch.from_numpy(inputs[:2]))
        cut = ended(written, outputs=outputs)
        network = plain_network(cut.model)
        plain, given = PlainModule(network).eval(), reference
        if cut.tail is not None:
            compare(nn.Sequential(plain, TAILS[cut.tail]), reference, inputs)
            given = _in_onnxruntime(cut.model, inputs)
        faithfulness = compare(plain, given, inputs).largest
    except UsageError as error:
        if outputs == "probabilities":
            raise UsageError(f"{source}: {error}: give it without its last Softmax instead") from error
        model = Model(module_copy, None, classes, tuple(input_shape), source, 0.0, str(error))
        model = dataclasses.replace(model, onnx=_as_file(written, reference, inputs, model)) if name_it else model
        return _asked(model, end)
    shape = network.input_shape
    return _asked(Model(plain, network, network.classes, shape, source, faithfulness, None, given, cut.note), end)


def _settled(module: nn.Module) -> nn.Module:
    """`module` in evaluation mode, in float32 on the CPU, with frozen weights: those that a parametrization computes,
    as orthogonal or normalised ones, as they are."""
    with contextlib.suppress(NotImplementedError):  # a program of torch.export has no other mode than it was saved in
        module.eval()
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):  # its class has the weights as properties, and is shared with the copied
            weights = {name: getattr(part, name).detach().clone() for name in getattr(part, "parametrizations", {})}
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, weight in weights.items():
                part.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    with torch.no_grad():
        module = module.to("cpu", torch.float32)
    for weight in module.parameters():
        weight.requires_grad_(False)
    return module


def _as_file(written: onnx.ModelProto | None, reference: Reference, inputs: Float32Array, model: Model) -> bytes:
    """`model` as the bytes of an ONNX file with any operators, compared at inputs (N, *shape). Raises UsageError."""
    if written is None:
        raise UsageError(f"no claim can name the {model.source}: {model.no_network}: export it yourself, load the file")
    data = written.SerializeToString(deterministic=True)
    compare(RuntimeModule(usable(data, inputs)), reference, inputs)
    return data


def _of_plain(module: PlainModule, samples: Float32Array | None) -> Model:
    """A plain network's own module needs no export: the network is at hand. Raises UsageError where the module's
    weights have been changed since it was made."""
    source, given = "torch module PlainModule", module.network
    module_copy = copy.deepcopy(module).eval().to("cpu", torch.float32)
    inputs = _samples(given.input_shape, samples)
    compare(PlainModule(given), lambda x: _logits(module_copy, x, source), inputs)
    return Model(PlainModule(given).eval(), given, given.classes, given.input_shape, source, 0.0)


def _samples(shape: tuple[int, ...], given: Float32Array | None) -> Float32Array:
    random = np.random.default_rng(0).random((SAMPLES, *shape), dtype=np.float32)
    if given is None:
        return random
    if given.shape[1:] != shape:
        raise UsageError(f"the model takes inputs of shape {shape}, the samples have {given.shape[1:]}")
    return np.concatenate([random, given.astype(np.float32)])


def _logits(module: nn.Module, inputs: Float32Array, source: str) -> NDArray[np.float32]:
    """The module's logits (N, K). Raises UsageError where it fails or gives something else."""
    try:
        with torch.no_grad():
            logits = module(torch.from_numpy(inputs))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UsageError(f"{source} fails on inputs of shape {inputs.shape}: {one_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(inputs) or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"{source} must give logits of shape ({len(inputs)}, classes), got {shape}")
    return logits.numpy()
