"""The changes that docs/contributing.md shows can be made as they stand, in three files at most."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
CHANGES = re.findall(r"^## (.*?)$.*?^```diff\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_there_are_four():
    names = ["A loss", "A format of masks", "An augmentation", "A block of the network"]
    assert [name for name, _ in CHANGES] == names


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_change_applies(name, change, tmp_path):
    files = re.findall(r"^\+\+\+ b/(.*)$", change, re.MULTILINE)
    assert 1 <= len(files) <= 3
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    command = ["git", "apply", "--unidiff-zero", "-"]
    done = subprocess.run(
        command, input=change, text=True, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for file in files:
        changed = (tmp_path / file).read_text(encoding="utf-8")
        assert changed != (ROOT / file).read_text(encoding="utf-8")
        compile(changed, file, "exec")
