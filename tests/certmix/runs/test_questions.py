"""Several questions at once: each has its own run, and what one has bounded is not bounded again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal
from small_runs import audit

from certmix.__main__ import main
from certmix.provers.margin.prover import prove_margin
from certmix.runs import questions
from certmix.runs.audit import Audit
from certmix.runs.store import Store
from certmix.settings import Settings
from proofs_check.__main__ import main as judge


def certified(folder: Path) -> set[int]:
    return {line["index"] for line in Store(folder).lines() if line["outcome"] == "certified"}


def asked(digits: Path, folder: Path, radius: float | None, alpha: float) -> Audit:
    one = audit(digits, folder)
    return dataclasses.replace(one, settings=dataclasses.replace(one.settings, radius=radius, alpha=alpha))


def test_what_a_larger_radius_or_a_smaller_alpha_settled_is_not_bounded_again(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bounded: list[tuple[int, ...]] = []

    def recorded(problem: Any, session: Any) -> Any:
        bounded.append(problem.indices)
        return prove_margin(problem, session)

    monkeypatch.setattr(questions, "prove_margin", recorded)
    of = [asked(digits, tmp_path, r, a).settings for r in (0.05, 0.12) for a in (0.75, 0.55)]
    answered: list[tuple[Settings, Path]] = []
    for settings in questions.ordered(of):
        folder = tmp_path / questions.folder_of(settings)
        one = asked(digits, folder, settings.radius, settings.alpha)
        prover = questions.prover(settings, answered)
        assert isinstance(prover, questions.Remembering) == bool(answered)
        bounded.clear()
        assert dataclasses.replace(one, prover=prover).run() == 0
        assert judge([str(folder), "--quiet"]) == 0
        settled = {k for s, f in answered if s.alpha <= settings.alpha for k in certified(f)}
        assert settled <= certified(folder)
        assert not settled & {k for indices in bounded for k in indices}
        answered.append((settings, folder))
    names = [f.name for _, f in answered]
    assert names == [f"Linf-{r}-alpha-{a}" for r in ("0.12", "0.05") for a in ("0.55", "0.75")]
    counts = [questions.answer(s, f).certified for s, f in answered]
    assert counts == [len(certified(f)) for _, f in answered]
    assert counts[0] < counts[-1]
    alone = tmp_path / "alone"
    assert asked(digits, alone, 0.05, 0.75).run() == 0
    assert certified(alone) <= certified(answered[-1][1])


@pytest.mark.parametrize("changed", [{"radius": None}, {"radius": 0.2}, {"temperature": 2.0}, {"norm": "L2"}])
def test_other_questions_are_answered_anew(digits: Path, tmp_path: Path, changed: dict[str, Any]):
    one = asked(digits, tmp_path / "one", 0.1, 0.75)
    other = dataclasses.replace(one.settings, **changed)
    (tmp_path / "one" / "curves").mkdir(parents=True)
    assert not isinstance(questions.prover(other, [(one.settings, tmp_path / "one")]), questions.Remembering)


def test_the_command_answers_all_in_one_table_and_again_without_proving(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "asked"
    words = ["audit", "--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx"), "--limit"]
    words += ["3", "--data", str(digits / "audit.npz"), "--engine", "crown", "--optimise", "1", "--attack-steps", "2"]
    words += ["--alpha", "0.75", "--radius", "1/50,1/20", "--norm", "Linf,L1", "--out", str(out)]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()[-7:]
    answers = json.loads((out / questions.NAME).read_bytes())
    assert [(a["norm"], a["radius"]) for a in answers] == [(n, r) for n in ("Linf", "L1") for r in (0.05, 0.02)]
    assert all(len(certified(out / a["folder"])) == a["certified"] and a["inputs"] == 3 for a in answers)
    assert all(any(a["folder"] in line for line in table) for a in answers)
    monkeypatch.setattr(Audit, "run", None)  # nothing is run again
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"event": "answers", "answers": answers}
    for more, text in (
        (["--fail-under", "50"], "all inputs of one question"),
        (["--shard", "1/2"], "a part of one question"),
    ):
        assert text in refusal(capsys, [*words, *more])
    inside = [*words[:-1], str(out / answers[0]["folder"])]
    assert "holds the run of one question" in refusal(capsys, inside)


def test_values_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]):
    words = ["audit", "--standard", "g", "--robust", "h", "--data", "d", "--out", "o", "--alpha", "0.7"]
    assert "must be one of Linf, L2, L1, got 'L3'" in refusal(capsys, [*words, "--norm", "Linf,L3"])
    assert "got ''" in refusal(capsys, [*words, "--radius", "0.1,"])
