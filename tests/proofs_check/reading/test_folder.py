"""Files of a run: what is not there, is no regular file, is packed or headed otherwise, is malformed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from every_rule import H, X, a_run, abstained

from proofs_check import __main__ as command
from proofs_check import certificate as c
from proofs_check.reading import folder


def test_a_run_without_its_lines_is_malformed(tmp_path: Path):
    with pytest.raises(c.MalformedError, match="cannot be read"):
        list(folder.lines(tmp_path))


def test_a_file_that_is_not_there_is_malformed(tmp_path: Path):
    with pytest.raises(c.MalformedError, match="cannot be read"):
        folder.header(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "inputs.npz", "certificates.jsonl"])
def test_a_pipe_in_place_of_a_file_is_malformed_at_once(name: str, tmp_path: Path):
    here = a_run(tmp_path, H, [abstained("none")], X)
    (here / name).unlink()
    os.mkfifo(here / name)
    assert command.main([str(here)]) == 2


NPY_HEADERS = {
    "unhashable keys": "{[]: 1}",
    "an empty descr": "{'descr': (), 'fortran_order': False, 'shape': (1, 3), }",
    "a negative shape": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, -3), }",
    "keys that do not sort": "{1: 2, 'a': 3}",
    "an open bracket": "{'descr': '<f4L",
    "deep brackets": "(" * 5000,
    "Fortran order": "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 3), }",
    "doubles": "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 3), }",
    "no cells": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 0), }",
    "too many cells": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 999999999999, 999999999999), }",
    "lengths that no comma parts": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3 1), }",
    "a length that begins with 0": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 03), }",
    "lengths as numpy does not spell them": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3,), }",
    "65 axes": "{'descr': '<f4', 'fortran_order': False, 'shape': (1, " + ", ".join(["1"] * 65) + "), }",
}


@pytest.mark.parametrize("name", sorted(NPY_HEADERS))
def test_hostile_npy_headers_are_malformed(name: str, tmp_path: Path):
    here = a_run(tmp_path, H, [abstained("none")], X)
    text = NPY_HEADERS[name].encode() + b"\n"
    head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(here / "inputs.npz") as source:
        labels = source.read("labels.npy")
    with zipfile.ZipFile(here / "inputs.npz", "w") as target:
        target.writestr("inputs.npy", head + X.tobytes())
        target.writestr("labels.npy", labels)
    assert command.main([str(here)]) == 2


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_of_inputs_are_malformed(packing: int, tmp_path: Path):
    here = a_run(tmp_path, H, [abstained("none")], X)
    with zipfile.ZipFile(here / "inputs.npz") as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(here / "inputs.npz", "w", packing) as target:
        for name, data in members.items():
            target.writestr(name, data)
    assert command.main([str(here)]) == 2


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twice", ["inputs.npy", "labels.npy"])
def test_a_member_of_inputs_that_is_there_twice_is_malformed(twice: str, tmp_path: Path):
    """Which of them a reader takes is its own affair."""
    here = a_run(tmp_path, H, [abstained("none")], X)
    with zipfile.ZipFile(here / "inputs.npz", "a") as target:
        target.writestr(twice, target.read(twice))
    assert command.main([str(here)]) == 2
