"""Data files are read as they are documented, and everything unusable is refused in one line."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from certmix.data.dataset import INPUT_NAMES, LABEL_NAMES, load_data, outside_advice, shape_advice
from certmix.errors import UsageError
from certmix.models.model import load_model

DATA = Path(os.environ.get("CERTMIX_DATA", Path(__file__).parents[3] / "../shared/data"))
DIGITS = Path(__file__).parents[3] / "examples/digits"


def save(path: Path, **arrays: object) -> Path:
    np.savez(path / "d.npz", **arrays)  # type: ignore[arg-type]
    return path / "d.npz"


def images(count: int = 3) -> np.ndarray:
    return np.linspace(0, 1, count * 4, dtype=np.float32).reshape(count, 1, 2, 2)


@given(pixels=hnp.arrays(np.uint8, (4, 1, 2, 2)))
def test_uint8_pixels_become_the_nearest_float32_to_a_255th(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray
) -> None:
    path = save(tmp_path_factory.mktemp("data"), images=pixels, labels=np.arange(4))
    found = load_data(path).inputs
    assert found.dtype == np.float32
    assert np.array_equal(found, (pixels.astype(np.float64) / 255).astype(np.float32))


@pytest.mark.parametrize("name", INPUT_NAMES)
def test_float32_inputs_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    data = load_data(save(tmp_path, **{name: images(), "labels": np.array([0, 1, 2], dtype=np.uint8)}))
    assert np.array_equal(data.inputs, images())
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [0, 1, 2]
    data.require((1, 2, 2), 3, (0.0, 1.0))


@pytest.mark.parametrize("name", LABEL_NAMES)
@pytest.mark.parametrize("form", [
    lambda y: y, lambda y: y[:, None], lambda y: y.astype(np.float32), lambda y: y.astype(np.uint8)[:, None],
    lambda y: np.eye(5)[y], lambda y: np.eye(5, dtype=bool)[y],
])  # fmt: skip
def test_labels_may_be_whole_numbers_of_any_type_or_one_hot(tmp_path: Path, name: str, form) -> None:
    labels = np.array([3, 0, 2])
    found = load_data(save(tmp_path, images=images(), **{name: form(labels)})).labels
    assert found.dtype == np.int64
    assert found.tolist() == labels.tolist()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16])
def test_integers_are_pixels_where_they_can_be_and_the_domain_says_so(tmp_path: Path, kind) -> None:
    pixels = np.array([[0, 7], [255, 1], [2, 3]], kind)
    path = save(tmp_path, images=pixels, labels=LABELS)
    assert np.array_equal(load_data(path).inputs, pixels.astype(np.float32) / np.float32(255))
    for domain in ((0.0, 255.0), (-3.0, 300.0)):
        assert np.array_equal(load_data(path, domain=domain).inputs, pixels.astype(np.float32))
    with pytest.raises(UsageError, match=r"dtype \S*int\d+, needs"):
        load_data(path, domain=None)
    bits = save(tmp_path, images=pixels % 2, labels=LABELS)
    assert np.array_equal(load_data(bits).inputs, (pixels % 2).astype(np.float32))
    with pytest.raises(UsageError, match="beyond 2\\^24"):
        load_data(save(tmp_path, images=np.array([[2**24 + 1]] * 3), labels=LABELS), domain=(0.0, 1e9))


@given(values=hnp.arrays(np.float64, (4, 3), elements=st.floats(-9, 9)), place=st.integers(0, 3))
def test_a_table_names_its_columns_and_one_of_them_holds_the_classes(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, place: int
) -> None:
    path = tmp_path_factory.mktemp("table") / "d.csv"
    names, rows = ["a", "b", "c"], values.tolist()
    for row, label in zip([names, *rows], ["Label", 2, 0, 1, 7], strict=True):
        row.insert(place, label)
    path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]) + "\n")
    found = load_data(path)
    assert np.array_equal(found.inputs, values.astype(np.float32))
    assert found.labels.tolist() == [2, 0, 1, 7]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n3,4\n", "they are 1, 2: name the one with the classes"),
        ("a,label,b\n3,4\n", "its first row must name 2 columns"),
        ("a,b\n3,4\n", "one of its columns must be one of labels, y"),
        ("label,y\n3,4\n", "one of its columns must be one of"),
        ("label,a\n3,four\n", "not a table of numbers"),
        ("label,a\n3,4\n5\n", "not a table of numbers"),
        ("label,a\n", "needs .N, …. with at least one entry|must name"),
    ],
)
def test_a_table_without_names_classes_or_numbers_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load_data(tmp_path / "d.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such file"):
        load_data(tmp_path / "absent.csv")


@given(st.integers(1, 5))
def test_a_limit_keeps_the_first_entries(tmp_path_factory: pytest.TempPathFactory, limit: int) -> None:
    data = load_data(save(tmp_path_factory.mktemp("data"), images=images(), labels=np.arange(3)), limit)
    assert len(data) == len(data.inputs) == min(limit, 3)
    assert np.array_equal(data.inputs, images()[:limit])


@pytest.mark.parametrize(("domain", "scale"), [((0.0, 1.0), 255), ((0, 255), 1)])
def test_bytes_are_scaled_to_the_domain(tmp_path: Path, domain: tuple[float, float], scale: int) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = load_data(save(tmp_path, images=pixels, labels=LABELS), domain=domain).inputs
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels.astype(np.float32) / np.float32(scale))


@pytest.mark.parametrize(("domain", "words"), [((-1.0, 1.0), r"the domain \[-1, 1\]"), (None, "no domain")])
def test_bytes_of_unknown_scale_are_refused(tmp_path: Path, domain: tuple[float, float] | None, words: str) -> None:
    path = save(tmp_path, images=np.zeros((3, 4), np.uint8), labels=LABELS)
    with pytest.raises(UsageError, match=f"uint8, whose scale .* and {words} was given: store them as float32"):
        load_data(path, domain=domain)


@pytest.mark.parametrize(
    ("found", "needed", "words"),
    [
        ((8, 6, 3), (3, 8, 6), r"images.transpose(0, 3, 1, 2)"),
        ((3, 8, 6), (8, 6, 3), r"images.transpose(0, 2, 3, 1)"),
        ((8, 8), (1, 8, 8), "images[:, None]"),
        ((64,), (1, 8, 8), "images.reshape(-1, 1, 8, 8)"),
        ((1, 8, 8), (64,), "images.reshape(-1, 64)"),
        ((3, 8, 6), (3, 6, 8), "not inputs of this model"),
    ],
)
def test_a_wrong_shape_is_told_what_would_keep_the_pixels_in_order(found, needed, words: str) -> None:
    advice = shape_advice(found, needed)
    assert words in advice
    assert ("reshape(" in advice) == ("reshape(" in words)
    if "transpose" in words:
        moved = np.empty((2, *found)).transpose(*map(int, words[words.index("(") + 1 : -1].split(", ")))
        assert moved.shape[1:] == needed


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-2.1, 2.6, "normalisation the model's first layer"), (0, 255, "divide pixels by 255"), (0, 900, "scale")],
)
def test_inputs_outside_the_domain_are_told_what_may_be_wrong(low: float, high: float, words: str) -> None:
    assert words in outside_advice(low, high)


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


MISTAKES = {
    "a Git LFS pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "compressed by gzip": lambda path: path.write_bytes(gzip.compress(b"model")),
    "a torch checkpoint": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "a torch checkpoint (": lambda path: torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=False),
    "a program of torch.export": lambda path: zipped(path, "p/serialized_exported_program.json"),
    "a file of safetensors": lambda path: path.write_bytes((2).to_bytes(8, "little") + b"{}"),
    "an HDF5 file": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(8)),
}


@pytest.mark.parametrize("words", MISTAKES)
@pytest.mark.parametrize("load", [load_data, load_model])
def test_files_of_another_kind_are_named_for_what_they_are(tmp_path: Path, words: str, load) -> None:
    path = tmp_path / "given"
    MISTAKES[words](path)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert f"given: is {words}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_given_as_a_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="archive of NumPy arrays"):
        load_model(save(tmp_path, images=images(), labels=LABELS))


def bad(entry: object, position: int = 0) -> np.ndarray:
    value = images()
    value.reshape(-1)[position] = entry
    return value


LABELS = np.arange(3)
UNUSABLE = {
    "needs one array of labels, named one of labels, y, y_test, targets, has images": {"images": images()},
    "needs one array of labels, .* has images, labels, y": {"images": images(), "labels": LABELS, "y": LABELS},
    "needs one array of inputs, .* has labels": {"labels": LABELS},
    "needs one array of inputs, .* has images, inputs": {
        "images": images(),
        "inputs": images(),
        "labels": LABELS,
    },
    "at least one entry": {"images": images(0), "labels": LABELS[:0]},
    "has shape \\(3,\\)": {"images": np.zeros(3, np.float32), "labels": LABELS},
    "not finite in entry 1": {"images": bad(np.nan, 4), "labels": LABELS},
    "not finite in entry 0": {"images": bad(np.inf), "labels": LABELS},
    "not finite in entry 2": {"images": np.full((3, 1, 2, 2), [[[[0.5]]], [[[0.5]]], [[[1e300]]]]), "labels": LABELS},
    "dtype complex64, needs integers": {"images": np.zeros((3, 4), np.complex64), "labels": LABELS},
    "integers from 0 to 256, which are no pixels": {"images": np.array([[0, 256]] * 3), "labels": LABELS},
    "integers from -1 to 2, which are no pixels": {"images": np.array([[-1, 2]] * 3), "labels": LABELS},
    "2 entries for 3 inputs": {"images": images(), "labels": LABELS[:2]},
    "holds -1, needs classes >= 0": {"images": images(), "labels": LABELS - 1},
    "holds 0.5, needs classes": {"images": images(), "labels": LABELS + 0.5},
    "holds nan, needs classes": {"images": images(), "labels": np.array([0, np.nan, 1])},
    "dtype <U1": {"images": images(), "labels": np.array(["a", "b", "c"])},
    "shape \\(3, 3\\), needs classes": {"images": images(), "labels": np.eye(3) / 2},
    "shape \\(3, 2\\), needs classes": {"images": images(), "labels": np.ones((3, 2))},
    "not a complete .npz file": {"images": np.array([[None]] * 3), "labels": LABELS},
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_unusable_arrays_are_refused_in_one_line_that_names_the_file(tmp_path: Path, reason: str) -> None:
    path = save(tmp_path, **UNUSABLE[reason])
    with pytest.raises(UsageError, match=reason) as caught:
        load_data(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_limit_of_0_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_data(tmp_path / "absent.npz")
    with pytest.raises(UsageError, match="limit must be >= 1, got 0"):
        load_data(save(tmp_path, images=images(), labels=LABELS), 0)


def test_a_single_array_or_text_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", images())
    (tmp_path / "d.txt").write_text("images, labels")
    with pytest.raises(UsageError, match="single array"):
        load_data(tmp_path / "d.npy")
    with pytest.raises(UsageError, match=r"not a complete \.npz"):
        load_data(tmp_path / "d.txt")


@given(st.integers(0, 10_000), st.booleans())
def test_a_truncated_or_altered_file_is_refused_or_still_holds_the_same_data(
    tmp_path_factory: pytest.TempPathFactory, position: int, cut: bool
) -> None:
    path = save(tmp_path_factory.mktemp("data"), images=images(), labels=LABELS)
    data = bytearray(path.read_bytes())
    position %= len(data)
    if cut:
        del data[position:]
    else:
        data[position] ^= 0x41
    path.write_bytes(data)
    try:
        found = load_data(path)
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is allowed, each has its law
    else:
        assert np.array_equal(found.inputs, images())
        assert np.array_equal(found.labels, LABELS)


def test_a_dataset_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    data = load_data(save(tmp_path, images=images(), labels=LABELS))
    with pytest.raises(UsageError, match=r"inputs have shape \(1, 2, 2\), the model takes \(4,\)"):
        data.require((4,), 3, None)
    with pytest.raises(UsageError, match="label 2 of input 2 is out of range: the models' classes are 0 to 1"):
        data.require((1, 2, 2), 2, None)
    with pytest.raises(UsageError, match=r"input 2 holds 0.9\d*, outside the domain \[0.0, 0.9\]"):
        data.require((1, 2, 2), 3, (0.0, 0.9))
    data.require((1, 2, 2), 3, None)


def test_the_domain_is_compared_without_rounding(tmp_path: Path) -> None:
    # float32(0.1) > 0.1, so the box [0, 0.1] does not hold it
    data = load_data(save(tmp_path, images=np.full((1, 2), 0.1, np.float32), labels=np.array([0])))
    with pytest.raises(UsageError, match="outside the domain"):
        data.require((2,), 2, (0.0, 0.1))


@pytest.mark.parametrize(
    ("name", "count", "shape"), [("mnist/test_1000.npz", 1000, (1, 28, 28)), ("cifar10/test_100.npz", 100, (3, 32, 32))]
)
def test_the_real_images_load(name: str, count: int, shape: tuple[int, ...]) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent: set CERTMIX_DATA")
    data = load_data(DATA / name)
    data.require(shape, 10, (0.0, 1.0))
    assert len(data) == count
    assert set(np.unique(data.labels)) == set(range(10))


def test_the_digits_splits_share_no_image_and_fit_the_models() -> None:
    tune, audit = (load_data(DIGITS / f"{name}.npz") for name in ("tune", "audit"))
    assert (len(tune), len(audit)) == (397, 400)
    for part in (tune, audit):
        part.require((1, 8, 8), 10, (0.0, 1.0))
    assert not {x.tobytes() for x in tune.inputs} & {x.tobytes() for x in audit.inputs}
