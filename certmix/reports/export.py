"""A run's inputs for other programs: one record each, as CSV, JSON lines, Parquet or JUnit."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from certmix.errors import UsageError
from certmix.formatting import exact
from certmix.reports.inputs import Input
from certmix.reports.judged import printable


@dataclass(frozen=True)
class Row:
    """label: None where the input has none. verdict: certified, attackable, open. radius: certified, in the run's
    units, exactly; None without a certificate that counts. attack_radius: of the nearest attack on record. judge: its
    word. why: what stood in the way."""

    index: int
    label: int | None
    predicted: int
    verdict: str
    radius: float | None
    attack_radius: float | None
    judge: str
    why: str


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def rows(inputs: Sequence[Input]) -> list[Row]:
    return [
        Row(
            i.index,
            None if i.label < 0 else i.label,
            i.predicted,
            i.verdict,
            i.radius,
            None if i.attack is None else i.attack.radius,
            i.judge,
            printable(i.why),
        )
        for i in inputs
    ]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in rows:
            values = dataclasses.astuple(row)
            writer.writerow(["" if v is None else exact(v) if isinstance(v, float) else v for v in values])


def write_jsonl(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n" for row in rows)


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Raises UsageError where pyarrow is not installed."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install pyarrow, or export CSV or JSON lines") from None
    kinds = {"index": arrow.int64(), "label": arrow.int64(), "predicted": arrow.int64(),
             "radius": arrow.float64(), "attack_radius": arrow.float64()}  # fmt: skip
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in COLUMNS])
    parquet.write_table(arrow.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=schema), path)


def write_junit(rows: Sequence[Row], path: Path) -> None:
    """A test for each input: it fails where an attack changes the answer or the judge did not accept the certificate,
    is skipped where nobody knows."""
    suite = ElementTree.Element("testsuite", name="certmix", tests=str(len(rows)))
    counts = {"failure": 0, "skipped": 0}
    for row in rows:
        case = ElementTree.SubElement(suite, "testcase", classname="certmix", name=f"input {row.index}")
        if row.verdict == "certified":
            continue
        not_accepted = row.judge in ("rejected", "malformed", "not reached")
        kind = "failure" if row.verdict == "attackable" or not_accepted else "skipped"
        counts[kind] += 1
        ElementTree.SubElement(case, kind, message=row.why or row.verdict)
    suite.set("failures", str(counts["failure"]))
    suite.set("skipped", str(counts["skipped"]))
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet, "junit": write_junit}
