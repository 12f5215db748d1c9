"""Every path asks every engine of the table, made with the options of the run's settings; none drops any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import certmix
from certmix.__main__ import main
from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from certmix.provers.certify import certify_adaptive
from certmix.provers.session import make_engine
from certmix.records.outcomes import Method
from certmix.settings import Settings
from proofs_check import certificate as c
from verifiers import ENGINES
from verifiers.engine import Engine
from verifiers.network.module import build

DEVICE = "cpu:0"  # the processor by another name: an engine that dropped the option would say "cpu"
STEPS = 3
FILES = ("standard.onnx", "robust.onnx", "audit.npz")
Path_ = Callable[[Path, Path, Settings], None]


def networks(folder: Path) -> tuple[certmix.Model, certmix.Model]:
    return certmix.load_model(folder / "standard.onnx"), certmix.load_model(folder / "robust.onnx")


def inputs(folder: Path) -> torch.Tensor:
    return torch.from_numpy(certmix.load_data(folder / "audit.npz", 1).inputs)


def api(folder: Path, _: Path, settings: Settings) -> None:
    certmix.certify(*networks(folder), inputs(folder), settings=settings)


def adaptive(folder: Path, _: Path, settings: Settings) -> None:
    weight = np.zeros((2, 64), np.float32)
    nodes = [c.Input((1, 8, 8)), c.Flatten((0,)), c.Linear((1,), weight, np.zeros(2, np.float32))]
    mix = AdaptiveMix(SigmoidAlpha(build(nodes), 0.7, 0.9))
    certify_adaptive(*networks(folder), inputs(folder), mix, settings)


def command_line(folder: Path, out: Path, settings: Settings) -> None:
    files = {"standard": "standard.onnx", "robust": "robust.onnx", "data": "audit.npz"}
    given = [text for name, file in files.items() for text in (f"--{name}", str(folder / file))]
    given += ["--alpha", str(settings.alpha), "--radius", str(settings.radius), "--limit", "1", "--out", str(out)]
    names = ("method", "engine", "evidence", "device", "optimise")
    given += [text for name in names for text in (f"--{name}", str(getattr(settings, name)))]
    assert main(["audit", *given]) == 0


@pytest.mark.parametrize("evidence", ["engine", "network"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("path", "method"),
    [(api, "margin"), (api, "lipschitz"), (command_line, "margin"), (command_line, "lipschitz"), (adaptive, "margin")],
)
def test_options_arrive(
    path: Path_, method: Method, name: str, evidence: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Engine] = []
    for kind in ENGINES.values():
        original: Any = kind.bound

        def bound(engine: Engine, *rest: Any, original: Any = original) -> Any:
            asked.append(engine)
            return original(engine, *rest)

        monkeypatch.setattr(kind, "bound", bound)
    if path is adaptive and evidence == "engine":
        pytest.skip("adaptive mixes are judged from the network alone")
    settings = Settings(
        0.8, radius=0.01, method=method, engine=name, evidence=evidence, device=DEVICE, optimise=STEPS, attack_steps=0
    )  # fmt: skip
    path(digits, tmp_path / "run", settings)
    followed = evidence == "engine" or ENGINES[name].capabilities.witness
    assert set(asked) == {ENGINES[name](steps=STEPS if followed else 0, device=DEVICE)}


def test_an_engine_whose_slopes_the_judge_is_not_told_tunes_none_for_him() -> None:
    """Else it would propose radii that he cannot prove."""
    for name, kind in ENGINES.items():
        steps = {
            e: make_engine(Settings(0.8, engine=name, evidence=e, optimise=STEPS)).steps for e in ("engine", "network")
        }
        assert steps == {"engine": STEPS, "network": STEPS if kind.capabilities.witness else 0}


@pytest.mark.parametrize("name", ENGINES)
def test_a_run_prepares_a_network_once_for_all_its_batches(
    name: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[str] = []
    original: Any = ENGINES[name].prepare

    def prepare(engine: Engine, network: c.PlainNetwork) -> Any:
        prepared.append(network.sha256)
        return original(engine, network)

    monkeypatch.setattr(ENGINES[name], "prepare", prepare)
    files = [f"--{role}={digits / file}" for role, file in zip(("standard", "robust", "data"), FILES, strict=True)]
    run = ["--alpha=0.8", "--radius=0.01", "--limit=3", "--batch-size=1", "--attack-steps=0", f"--engine={name}"]
    assert main(["audit", *files, *run, f"--out={tmp_path / 'run'}"]) == 0
    assert len(prepared) == 1
