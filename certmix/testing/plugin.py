"""pytest plugin: `pytest --certmix-certifier module:function` adds one test per law. Inert without the option.

Imports nothing of torch or hypothesis before the option is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--certmix-certifier, --certmix-protocol, --certmix-norms, --certmix-laws, --certmix-budget."""
    group = parser.getgroup("certmix", "soundness laws for certifiers of robustness")
    group.addoption("--certmix-certifier", metavar="MODULE:FUNCTION", help="try certmix's laws on this certifier")
    group.addoption("--certmix-protocol", help="what it answers (see certmix soundness --help; default mix)")
    group.addoption("--certmix-norms", help="comma-separated norms to ask it about")
    group.addoption("--certmix-laws", help="comma-separated names of the laws to try (default: all of the protocol)")
    group.addoption("--certmix-budget", default="5m", help="time for all laws together (default 5m)")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Load the certifier early, so that a wrong name is one clear line."""
    spec = session.config.getoption("--certmix-certifier")
    if spec:
        from certmix.errors import UsageError
        from certmix.testing.protocol import load

        try:
            load(spec, session.config.getoption("--certmix-protocol"), _norms(session.config))
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[Any]) -> None:
    """One item per law, behind whatever else was collected."""
    if config.getoption("--certmix-certifier"):
        root = LawCollector.from_parent(session, name="certmix")
        items.extend(root.collect())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """How much was tried."""
    if config.getoption("--certmix-certifier"):
        for text in config.stash.get(SUMMARY, []):
            terminalreporter.write_line(text)


SUMMARY: pytest.StashKey[list[str]] = pytest.StashKey()


class LawCollector(pytest.Collector):
    """The laws of the certifier's protocol."""

    def collect(self) -> Iterator[pytest.Item]:
        from certmix.testing.laws import laws_of
        from certmix.testing.protocol import load
        from certmix.testing.words import seconds

        config = self.config
        certifier = load(
            str(config.getoption("--certmix-certifier")), config.getoption("--certmix-protocol"), _norms(config)
        )
        only = (config.getoption("--certmix-laws") or "").split(",")
        wanted = laws_of(certifier.protocol, [name for name in only if name])
        laws = [law for law in wanted if not law.needs or certifier.takes(law.needs)]
        share = seconds(str(config.getoption("--certmix-budget"))) / len(laws)
        for law in laws:
            yield LawItem.from_parent(self, name=law.name, law=law, certifier=certifier, share=share)


class LawItem(pytest.Item):
    """One law: fails where a soundness law breaks or nothing was answered, warns where a quality law breaks."""

    def __init__(self, *, law: Any, certifier: Any, share: float, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.law: Any = law
        self.certifier: Any = certifier
        self.share: float = share

    def runtest(self) -> None:
        from certmix.testing.reproduce import script
        from certmix.testing.runner import run_law
        from certmix.testing.words import line

        result = run_law(self.law, self.certifier, self.share, 0, min(15.0, 0.3 * self.share))
        self.config.stash.setdefault(SUMMARY, []).append(line(result))
        if result.status == "broken" and result.broken is not None:
            raise LawBrokenError(f"{result.broken.evidence}\n\n{script(self.certifier, result.broken)}")
        if result.status == "could not run":
            raise LawBrokenError(f"the certifier answered no question: {result.crash}")
        if result.status == "warning" and result.broken is not None:
            self.warn(pytest.PytestWarning(f"{self.law.name}: {result.broken.evidence}"))
        if result.status == "no claims":
            pytest.skip("the certifier claimed nothing, so nothing was tested")

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        if isinstance(excinfo.value, LawBrokenError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, f"certmix: {self.law.name}"


class LawBrokenError(Exception):
    """A soundness law broke; the text holds a script that shows it."""


def _norms(config: pytest.Config) -> list[str] | None:
    text = config.getoption("--certmix-norms")
    return text.split(",") if text else None
