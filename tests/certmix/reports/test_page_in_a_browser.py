"""The page in a real browser: nothing is complained of, nothing runs over, the table sorts and filters."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest
from headless_browser import CHROMIUM, Browser, browser

from certmix.__main__ import main
from certmix.reports import page
from certmix.reports.reading import read

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not looked at")
WIDTHS = (400, 1200)
VERDICTS = "[...document.querySelectorAll('#inputs tbody tr')].map(tr => tr.children[3].textContent)"
CELLS = "[...document.querySelectorAll('#inputs tbody tr')].map(tr => tr.children[{}].textContent)"


@pytest.fixture(scope="module")
def tab() -> Generator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of largest radii, one of a fixed radius with all verdicts, and one of 200 inputs."""
    folder = tmp_path_factory.mktemp("pages")
    config = ["audit", "--config", str(digits / "audit.toml"), "--attack-steps", "0"]
    models = ["--standard", str(digits / "standard.onnx"), "--robust", str(digits / "robust.onnx")]
    fixed = ["audit", *models, "--data", str(digits / "audit.npz"), "--alpha", "0.75", "--limit", "24"]
    assert main([*config, "--limit", "6", "--out", str(folder / "largest")]) == 0
    assert main([*fixed, "--radius", "0.15", "--out", str(folder / "fixed")]) == 0
    for name in ("largest", "fixed"):
        assert main(["report", str(folder / name)]) == 0
    shutil.copytree(folder / "fixed", folder / "many")
    found = read(folder / "many", None, 5)
    inputs = tuple(dataclasses.replace(found.inputs[k % 24], index=k % 24) for k in range(200))
    clean = {n: dataclasses.replace(of, classes=(of.classes * 9)[:200]) for n, of in found.clean.items()}
    survivors = {n: (kept * 9)[:200] for n, kept in found.survivors.items()}
    page.write(dataclasses.replace(found, inputs=inputs, clean=clean, survivors=survivors))
    return {name: folder / name / "report.html" for name in ("largest", "fixed", "many")}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["largest", "fixed"])
def test_nothing_runs_over_and_nothing_is_complained_of(
    tab: Browser, pages: dict[str, Path], name: str, dark: bool, width: int
):
    tab.complaints.clear()
    tab.requests.clear()
    tab.open(pages[name], width, dark)
    tab.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.value("innerWidth") == width
    assert tab.value("document.documentElement.scrollWidth") == width
    beyond = "[...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert tab.value(f"{beyond}.map(e => e.outerHTML.slice(0, 80))") == []
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_ink_stands_out_from_the_paper(tab: Browser, pages: dict[str, Path], dark: bool):
    tab.open(pages["largest"], 1200, dark)
    body = "getComputedStyle(document.body)"
    ink, paper = (
        [int(v) / 255 for v in re.findall(r"\d+", tab.value(f"{body}.{name}"))[:3]]
        for name in ("color", "backgroundColor")
    )
    assert (sum(paper) < 1) == dark
    light, shade = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    assert (light + 0.05) / (shade + 0.05) > 7  # WCAG 2, level AAA


def _luminance(colour: list[float]) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_filters_sorts_and_searches(tab: Browser, pages: dict[str, Path], width: int):
    tab.open(pages["fixed"], width)
    assert tab.value("document.getElementById('all').open") is False  # folded at first
    everything = tab.value(VERDICTS)
    assert len(everything) == 24
    kinds = set(everything)
    assert len(kinds) >= 2
    for kind in kinds:
        tab.value(f"document.querySelector('#filters button[value={json.dumps(kind)}]').click()")
        assert tab.value(VERDICTS) == [kind] * everything.count(kind)
    tab.value("document.querySelector('#filters button[value=\"\"]').click()")
    assert tab.value(VERDICTS) == everything
    for column, direction in ((0, -1), (1, 1), (1, -1)):
        tab.value(f"document.querySelectorAll('#inputs th button')[{column}].click()")
        shown = [float(text) for text in tab.value(CELLS.format(column)) if text]
        assert shown == sorted(shown, reverse=direction < 0)
        assert len(set(shown)) > 1
    tab.value(
        "(() => { const e = document.getElementById('search'); e.value = 'attackable';"
        " e.dispatchEvent(new Event('input')); })()"
    )
    assert tab.value(VERDICTS) == ["attackable"] * everything.count("attackable")


def test_the_csv_inside_is_the_one_that_downloads(tab: Browser, pages: dict[str, Path]):
    tab.open(pages["fixed"])
    inside = re.search(r'id="data">(.*?)</script>', pages["fixed"].read_text(encoding="utf-8"), re.DOTALL)
    assert inside
    downloaded = tab.value("fetch(document.getElementById('csv').href).then(r => r.text())")
    assert downloaded == json.loads(inside.group(1))
    assert tab.value("document.getElementById('csv').download") == "inputs.csv"


def test_a_long_table_is_compressed_and_shown_all_the_same(
    tab: Browser, pages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    tab.open(pages["fixed"])
    everything = tab.value(VERDICTS)
    whole = tab.value("fetch(document.getElementById('csv').href).then(r => r.text())")
    monkeypatch.setattr(page, "PLAIN", 100)
    folder = pages["fixed"].parent
    before = pages["fixed"].read_bytes()
    try:
        assert main(["report", str(folder)]) == 0
        assert b",attackable," not in pages["fixed"].read_bytes()
        tab.complaints.clear()
        tab.open(pages["fixed"])
        there = "new Promise(done => { const look = () => document.querySelector('#inputs tbody tr') ? done(true) : "
        assert tab.value(there + "setTimeout(look, 10); look(); })")
        assert tab.value(VERDICTS) == everything
        assert tab.value("fetch(document.getElementById('csv').href).then(r => r.text())") == whole
        assert tab.complaints == []
    finally:
        pages["fixed"].write_bytes(before)


def test_two_hundred_inputs_print_on_five_pages(tab: Browser, pages: dict[str, Path]):
    tab.open(pages["many"])
    assert 1 <= len(re.findall(rb"/Type\s*/Page[^s]", tab.pdf())) <= 5
