"""Models of other libraries as ours, and the mix as a model of theirs. Each is imported only where it is used.

RobustBench's `load_model(…)` gives torch modules of raw images in [0, 1]: `certmix.from_module` takes them as they are.
Datasets of torchvision and Hugging Face: `certmix.load_data` (docs/data.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.models.model import Model, from_module
from certmix.models.preprocess import Preprocess


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


def _numbers(said: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = said.get(name)
    if value is None:
        raise UsageError(f"the configuration says no {name}: use certmix.from_module with preprocess")
    return tuple(float(v) for v in (value if isinstance(value, Sequence) else [value]))
