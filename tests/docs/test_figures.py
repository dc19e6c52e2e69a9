"""The guide's figures show what the package computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module", autouse=True)
def drawing():
    """The figures' code is no package: it is found beside docs/figures.py."""
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


def test_the_small_grids_are_those_of_the_text():
    from drawing import arithmetic

    text = (DOCS / "guide.md").read_text(encoding="utf-8")
    for grid in (arithmetic.PIXELS, arithmetic.EDGE, arithmetic.STRONG):
        assert str(grid.tolist()) in text
    for grid in (arithmetic.COARSE, arithmetic.SPREAD):
        assert str(grid.tolist()) in text
    for result in (
        arithmetic.convolve(arithmetic.PIXELS, arithmetic.EDGE),
        arithmetic.max_pool(arithmetic.STRONG),
        arithmetic.up_convolve(arithmetic.COARSE, arithmetic.SPREAD),
    ):
        assert str(result) in text
    assert arithmetic.convolve(np.eye(3), np.arange(9).reshape(3, 3)) == 0 + 4 + 8


def test_every_figure_is_shown_can_be_drawn_and_is_stored():
    import figures

    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for name, draw in figures.FIGURES.items():
        assert f"](figures/{name}.png)" in text
        stored = DOCS / "figures" / f"{name}.png"
        assert stored.stat().st_size <= 2 * figures.LIMIT  # a photograph with a palette
        size = tuple(int(inches * figures.DPI) for inches in draw().get_size_inches())
        with Image.open(stored) as picture:
            assert picture.size == pytest.approx(size, abs=1)
