"""What the ONNX files of a folder can be: the standard classifier, the robust one, or neither, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from certmix.errors import UsageError
from certmix.models.model import load_model


@dataclass(frozen=True)
class Surveyed:
    """One file, by its path in the folder. standard: how it runs as g, "plain network" or "onnxruntime"; None where it
    cannot. robust: whether margins and Lipschitz constants of it can be certified. why: what stands in the way of
    either, or "". difference: the largest seen between the plain network's logits and onnxruntime's."""

    file: str
    standard: str | None
    robust: bool
    input_shape: tuple[int, ...] | None
    classes: int | None
    difference: float | None
    why: str


def survey(folder: Path, input_shape: tuple[int, ...] | None = None) -> Iterator[Surveyed]:
    """Every file below `folder` whose name ends in .onnx, in the order of their names. Raises UsageError if there is
    none."""
    files = sorted(path for path in folder.rglob("*.onnx") if path.is_file())
    if not files:
        raise UsageError(f"{folder} holds no file that ends in .onnx: give a folder of ONNX models")
    for path in files:
        yield _surveyed(path, str(path.relative_to(folder)), input_shape)


def _surveyed(path: Path, name: str, input_shape: tuple[int, ...] | None) -> Surveyed:
    try:
        model = load_model(path, input_shape=input_shape)
    except UsageError as error:
        return Surveyed(name, None, False, None, None, None, str(error).removeprefix(f"{path}: "))
    plain = model.network is not None
    how = "plain network" if plain else "onnxruntime"
    difference = model.faithfulness if plain else None
    return Surveyed(name, how, plain, model.input_shape, model.classes, difference, model.no_network or "")
