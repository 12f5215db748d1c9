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
        ("adaptive_cube", {"adaptive": None}, "speaks of adaptive = {'alpha': None, 'transform': {'shift': 0.0"),
        ("margin_linf", {"class_of": "mix"}, "input 0: speaks of class_of = robust, the run of mix"),
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


def respoken(folder: Path, index: int, **changed: Any) -> None:
    """Line `index` of the run with fields changed, and sealed anew."""
    path = folder / "certificates.jsonl"
    lines = path.read_bytes().splitlines()
    value = {n: v for n, v in json.loads(lines[index]).items() if n != "sha256"} | changed
    lines[index] = parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1])
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def silent(tmp_path: Path, source: str) -> Path:
    """The accepted run under a header whose settings say nothing."""
    folder = forged(tmp_path, source)
    value = json.loads((folder / "run.json").read_bytes())
    del value["sha256"]
    value["settings"] = {}
    (folder / "run.json").write_bytes(parse.seal(json.dumps(value, separators=(",", ":")).encode()[:-1]))
    return folder


@pytest.mark.parametrize(
    ("source", "changed", "words"),
    [
        ("margin_linf", {"alpha": 0.8}, "input 3: speaks of alpha = 0.8, the run of 0.75"),
        ("margin_linf", {"temperature": 2.0}, "input 3: speaks of temperature = 2.0, the run of 1.0"),
        ("margin_linf", {"norm": "L2"}, "input 3: speaks of norm = L2, the run of Linf"),
        ("margin_linf", {"domain": [0.0, 2.0]}, "input 3: speaks of domain = [0.0, 2.0], the run of [0.0, 1.0]"),
        ("margin_linf", {"domain": [0.0, 0.999]}, "input 3: speaks of domain = [0.0, 0.999], the run of [0.0, 1.0]"),
        ("margin_linf", {"method": "lipschitz"}, "input 3: speaks of method = lipschitz, the run of margin"),
        ("margin_linf", {"standard": None}, "input 3: speaks of standard = None, the run of 790046555031f2fa"),
        ("margin_float32", {"semantics": "real"}, "input 3: speaks of semantics = real, the run of float32"),
        ("pair", {"class_of": "robust"}, "input 3: "),
        ("smoothing_soft", {"class_of": "mix"}, "input 3: speaks of class_of = mix, the run of robust"),
    ],
)
def test_lines_that_differ_among_themselves_are_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, changed: dict[str, Any], words: str
):
    """Each claim may well be true: no sentence about the run is."""
    folder = silent(tmp_path, source)
    assert main([str(folder)]) == 0
    respoken(folder, 3, radius=0.0 if source.startswith("smoothing") else 1e-6, **changed)
    for arguments in ([str(folder)], [str(folder), "--jobs", "2"]):
        capsys.readouterr()
        assert main(arguments) in (1, 2)
        assert words in capsys.readouterr().out


def test_one_run_is_about_one_adaptive_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = silent(tmp_path, "adaptive_declared")
    wider = {"alpha": {"network": None, "low": 0.75, "high": 0.9}, "transform": None}
    respoken(folder, 2, adaptive=wider)
    assert main([str(folder)]) == 2
    assert (
        "input 2: speaks of adaptive = {'alpha': {'network': None, 'low': 0.75, 'high': 0.9}" in capsys.readouterr().out
    )


def test_lower_bounds_of_an_alpha_that_depends_on_the_input_may_differ(tmp_path: Path):
    folder = silent(tmp_path, "adaptive_network")
    respoken(folder, 2, alpha=0.7, radius=1e-6)
    assert main([str(folder)]) == 0


def test_what_is_rejected_speaks_for_no_other_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = silent(tmp_path, "margin_linf")
    respoken(folder, 0, alpha=0.5)
    assert main([str(folder)]) == 1
    assert "3 accepted, 1 rejected" in capsys.readouterr().out


def test_two_runs_spliced_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs of the same inputs and networks: the strong claims of one, the alpha of the other."""
    folder, other = silent(tmp_path, "margin_linf"), ACCEPTED / "margin_temperature"
    one, two = ((path / "certificates.jsonl").read_bytes().splitlines(keepends=True) for path in (folder, other))
    (folder / "certificates.jsonl").write_bytes(b"".join([*one[:2], *two[2:]]))
    assert main([str(folder)]) == 2
    text = capsys.readouterr().out
    assert "input 2: speaks of alpha = 0.6, the run of 0.75" in text
    assert "2 accepted, 0 rejected, 2 malformed" in text


def test_a_radius_of_its_own_is_no_difference_where_none_was_asked_for(tmp_path: Path):
    folder = forged(tmp_path, "margin_linf")
    respoken(folder, 1, radius=0.001)
    assert main([str(folder)]) == 0


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
