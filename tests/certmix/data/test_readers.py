"""Images, tables, arrays and objects of Python become the same inputs and classes; what is hostile is refused."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from certmix.data.dataset import load_data
from certmix.errors import UsageError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)  # images as Pillow has them
GREY = COLOUR[..., 0]
FLOATS = (COLOUR.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
CLASSES = np.array([1, 0, 1, 2, 0, 2])


def folder(path: Path, pixels: np.ndarray = COLOUR, suffix: str = "png") -> Path:
    """One folder for each class, as ImageFolder of torchvision wants them."""
    for k, (value, label) in enumerate(zip(pixels, CLASSES, strict=True)):
        of_class = path / ("cat", "dog", "eel")[label]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value).save(of_class / f"{k}.{suffix}")
    return path


def test_images_in_folders_come_in_turns_one_of_each_class(tmp_path: Path) -> None:
    found = load_data(folder(tmp_path / "d"))
    order = [1, 0, 3, 4, 2, 5]
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2] == CLASSES[order].tolist()
    assert np.array_equal(found.inputs, FLOATS[order])
    (tmp_path / "d" / ".DS_Store").touch()
    first = load_data(tmp_path / "d", 2)
    assert first.labels.tolist() == [0, 1]
    assert first.available == 6
    assert np.array_equal(load_data(tmp_path / "d", domain=(0, 255)).inputs, np.rint(FLOATS[order] * 255))
    without = load_data(tmp_path / "d", labels="none")
    assert not without.labelled
    assert np.array_equal(without.inputs, FLOATS[[1, 4, 0, 2, 3, 5]]), "by name"


def test_modes_of_images_that_eight_bits_hold_keep_their_pixels(tmp_path: Path) -> None:
    grey = load_data(folder(tmp_path / "grey", GREY))
    assert grey.inputs.shape == (6, 1, 4, 5)
    mixed = folder(tmp_path / "mixed")
    Image.fromarray(GREY[0]).save(mixed / "cat" / "1.png")
    assert np.array_equal(load_data(mixed).inputs[0], np.repeat(FLOATS[:1, 0], 3, axis=0)), "grey among coloured ones"
    opaque = Image.fromarray(COLOUR[1]).convert("RGBA")
    opaque.save(mixed / "cat" / "1.png")
    assert np.array_equal(load_data(mixed).inputs[0], FLOATS[1])
    Image.fromarray(GREY[0] > 99).save(mixed / "cat" / "1.png")
    assert np.array_equal(load_data(mixed).inputs[0, 0], GREY[0] > 99)


def sixteen(path: Path) -> None:
    Image.fromarray(GREY[0].astype(np.uint16) * 257).save(path / "cat" / "1.png")


def transparent(path: Path) -> None:
    image = Image.fromarray(COLOUR[0]).convert("RGBA")
    image.putalpha(128)
    image.save(path / "cat" / "1.png")


def animated(path: Path) -> None:
    frames = [Image.fromarray(value) for value in COLOUR[:2]]
    frames[0].save(path / "cat" / "1.gif", save_all=True, append_images=frames[1:])


def truncated(path: Path) -> None:
    file = path / "cat" / "1.png"
    file.write_bytes(file.read_bytes()[:-40])


def numbered(path: Path) -> None:
    for name in ("2", "10"):
        (path / "cat").rename(path / name) if name == "2" else (path / "dog").rename(path / name)
    (path / "eel").rename(path / "1")


HOSTILE: dict[str, Callable[[Path], Any]] = {
    r"1\.png is of mode I;16 .* convert it to 8 bits": sixteen,
    r"1\.png is transparent in places: convert": transparent,
    r"1\.gif holds 2 pictures": animated,
    r"1\.png is no complete image": truncated,
    r"1\.png is no image that Pillow knows": lambda path: (path / "cat" / "1.png").write_bytes(b""),
    r"9\.png is 7 x 4, .* scale and crop": lambda path: Image.new("RGB", (7, 4)).save(path / "dog" / "9.png"),
    r"1\.png is of mode CMYK": lambda path: Image.new("CMYK", (5, 4)).save(path / "cat" / "1.png", "TIFF"),
    r"notes\.txt is no image": lambda path: (path / "cat" / "notes.txt").touch(),
    r"cat/more is a folder inside": lambda path: (path / "cat" / "more").mkdir(),
    r"fox holds no image": lambda path: (path / "fox").mkdir(),
    r"holds 3 folders and 1 images outside": lambda path: Image.new("L", (4, 5)).save(path / "loose.png"),
    r"named by numbers of different lengths, of which '10'": numbered,
}


@pytest.mark.parametrize("words", HOSTILE)
def test_a_hostile_folder_is_refused_by_the_name_of_what_is_wrong(tmp_path: Path, words: str) -> None:
    HOSTILE[words](folder(tmp_path / "d"))
    with pytest.raises(UsageError, match=words) as caught:
        load_data(tmp_path / "d")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_names_of_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds 0 folders and 0 images"):
        load_data(tmp_path)
    with pytest.raises(UsageError, match="holds no image"):
        load_data(tmp_path, labels="none")
    with pytest.raises(UsageError, match="the classes are the folders"):
        load_data(tmp_path, labels="y")


def table(path: Path, **columns: Any) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path / "d.parquet")
    return path / "d.parquet"


VALUES = RNG.random((6, 3))


def features() -> dict[str, Any]:
    return {name: VALUES[:, k] for k, name in enumerate("abc")}


def encoded(values: np.ndarray = COLOUR) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = []
    for value in values:
        stream = io.BytesIO()
        Image.fromarray(value).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    return cells


def test_parquet_holds_features_in_columns_or_inputs_in_cells(tmp_path: Path) -> None:
    found = load_data(table(tmp_path, **features(), label=CLASSES), 4)
    assert np.array_equal(found.inputs, VALUES[:4].astype(np.float32))
    assert found.labels.tolist() == CLASSES[:4].tolist()
    assert found.available == 6
    assert np.array_equal(load_data(table(tmp_path, image=encoded(), label=CLASSES)).inputs, FLOATS)
    lists = load_data(table(tmp_path, x=VALUES.tolist(), species=CLASSES), labels="Species")
    assert np.array_equal(lists.inputs, VALUES.astype(np.float32))
    assert lists.labels.tolist() == CLASSES.tolist()
    assert not load_data(table(tmp_path, **features()), labels="none").labelled


PARQUET: dict[str, Callable[[], dict[str, Any]]] = {
    r"one of its columns must be one of labels, .* they are a, b, c: name": features,
    r"column b holds string, needs numbers": lambda: {**features(), "b": list("uvwxyz"), "label": CLASSES},
    r"column b has 1 empty cells": lambda: {**features(), "b": [None, *VALUES[1:, 1]], "label": CLASSES},
    r"no column but that of the classes": lambda: {"label": CLASSES},
    r"must hold images, or lists": lambda: {"x": [[1.0], [1.0, 2.0]] * 3, "label": CLASSES},
    r"row 0 is no image": lambda: {"image": [{"bytes": b"no", "path": "p"}] * 6, "label": CLASSES},
    r"not finite in entry 2": lambda: {**features(), "a": [0, 0, np.nan, 0, 0, 0.0], "label": CLASSES},
    r"needs \(N, …\) with at least one entry": lambda: {"a": VALUES[:0, 0], "label": CLASSES[:0]},
    r"holds 1\.5, needs classes": lambda: {**features(), "label": CLASSES + 0.5},
}


@pytest.mark.parametrize("words", PARQUET)
def test_a_hostile_parquet_file_is_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_data(table(tmp_path, **PARQUET[words]()))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_and_a_missing_package_are_told(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UsageError, match="not a complete Parquet file"):
        load_data(tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install certmix\[parquet\]"):
        load_data(tmp_path / "d.parquet")


def test_pairs_of_arrays_and_named_or_no_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FLOATS)
    np.save(tmp_path / "y.npy", CLASSES[:, None].astype(np.float64))
    found = load_data(tmp_path / "x.npy", 5, labels=tmp_path / "y.npy")
    assert np.array_equal(found.inputs, FLOATS[:5])
    assert (found.labels.tolist(), found.available) == (CLASSES[:5].tolist(), 6)
    assert repr(load_data(tmp_path / "x.npy", labels="none")).endswith("no labels)")
    np.savez(tmp_path / "d.npz", x=FLOATS, gold=CLASSES)
    assert load_data(tmp_path / "d.npz", labels="gold").labels.tolist() == CLASSES.tolist()
    assert set(load_data(tmp_path / "d.npz", labels="none").labels) == {-1}
    with pytest.raises(UsageError, match=r"named one of gould, has gold, x: name it .*--labels none"):
        load_data(tmp_path / "d.npz", labels="gould")
    for bad, words in (("absent.npy", "no such file"), ("d.npz", "is an archive"), ("x.npy", "needs classes")):
        with pytest.raises(UsageError, match=words):
            load_data(tmp_path / "x.npy", labels=tmp_path / bad)
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UsageError, match=r"not a complete \.npy file"):
        load_data(tmp_path / "x.npy", labels=tmp_path / "y.npy")


class ImageFolder:
    """As torchvision.datasets has it: length and items, each an image of Pillow (or what a transform makes) and a
    class. https://docs.pytorch.org/vision/stable/datasets.html"""

    def __init__(self, transform: Callable[[Any], Any] = lambda image: image) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return len(COLOUR)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(COLOUR[k])), int(CLASSES[k])


class HuggingFace:
    """As datasets.Dataset yields them: mappings from the names of columns to images of Pillow and numbers."""

    def __len__(self) -> int:
        return len(COLOUR)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for value, label in zip(COLOUR, CLASSES, strict=True):
            yield {"image": Image.fromarray(value), "label": int(label), "id": "no feature"}


def to_tensor(image: Any) -> torch.Tensor:
    """As torchvision.transforms.ToTensor."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


SOURCES: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (FLOATS, CLASSES),
    "tensors": lambda: (torch.from_numpy(FLOATS), torch.from_numpy(CLASSES)),
    "images": ImageFolder,
    "tensors of images": lambda: ImageFolder(to_tensor),
    "mappings": HuggingFace,
    "a list": lambda: list(zip(FLOATS.tolist(), CLASSES.tolist(), strict=True)),
    "one-hot pairs": lambda: list(zip(FLOATS, np.eye(3)[CLASSES], strict=True)),
    "a generator": lambda: ((x, y) for x, y in zip(FLOATS, CLASSES, strict=True)),
    "batches": lambda: torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(CLASSES)), 4
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_objects_of_python_are_read_as_files_are(name: str) -> None:
    found = load_data(SOURCES[name]())
    assert np.array_equal(found.inputs, FLOATS)
    assert found.labels.tolist() == CLASSES.tolist()
    few = load_data(SOURCES[name](), 2)
    assert np.array_equal(few.inputs, FLOATS[:2])
    assert few.available in (6, None)


def test_objects_may_have_no_classes() -> None:
    for source in (FLOATS, list(FLOATS), HuggingFace(), ImageFolder()):
        found = load_data(source, labels="none")
        assert np.array_equal(found.inputs, FLOATS)
        assert not found.labelled
    with pytest.raises(UsageError, match="holds 1 arrays, needs inputs and classes; without classes say labels='none'"):
        load_data(FLOATS)


OBJECTS: dict[str, Callable[[], Any]] = {
    "list yields nothing": list,
    "item 0 is float32: give pairs|item 0 is ndarray: give pairs": lambda: list(FLOATS),
    "int is no file and yields no items": lambda: 7,
    r"input 1 has shape \(2,\), input 0 \(3,\)": lambda: [(np.zeros(3), 0), (np.zeros(2), 1)],
    "item 0 holds 'no', needs numbers": lambda: [("no", 0)],
    "item 0 has a, b, needs one of": lambda: [{"a": 0, "b": 1}],
    "not finite in entry 0": lambda: [(np.array([np.nan]), 0)],
    "no pixels from 0 to 255": lambda: [(np.array([300]), 0)],
    "holds 0.5, needs classes": lambda: [(np.zeros(3), 0.5)],
    "which is no array": lambda: [([[1.0], [1.0, 2.0]], 0)],
}


@pytest.mark.parametrize("words", OBJECTS)
def test_hostile_objects_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_data(OBJECTS[words]())
    assert "\n" not in str(caught.value)
