"""Images: a folder with one folder for each class, or bytes of image files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from certmix.data.arrays import NO_LABELS
from certmix.data.found import Found, Placed
from certmix.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
GREY, COLOUR = ("1", "L"), ("RGB", "P")  # modes of Pillow that eight bits hold; P: a palette
TRANSPARENT = ("LA", "PA", "RGBA")
ADVICE = "convert it to 8 bits of grey or RGB, as the model was trained"


@dataclass(frozen=True, eq=False)
class Decoded:
    """pixels: uint8, (1, height, width) of a grey image, (3, height, width) of one in colour. place: its file."""

    pixels: NDArray[np.uint8]
    place: str


def folder(path: Path, limit: int | None, labels: str | None) -> Found:
    """The images in the folders of `path`, one folder for each class: 0, 1, … in the order of their names, as
    torchvision's ImageFolder has them. Images come in turns, one of each class, by name, so that the first few are of
    all classes. Without classes (labels "none"): all images at any depth, by name. Raises UsageError."""
    if labels not in (None, NO_LABELS):
        raise UsageError(f"{path} is a folder: the classes are the folders in it, not {labels!r}: leave --labels out")
    if labels == NO_LABELS:
        files = _images(path, deep=True)
        return Found(_read(files[:limit]), None, len(files))
    names = sorted(each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    loose = [each.name for each in path.iterdir() if each.is_file() and each.suffix.lower() in SUFFIXES]
    if len(names) < 2 or loose:
        found = f"{len(names)} folders and {len(loose)} images outside of them"
        raise UsageError(
            f"{path} must hold one folder of images for each class, and at least two of them, holds {found}: sort the "
            f"images, or say that they have no classes (--labels {NO_LABELS})"
        )
    _need_one_order(path, names)
    by_class = [[(file, k) for file in _images(path / name, deep=False)] for k, name in enumerate(names)]
    turns = [entry for turn in zip_longest(*by_class) for entry in turn if entry is not None]
    classes = np.array([k for _, k in turns[:limit]], dtype=np.int64)
    return Found(_read([file for file, _ in turns[:limit]]), (classes, f"{path}: folders"), len(turns))


def _need_one_order(path: Path, names: Sequence[str]) -> None:
    """Raises UsageError where names are numbers whose order as text is another: who is class 2 would be a guess."""
    if all(name.isdecimal() for name in names) and sorted(names, key=int) != list(names):
        first = next(a for a, b in zip(names, sorted(names, key=int), strict=True) if a != b)
        raise UsageError(
            f"{path}: its folders are named by numbers of different lengths, of which {first!r} stands elsewhere by "
            "name than by number: fill them up with zeros (00, 01, …, 10) in the order of the model's classes"
        )


def _images(path: Path, deep: bool) -> list[Path]:
    """Those in a folder, by name; hidden files are left out. Raises UsageError for a file of another kind."""
    files = sorted(each for each in (path.rglob("*") if deep else path.iterdir()) if not each.name.startswith("."))
    for file in files:
        if not file.is_dir() and file.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{file} is no image ({', '.join(SUFFIXES)}): remove it from the folder")
        if file.is_dir() and not deep:
            raise UsageError(f"{file} is a folder inside the folder of a class: move its images up")
    kept = [file for file in files if not file.is_dir()]
    if not kept:
        raise UsageError(f"{path} holds no image: remove it, or fill it")
    return kept


def _read(files: Sequence[Path]) -> Placed:
    return stacked([_decoded_file(file) for file in files])


def _decoded_file(file: Path) -> Decoded:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    return decoded(data, str(file))


def decoded(data: bytes, place: str) -> Decoded:
    """An image from the bytes of its file. Raises UsageError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return of_image(image, place)
    except UsageError:
        raise
    except UnidentifiedImageError as error:
        raise UsageError(f"{place} is no image that Pillow knows") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UsageError(f"{place} is no complete image ({str(error).splitlines()[0]})") from error


def of_image(image: Any, place: str) -> Decoded:
    """An image of Pillow, of eight bits and opaque. Raises UsageError."""
    if getattr(image, "n_frames", 1) != 1:
        raise UsageError(f"{place} holds {image.n_frames} pictures, needs one")
    mode: str = image.mode
    if mode in TRANSPARENT or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            raise UsageError(f"{place} is transparent in places: {ADVICE}, on the background it was trained on")
        image = image.convert("L" if mode == "LA" else "RGB")
    elif mode in GREY:
        image = image.convert("L")
    elif mode in COLOUR:
        image = image.convert("RGB")
    else:
        raise UsageError(f"{place} is of mode {mode} (16 bits, floating point, or another colour space): {ADVICE}")
    pixels = np.asarray(image, dtype=np.uint8)
    return Decoded(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)), place)


def stacked(each: Sequence[Decoded]) -> Placed:
    """(N, channels, height, width), grey ones as colour where others are. Raises UsageError where sizes differ."""
    first = each[0]
    for other in each:
        if other.pixels.shape[1:] != first.pixels.shape[1:]:
            (h, w), (height, width) = first.pixels.shape[1:], other.pixels.shape[1:]
            raise UsageError(
                f"{other.place} is {width} x {height}, {first.place} {w} x {h}: scale and crop all images to the size "
                "that the model takes, as it was trained"
            )
    channels = max(len(other.pixels) for other in each)
    whole = [np.broadcast_to(other.pixels, (channels, *first.pixels.shape[1:])) for other in each]
    return np.stack(whole), f"{first.place} and others" if len(each) > 1 else first.place
