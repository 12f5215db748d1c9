"""What a file is that cannot be read as what it was given for: by its first bytes, in words, with the way out."""

from __future__ import annotations

import zipfile
from pathlib import Path

ARRAY = "a single NumPy array (.npy): store images and labels with numpy.savez"
LFS = b"version https://git-lfs"
MAGIC = (
    (LFS, "a Git LFS pointer, not the file that it stands for: run git lfs pull"),
    (b"\x1f\x8b", "compressed by gzip: unpack it with gunzip"),
    (b"BZh", "compressed by bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "compressed by xz: unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it with unzstd"),
    (b"\x93NUMPY", ARRAY),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and MATLAB write them: convert it"),
)
NAMED = "export the model with torch.onnx.export, or name it as docs/models.md says"
CHECKPOINT = f"a torch checkpoint (.pth, .pt): {NAMED}"
PROGRAM = f"a program of torch.export (.pt2): {NAMED}"
ARRAYS = "an archive of NumPy arrays (.npz): give it as --data"


def kind(path: Path) -> str | None:
    """What the file is, if it is one of the usual mistakes; None otherwise. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(64)
    for magic, words in MAGIC:
        if start.startswith(magic):
            return words
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        return _archive(path)
    # a pickle states its protocol first: what torch.save wrote before its files were archives
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return CHECKPOINT
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return f"a file of safetensors, weights without a graph: {NAMED}"
    return None


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None  # damaged: what it was meant to be cannot be told
    if any(name.endswith("data.pkl") for name in names):
        return CHECKPOINT
    if any("serialized_exported_program" in name or "models/model.json" in name for name in names):
        return PROGRAM
    return ARRAYS if names and all(name.endswith(".npy") for name in names) else None
