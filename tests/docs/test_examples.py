"""The examples, each run as it stands in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WRITTEN = {
    "keras_script": ("cells.keras", "overlay.png"),
    "own_images": ("runs/*/report.html", "runs/*/best.keras"),
    "serve_and_call": ("saved_models/cells/1/saved_model.pb",),
}


def test_each_is_described():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == set(WRITTEN)
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}.py]({name}.py)" in page for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_an_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for pattern in WRITTEN[name]:
        assert list((tmp_path / name).glob(pattern)), f"{pattern}: {done.stdout[-1000:]}"
