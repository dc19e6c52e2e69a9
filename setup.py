"""Everything is declared in pyproject.toml, but the guide that the explorer's page links to."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DOCS = Path(__file__).parent / "docs"


class BuildWithGuide(build_py):
    """Copies docs/guide.md and its figures beside the page; in a checkout it reads docs/ itself."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "keras_unet" / "explorer" / "assets" / "guide"
        text = (DOCS / "guide.md").read_text(encoding="utf-8")
        for name in ("guide.md", *re.findall(r"\]\((figures/[\w-]+\.png)\)", text)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(DOCS / name, target / name)


setup(cmdclass={"build_py": BuildWithGuide})
