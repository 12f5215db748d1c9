"""Lines of the runs in accepted/, ready to be judged."""

from __future__ import annotations

from pathlib import Path

from proofs_check import run
from proofs_check.reading import folder

HERE = Path(__file__).resolve().parent


ACCEPTED = HERE / "accepted" / "margin_linf"


def first_line(path: Path) -> tuple[run.ProcessJudge, bytes, folder.Row]:
    opened = run.Run(path)
    _, line, row = next(opened.tasks())
    assert row is not None
    return run.open_judge(path, opened.header), line, row
