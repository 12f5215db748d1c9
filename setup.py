"""What pyproject.toml cannot say: the bundled pair of examples/digits stands inside the wheel, for `certmix demo`."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("README.md", "audit.toml", "audit.npz", "standard.onnx", "robust.onnx")


class WithDigits(build_py):
    """build_py, and the example's files; nothing in an editable install, where the source itself is there."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "certmix" / "bundled" / "digits"
            target.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                shutil.copyfile(Path("examples/digits") / name, target / name)


setup(cmdclass={"build_py": WithDigits})
