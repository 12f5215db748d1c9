"""What run.json says of the claims is what every line says, or the run is malformed: no header is taken at its word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from proofs_check.__main__ import main
from proofs_check.reading import parse

ACCEPTED = Path(__file__).resolve().parent / "accepted"


def forged(tmp_path: Path, source: str, **changed: Any) -> Path:
    """The accepted run with settings of its header changed (a dotted name by "__") and its seal made anew."""
    folder = tmp_path / "run"
    shutil.copytree(ACCEPTED / source, folder)
    value = json.loads((folder / "run.json").read_bytes())
    del value["sha256"]
    for name, setting in changed.items():
        *outer, last = name.split("__")
        held = value["settings"]
        for part in outer:
            held = held[part]
        held[last] = setting
    (folder / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    return folder


@pytest.mark.parametrize(
    ("source", "changed", "words"),
    [
        ("margin_linf", {"alpha": 0.6}, "speaks of alpha = 0.75, the run of 0.6"),
        ("margin_linf", {"alpha": 1}, "alpha"),
        ("margin_linf", {"norm": "L2"}, "speaks of norm = Linf, the run of L2"),
        ("margin_linf", {"temperature": 2.0}, "speaks of temperature = 1.0, the run of 2.0"),
        ("margin_linf", {"domain": None}, "speaks of domain = [0.0, 1.0], the run of None"),
        ("margin_linf", {"semantics": "float32"}, "speaks of semantics = real, the run of float32"),
        ("margin_linf", {"method": "lipschitz"}, "speaks of method = margin, the run of lipschitz"),
        ("margin_linf", {"radius": 0.5}, "the run of 0.5"),
        ("margin_float32", {"radius": 0.004}, "speaks of radius = 0.003, the run of 0.004"),
        ("smoothing_soft", {"smoothing__noise_std": 0.04}, "speaks of noise_std = 0.05, the run of 0.04"),
        ("smoothing_soft", {"smoothing__failure_probability": 1e-9}, "the run of 1e-09"),
        ("smoothing_soft", {"smoothing__base": "hard"}, "speaks of base = soft, the run of hard"),
        ("smoothing_soft", {"smoothing__grid": 256}, "speaks of grid = 255, the run of 256"),
        ("smoothing_soft", {"use_standard": True}, "speaks of use_standard = False, the run of True"),
        ("adaptive_clamp", {"temperature": 3.0}, "the run of 3.0"),
        ("adaptive_clamp", {"alpha": 0.6}, "speaks of alpha = 0.75, the run of 0.6"),
        ("adaptive_cube", {"alpha": 0.6}, "speaks of alpha = 0.75, the run of 0.6"),
    ],
)
def test_a_header_that_says_other_than_its_lines_is_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, changed: dict[str, Any], words: str
):
    folder = forged(tmp_path, source, **changed)
    for arguments in ([str(folder)], [str(folder), "--jobs", "2"]):
        assert main(arguments) == 2
        assert words in capsys.readouterr().out


def test_a_line_that_is_not_certified_must_agree_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = forged(tmp_path, "margin_linf")
    path = folder / "certificates.jsonl"
    lines = path.read_bytes().splitlines()
    claimed = json.loads(lines[0])
    kept = {n: claimed[n] for n in ("format", "index", "label", "method", "class_of", "norm", "radius", "predicted")}
    kept |= {"outcome": "abstained", "reason": "BOUNDS", "advice": "", "counterexample": None, "confirmed": False}
    lines[0] = parse.seal(json.dumps({**kept, "radius": None, "alpha": 0.99}, separators=(",", ":")).encode()[:-1])
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    assert main([str(folder)]) == 2
    assert "speaks of alpha = 0.99, the run of 0.75" in capsys.readouterr().out


def test_settings_that_say_nothing_of_the_claims_are_free(tmp_path: Path):
    assert main([str(forged(tmp_path, "margin_linf", batch_size=7, device="abacus"))]) == 0


def test_a_smoothed_claim_is_not_said_to_be_of_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = forged(tmp_path, "smoothing_soft", method="margin")
    path = folder / "certificates.jsonl"
    claimed = [json.loads(line) for line in path.read_bytes().splitlines()]
    for line in claimed:
        del line["sha256"]
        line["method"] = "margin"
    sealed = [parse.seal(json.dumps(line, separators=(",", ":")).encode()[:-1]) for line in claimed]
    path.write_bytes(b"".join(line + b"\n" for line in sealed))
    assert main([str(folder)]) == 2
    assert "is not of the method margin" in capsys.readouterr().out
