"""What of an adaptive mix is chosen on one split: maps of h's logits, ranges of alpha(x), temperatures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refusal
from torch import nn

from certmix.__main__ import main
from certmix.commands.adaptive import transformations
from certmix.data.dataset import load_data
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.models.model import load_model
from certmix.provers.adaptive import adaptive_settings
from certmix.provers.certify import certify_adaptive
from certmix.records.outcomes import Certified
from certmix.runs.listener import Listener
from certmix.runs.tune_adaptive import Candidates, known_of, points
from certmix.settings import Settings
from proofs_check.__main__ import main as judge
from proofs_check.certificate import MixedNuts, Transform

COUNT = 12
NUTS = ["--method=adaptive", "--transform", "mixednuts:10:30:20,-1:0:0.5,1:2:1", "--alpha", "0.75,0.9"]


@pytest.fixture(scope="module")
def files(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adaptive_splits")
    for name in ("tune", "audit"):
        whole = np.load(digits / f"{name}.npz")
        np.savez(folder / f"{name}.npz", images=whole["images"][:COUNT], labels=whole["labels"][:COUNT])
    torch.manual_seed(0)
    alpha = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    weight = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Sigmoid()).eval()
    for name, module in (("alpha", alpha), ("weight", weight)):
        torch.onnx.export(module, (torch.zeros(1, 1, 8, 8),), str(folder / f"{name}.onnx"), dynamo=False)
    return {p.stem: p for p in folder.iterdir()} | {m: digits / f"{m}.onnx" for m in ("standard", "robust")}


def arguments(files: dict[str, Path], out: Path, *more: str) -> list[str]:
    given = {"standard": "standard", "robust": "robust", "data": "tune", "audit-data": "audit"}
    models = [f"--{option}={files[name]}" for option, name in given.items()]
    return ["tune", *models, "--radius=0.02", "--clean-accuracy=0.8", f"--out={out}", *more]


def test_the_map_of_mixednuts_is_chosen_on_one_split_and_judged_on_the_other(files: dict[str, Path], tmp_path: Path):
    out = tmp_path / "out"
    assert main(arguments(files, out, *NUTS, "--temperature", "1,2")) == 0
    assert judge([str(out / "audit")]) == 0
    record, lines = read(out)
    certified = [line for line in lines if line["outcome"] == "certified"]
    assert len({json.dumps(line["adaptive"]) for line in certified}) == 1
    chosen = certified[0]["adaptive"]["transform"]
    assert f"mixednuts:{chosen['scale']:g},{chosen['shift']:g},{chosen['power']:g}" in record["mix"]
    assert {(line["alpha"], line["temperature"]) for line in certified} == {(record["alpha"], record["temperature"])}
    hits = sum(line["predicted"] == line["label"] for line in certified)
    assert record["audit"]["certified_correct"]["hits"] == hits > 0
    # what the choice believed of its own split, an audit of that split proves
    again = [f"--{name}={files[name]}" for name in ("standard", "robust")]
    how = ["--method=adaptive", f"--transform=mixednuts:{chosen['scale']},{chosen['shift']},{chosen['power']}"]
    given = [f"--alpha={record['alpha']}", f"--temperature={record['temperature']}", "--radius=0.02"]
    assert main(["audit", *again, f"--data={files['tune']}", *how, *given, f"--out={tmp_path / 'again'}"]) == 0
    proven = [json.loads(line) for line in (tmp_path / "again" / "certificates.jsonl").read_text().splitlines()]
    share = np.mean([line["outcome"] == "certified" and line["predicted"] == line["label"] for line in proven])
    assert share == pytest.approx(record["tune"]["certified_correct"])
    # finished audits are not repeated
    before = (out / "audit" / "certificates.jsonl").stat().st_mtime_ns
    assert main(arguments(files, out, *NUTS, "--temperature", "1,2")) == 0
    assert (out / "audit" / "certificates.jsonl").stat().st_mtime_ns == before


def read(out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = (out / "audit" / "certificates.jsonl").read_text().splitlines()
    return json.loads((out / "tune.json").read_text()), [json.loads(line) for line in lines]


def test_the_range_of_alpha_is_chosen_and_its_bound_proven_on_every_ball(files: dict[str, Path], tmp_path: Path):
    out = tmp_path / "out"
    how = ["--method=adaptive", f"--alpha-network={files['alpha']}", "--alpha-range", "0.55:0.75:0.1", "0.8:1:0.1"]
    assert main(arguments(files, out, *how, "--temperature", "1,2")) == 0
    assert judge([str(out / "audit")]) == 0
    record, lines = read(out)
    certified = [line for line in lines if line["outcome"] == "certified"]
    (said,) = {json.dumps(line["adaptive"]["alpha"]) for line in certified}
    low, high = json.loads(said)["low"], json.loads(said)["high"]
    assert f"alpha in [{low:g}, {high:g}]" in record["mix"]
    assert record["alpha"] == low
    assert all(low <= line["alpha"] <= high for line in certified)


def test_a_declared_weight_is_kept_and_temperatures_are_chosen(files: dict[str, Path], tmp_path: Path):
    out = tmp_path / "out"
    how = ["--method=adaptive", f"--alpha-network={files['weight']}", "--alpha-lower=0.7", "--transform=0,1"]
    assert main(arguments(files, out, *how)) == 0
    record, lines = read(out)
    assert "alpha >= 0.7" in record["mix"]
    assert any(line["outcome"] == "certified" for line in lines)


def test_every_candidate_is_the_mix_itself_and_what_an_audit_would_prove(files: dict[str, Path]):
    """Clean accuracies are the classifier's, and certified shares those of the prover, mix by mix."""
    standard, robust = load_model(files["standard"]), load_model(files["robust"])
    data, radius, shares = load_data(files["tune"], 6), 0.06, set[float]()
    network = load_model(files["alpha"]).require_network()
    x, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    ranges = tuple(AdaptiveMix(SigmoidAlpha(network, low, 0.95)) for low in (0.6, 0.8))
    for weights, maps in (
        ((AdaptiveMix(0.75),), (MixedNuts(30.0, -0.5, 1.0), MixedNuts(1.0, 0.0, 2.0))),
        (ranges, (Transform(0.5, 1.5, True),)),
    ):
        candidates = Candidates(weights, (0.1, 3.0), maps)
        base = adaptive_settings(candidates.first(), Settings(0.75, radius=radius, attack_steps=0))
        known = known_of(standard, robust, data, candidates, base, Listener())
        found = list(points(known, candidates, radius))
        assert len(found) == len(weights) * 2 * len(maps)
        for point in found:
            mix = point.mix.classifier(standard.module, robust.module, point.temperature)
            with torch.no_grad():
                assert point.clean == pytest.approx(100 * float((mix(x).argmax(1) == labels).double().mean()))
            asked = replace(base, temperature=point.temperature, adaptive=None, method="margin", curves=True)
            proven = certify_adaptive(standard, robust, x, point.mix, replace(asked, alpha=point.alpha))
            assert point.certified == pytest.approx(100 * np.mean([isinstance(o, Certified) for o in proven]))
            shares.add(point.certified)
    assert len(shares) > 2


def test_grids_of_maps() -> None:
    found = transformations(["mixednuts:1:3:1,-1,2"], False)
    assert found == tuple(MixedNuts(s, -1.0, 2.0) for s in (1.0, 2.0, 3.0))
    assert transformations(["-1:0:0.5,2"], True) == tuple(Transform(s, 2.0, True) for s in (-1.0, -0.5, 0.0))
    assert transformations(["0", "1:2:1"], False) == (Transform(0.0, 1.0, False), Transform(0.0, 2.0, False))
    assert len(transformations(["mixednuts"], False)) == 100
    with pytest.raises(UsageError, match="too many to try"):
        Candidates((AdaptiveMix(0.75),) * 1001, (1.0,) * 1000, (None,))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--transform", "mixednuts"], "--transform is for --method adaptive"),
        (["--method=adaptive"], "nothing of this mix is adaptive"),
        (["--method=adaptive", "--transform", "mixednuts:1,2"], "it takes SHIFT POWER"),
        (["--method=adaptive", "--transform", "mixednuts:0,0,1"], "must be > 0"),
        (["--method=adaptive", "--transform", "mixednuts:1:x:2,0,1"], "LOW:HIGH:STEP"),
        (["--method=adaptive", "--transform", "mixednuts", "--clamp"], "it takes SHIFT POWER"),
        (["--method=adaptive", "--transform", "mixednuts", "--use-standard"], "use-standard"),
        (["--method=adaptive", "--alpha-network=ALPHA", "--alpha-range", "0.9", "0.6"], "got 0.9, 0.6"),
        (["--method=adaptive", "--alpha-network=ALPHA", "--alpha-range", "0", "1", "--alpha=.7"], "given twice"),
        (["--method=adaptive", "--alpha-network=WEIGHT", "--alpha-lower=2"], "alpha must be in [0, 1], got 2"),
    ],
)
def test_misuse_is_refused_before_anything_runs(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
):
    named = [m.replace("ALPHA", str(files["alpha"])).replace("WEIGHT", str(files["weight"])) for m in more]
    out = tmp_path / "out"
    assert words in refusal(capsys, arguments(files, out, *named))
    assert not out.exists()


def test_one_word_in_a_configuration_file_is_one_word(files: dict[str, Path], tmp_path: Path):
    config = tmp_path / "tune.toml"
    config.write_text('transform = "mixednuts:30,0,1"\nmethod = "adaptive"\nalpha = "0.75,0.9"\n')
    assert main(arguments(files, tmp_path / "out", f"--config={config}", "--temperature=1")) == 0
    assert "mixednuts:30,0,1" in read(tmp_path / "out")[0]["mix"]
