"""Models of other libraries as ours, and the mix as a model of theirs. Each is imported only where it is used.

RobustBench's `load_model(…)` gives torch modules of raw images in [0, 1]: `certmix.from_module` takes them as they are.
Smoothing scripts: `Smooth` has the methods of Cohen et al.'s class. Datasets of torchvision and Hugging Face:
`certmix.load_data` (docs/data.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.models.model import Model, from_module
from certmix.models.preprocess import Preprocess
from certmix.provers.certify import as_inputs, prove
from certmix.provers.problem import ProverProblem
from certmix.provers.session import open_session
from certmix.records.outcomes import Certified
from certmix.settings import Settings, SmoothingSettings
from verifiers.smoothing.confidence import samples_needed


class _Logits(nn.Module):
    """(N, …) -> (N, K): the field `logits` of what a classifier of transformers answers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def from_timm(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> Model:
    """A classifier of timm, of raw images in [0, 1]: its own mean and std become its first layer.

    input_shape: (channels, height, width); that of its configuration, unless given. Raises UsageError where the model
    has no configuration (`pretrained_cfg`), and as `from_module`.
    """
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if config is None:
        raise UsageError(
            f"{type(model).__name__} has no pretrained_cfg, as timm's models have: certmix.from_module takes any module"
        )
    found: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config)
    front = Preprocess(_numbers(found, "mean"), _numbers(found, "std"))
    shape = input_shape or tuple(int(n) for n in found["input_size"])
    return from_module(model, shape, preprocess=front)


def from_transformers(model: nn.Module, processor: Any, input_shape: tuple[int, int, int] | None = None) -> Model:
    """An image classifier of transformers with its image processor, of raw images in [0, 1] of the size it takes.

    What the processor does to sizes (resize, crop) is not part of the model: give images that have them. input_shape:
    (3, height, width) by the processor's crop_size or size, unless given. Raises UsageError where the processor divides
    by anything but 255 or says no size, and as `from_module`.
    """
    if getattr(processor, "do_rescale", True) and abs(float(processor.rescale_factor) * 255 - 1) > 1e-6:
        raise UsageError(f"the processor multiplies pixels by {processor.rescale_factor}, not 1/255: wrap it yourself")
    front = None
    if getattr(processor, "do_normalize", True):
        said = vars(processor) if not isinstance(processor, Mapping) else processor
        front = Preprocess(_numbers(said, "image_mean"), _numbers(said, "image_std"))
    if input_shape is None:
        cropped = getattr(processor, "do_center_crop", False)
        size: Any = getattr(processor, "crop_size" if cropped else "size", None) or {}
        if not {"height", "width"} <= set(size):
            raise UsageError(f"the processor says the size {dict(size)}, no height and width: give input_shape")
        input_shape = (3, int(size["height"]), int(size["width"]))
    return from_module(_Logits(model), input_shape, preprocess=front)


def to_foolbox(mix: nn.Module, bounds: tuple[float, float] = (0.0, 1.0)) -> Any:
    """The mix as foolbox's PyTorchModel, for its attacks. mix: such as `certmix.MixedClassifier`."""
    try:
        from foolbox.models.pytorch import PyTorchModel
    except ImportError as error:
        raise UsageError(f"foolbox is not installed ({error}): pip install foolbox") from error
    return PyTorchModel(mix.eval(), bounds=bounds)


def to_art(mix: nn.Module, input_shape: Sequence[int], classes: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Any:
    """The mix as ART's PyTorchClassifier, for its attacks. input_shape: without the batch axis."""
    try:
        from art.estimators.classification import PyTorchClassifier  # type: ignore
    except ImportError as error:
        raise UsageError(f"ART is not installed ({error}): pip install certmix[art]") from error
    return PyTorchClassifier(
        model=mix.eval(), loss=nn.CrossEntropyLoss(), input_shape=tuple(input_shape), nb_classes=classes,
        clip_values=bounds, device_type="cpu",
    )  # fmt: skip


class Smooth:
    """The smoothed classifier x -> argmax_c P[base(Q(x + ξ)) = c], ξ ~ N(0, sigma² I), with the methods of the class of
    that name in Cohen, Rosenfeld, Kolter: Certified Adversarial Robustness via Randomized Smoothing.

    base_classifier: (N, *shape) of raw inputs -> (N, num_classes) logits, copied in evaluation mode. sigma: in raw
    units. Q rounds to multiples of 1/grid, as uint8 images are for 255: noise on a grid can be drawn exactly.
    seed: of all draws; the k-th call draws noise of its own. device: where the base is run.
    """

    ABSTAIN: int = -1

    def __init__(
        self, base_classifier: nn.Module, num_classes: int, sigma: float, *, grid: int = 255, seed: int = 0,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.base_classifier: nn.Module = base_classifier
        self.num_classes: int = num_classes
        self.sigma: float = sigma
        self.grid: int = grid
        self.seed: int = seed
        self.device: str = device
        self.calls: int = 0
        self.models: dict[tuple[int, ...], Model] = {}
        SmoothingSettings(noise_std=sigma, grid=grid)  # misuse shows before anything is drawn
        if num_classes < 2:
            raise UsageError(f"num_classes must be at least 2, got {num_classes}")

    def certify(self, x: Tensor, n0: int, n: int, alpha: float, batch_size: int) -> tuple[int, float]:
        """(class, ℓ2 radius in raw units) of one input, or (ABSTAIN, 0.0).

        x: (*shape), without a batch axis. n0, n: draws that choose the class, and that certify it. alpha: the
        probability of a wrong certificate, at most; batch_size: noisy inputs run at once. Ensures: the radius was
        accepted by the judge, which rounds down, so it is at most Cohen's sigma Φ⁻¹(p) for the p that these counts
        prove. Raises UsageError for misuse. Source: docs/maths.md 5a with weight 1 on the smoothed model.
        """
        inputs = as_inputs(x[None])
        how = SmoothingSettings(
            noise_std=self.sigma, samples=n, selection_samples=n0, failure_probability=alpha, base="hard",
            bound="direct", grid=self.grid, draw_batch=batch_size,
        )  # fmt: skip
        index = self._next()
        if n < samples_needed(1.0, alpha):
            return self.ABSTAIN, 0.0
        settings = Settings(
            1.0, "L2", domain=None, method="smoothing", smoothing=how, seed=self.seed, device=self.device,
            attack_steps=0, curves=False,
        )  # fmt: skip
        model = self._model(tuple(inputs.shape[1:]))
        problem = ProverProblem(model, model, inputs, (index,), (-1,), settings)
        (outcome,) = prove(problem, open_session(problem))
        return (outcome.predicted, outcome.radius) if isinstance(outcome, Certified) else (self.ABSTAIN, 0.0)

    def predict(self, x: Tensor, n: int, alpha: float, batch_size: int) -> int:
        """The class of the smoothed classifier at one input, wrong with probability alpha at most; or ABSTAIN, where n
        draws do not tell the first class from the second. Arguments as of `certify`; no certificate, no judge."""
        inputs = as_inputs(x[None])
        how = SmoothingSettings(samples=n, failure_probability=alpha, draw_batch=batch_size)  # checks them
        module = self._model(tuple(inputs.shape[1:])).module.to(self.device)
        noise = np.random.Generator(np.random.Philox(key=[self.seed, self._next()]))
        votes = np.zeros(self.num_classes, dtype=np.int64)
        for start in range(0, n, how.draw_batch):
            draws = noise.standard_normal((min(how.draw_batch, n - start), *inputs.shape[1:])) * self.sigma
            points = np.rint((inputs.numpy().astype(np.float64) + draws) * self.grid) / self.grid
            with torch.inference_mode():
                logits = module(torch.from_numpy(points.astype(np.float32)).to(self.device))
            votes += np.bincount(logits.argmax(1).cpu().numpy(), minlength=self.num_classes)
        second, first = np.argsort(votes, kind="stable")[-2:]
        test = scipy.stats.binomtest(int(votes[first]), int(votes[first] + votes[second]), 0.5)
        return self.ABSTAIN if test.pvalue > alpha else int(first)

    def _next(self) -> int:
        """The number of a call, which keys its noise."""
        self.calls += 1
        return self.calls - 1

    def _model(self, shape: tuple[int, ...]) -> Model:
        if shape not in self.models:
            model = from_module(self.base_classifier, shape, name_it=True)
            if model.classes != self.num_classes:
                raise UsageError(
                    f"the base classifier has {model.classes} classes, not num_classes = {self.num_classes}"
                )
            self.models[shape] = model
        return self.models[shape]


def _numbers(said: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = said.get(name)
    if value is None:
        raise UsageError(f"the configuration says no {name}: use certmix.from_module with preprocess")
    return tuple(float(v) for v in (value if isinstance(value, Sequence) else [value]))
