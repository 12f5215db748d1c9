"""What peers are asked in benchmarks/branching_peers.py, with stubs of them: none is needed here."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
STUB = """
import json, sys
from pathlib import Path
asked = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
spec = Path(asked["specification"]["vnnlib_path"]).read_text()
Path("seen.json").write_text(json.dumps([asked, spec, Path(asked["model"]["onnx_path"]).is_file()]))
if asked["bab"]["timeout"] > 1:
    Path(asked["general"]["results_file"]).write_text("unsat\\n" if "Y_2" in spec else "sat\\n((X_0 0.5))")
else:
    raise SystemExit("no time")
"""


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("branching_peers", BENCHMARKS / "branching_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


def test_an_instance_says_the_ball_cut_by_the_domain_and_that_another_class_may_win(peers: ModuleType):
    text = peers.vnnlib(np.float32([0.0, 0.5]), 1, 3)
    assert "(assert (>= X_0 0.0))" in text
    assert f"(assert (<= X_0 {peers.RADIUS!r}))" in text
    assert f"(assert (>= X_1 {0.5 - peers.RADIUS!r}))" in text
    assert text.endswith("(assert (or (and (>= Y_0 Y_1)) (and (>= Y_2 Y_1))))")


def test_alpha_beta_crown_is_asked_by_files_of_its_own(peers: ModuleType, tmp_path: Path):
    folder = tmp_path / "checkout" / "complete_verifier"
    folder.mkdir(parents=True)
    (folder / "abcrown.py").write_text(STUB)
    net = tmp_path / "net.onnx"
    net.write_bytes(b"")
    specs = [peers.vnnlib(np.float32([0.5]), 0, classes) for classes in (3, 2)]
    answers = list(peers.by_abcrown(tmp_path / "checkout", sys.executable, net, specs, 30.0))
    assert [verdict for verdict, _ in answers] == ["proven", "refuted"]
    assert all(spent >= 0 for _, spent in answers)
    asked, seen, found = json.loads((folder / "seen.json").read_text())
    assert (seen, found) == (specs[1], True)
    assert asked["general"]["device"] == "cpu"
    assert asked["bab"] == {"timeout": 30.0}
    (failed,) = peers.by_abcrown(tmp_path / "checkout", sys.executable, net, specs[:1], 0.5)
    assert failed[0] == "error: no time"
