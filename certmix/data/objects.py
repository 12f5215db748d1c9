"""Data that Python holds: arrays, datasets of torchvision and Hugging Face, loaders, anything that yields pairs.

What a value is shows in what it can do: neither torch nor Pillow is imported for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from certmix.data.arrays import NO_LABELS
from certmix.data.found import Found
from certmix.data.tables import IMAGE_COLUMNS, LABEL_COLUMNS
from certmix.errors import UsageError

PAIRS = "give pairs (input, class), mappings with such entries, or a pair of arrays"


def name(source: object) -> str:
    """What messages call it."""
    return type(source).__name__


def collected(source: Iterable[Any], limit: int | None, labels: str | None) -> Found:
    """Inputs and classes of an object, the first `limit` or a few more. labels: as of `load_data`.

    Raises UsageError."""
    title = name(source)
    if _is_array(source) or (isinstance(source, tuple) and source and all(_is_array(part) for part in source)):
        return _of_arrays(source if isinstance(source, tuple) else (source,), title, labels)
    inputs, classes = list[NDArray[Any]](), list[NDArray[Any]]()
    available = len(cast("Sequence[Any]", source)) if hasattr(source, "__len__") else None
    for k, item in enumerate(_items(source)):
        if limit is not None and len(inputs) >= limit:
            break
        value, of_class = _entries(item, f"{title}: item {k}", labels)
        if of_class is not None and _is_batch(value, of_class):
            inputs, classes, available = [*inputs, *value], [*classes, *of_class], None
        else:
            inputs.append(value)
            classes += [] if of_class is None else [of_class]
    if not inputs:
        raise UsageError(f"{title} yields nothing: {PAIRS}")
    for part, what in ((inputs, "input"), (classes, "the class of input")):
        for k, value in enumerate(part):
            if value.shape != part[0].shape:
                raise UsageError(
                    f"{title}: {what} {k} has shape {value.shape}, {what} 0 {part[0].shape}: bring all to the shape "
                    "that the model takes"
                )
    of_classes = None if labels == NO_LABELS else (np.stack(classes), f"{title}: classes")
    return Found((np.stack(inputs), f"{title}: inputs"), of_classes, available)


def _is_batch(value: NDArray[Any], of_class: NDArray[Any]) -> bool:
    """Whether these are several inputs and classes: not one image of as many channels as its one-hot class is long."""
    one_hot = of_class.dtype.kind in "fb" and value.ndim == 3 and of_class.ndim == 1 and np.sum(of_class != 0) == 1
    return of_class.ndim > 0 and value.shape[:1] == of_class.shape[:1] and not one_hot


def _items(source: Any) -> Iterator[Any]:
    """Of an iterable; of a map-style dataset (torch.utils.data.Dataset), which may have no end but its length."""
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not hasattr(source, "__iter__"):
        return (source[k] for k in range(len(source)))
    try:
        return iter(source)
    except TypeError:
        raise UsageError(f"{name(source)} is no file and yields no items: {PAIRS}") from None


def _entries(item: Any, place: str, labels: str | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """An input, or a batch, and its class or classes."""
    if isinstance(item, Mapping):
        of_input = _entry(item, IMAGE_COLUMNS, place)
        of_class = None if labels == NO_LABELS else _entry(item, LABEL_COLUMNS if labels is None else (labels,), place)
    elif labels == NO_LABELS and not isinstance(item, tuple | list):
        of_input, of_class = item, None
    elif isinstance(item, tuple | list) and len(item) >= 2:
        of_input, of_class = item[0], None if labels == NO_LABELS else item[1]
    else:
        raise UsageError(f"{place} is {type(item).__name__}: {PAIRS}; without classes say labels={NO_LABELS!r}")
    return _array(of_input, place), None if of_class is None else _array(of_class, place)


def _entry(item: Mapping[str, Any], known: Sequence[str], place: str) -> Any:
    found = [key for key in item if str(key).lower() in known]
    if len(found) != 1:
        raise UsageError(f"{place} has {', '.join(map(str, item))}, needs one of {', '.join(known)}")
    return item[found[0]]


def _of_arrays(parts: tuple[Any, ...], title: str, labels: str | None) -> Found:
    arrays = [_array(part, title) for part in parts]
    wanted = 1 if labels == NO_LABELS else 2
    if len(arrays) != wanted:
        raise UsageError(
            f"{title} holds {len(arrays)} arrays, needs inputs and classes; without classes say labels={NO_LABELS!r}"
        )
    of_classes = (arrays[1], f"{title}: classes") if wanted == 2 else None
    return Found((arrays[0], f"{title}: inputs"), of_classes, len(arrays[0]) if arrays[0].ndim else None)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _is_tensor(value: object) -> bool:
    return callable(getattr(value, "detach", None)) and callable(getattr(value, "numpy", None))


def _is_image(value: object) -> bool:
    """Whether it is one of Pillow."""
    return callable(getattr(value, "convert", None)) and hasattr(value, "mode") and hasattr(value, "info")


def _array(value: Any, place: str) -> NDArray[Any]:
    """Of an image, a tensor, an array, a number, or nested lists of numbers. Raises UsageError."""
    if _is_image(value):
        from certmix.data import images

        return images.of_image(value, place).pixels
    if _is_tensor(value):
        return value.detach().cpu().numpy()
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"{place} holds {type(value).__name__}, which is no array ({error})") from error
    if found.dtype.kind not in "iufb":
        raise UsageError(f"{place} holds {str(value)[:60]!r}, needs numbers or an image of Pillow")
    return found
