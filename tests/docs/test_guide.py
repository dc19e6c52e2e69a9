"""The guide to the U-Net: its code runs, prints what stands below it, and its numbers are true."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import keras_unet
from keras_unet import geometry
from keras_unet.training.config import TrainConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = (DOCS / "guide.md").read_text(encoding="utf-8")
PROSE = " ".join(re.sub(r"^```.*?^```$", "", GUIDE, flags=re.DOTALL | re.MULTILINE).split())
PAGE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """Runs every python block in one namespace; a `text` block right below holds its output."""
    blocks = [*PAGE.finditer(GUIDE), None]
    assert sum(b is not None and b.group(1) == "python" for b in blocks) > 20
    names: dict[str, Any] = {"__name__": "guide"}
    for block, after in pairwise(blocks):
        if block.group(1) != "python":
            continue
        printed = io.StringIO()
        line = GUIDE[: block.start()].count("\n") + 1
        code = compile("\n" * line + block.group(2), "docs/guide.md", "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)  # the project's own page
        follows = after is not None and not GUIDE[block.end() : after.start()].strip()
        expected = after.group(2) if follows and after.group(1) == "text" else ""
        assert strip(printed.getvalue()) == strip(expected), f"docs/guide.md, line {line}"
    return names


def strip(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def test_the_code_runs_and_prints_what_the_page_says(ran):
    first, last = ran["losses"][0], ran["losses"][-1]
    assert 0 < last < first
    assert ran["by_tiles"].shape == (*ran["image"].shape, 2)


def test_the_table_of_levels_is_the_networks(ran):
    layers = {layer.name: layer.output.shape for layer in ran["model"].layers}

    def sizes(first: str, last: str) -> str:
        return f"{layers[first][1]} → {layers[last][1]}"

    for level, cut in zip(range(4, 0, -1), geometry.crops(4), strict=True):
        before = "image" if level == 1 else f"down{level - 1}_pool"
        left = sizes(before, f"down{level}_conv2")
        right = sizes(f"up{level}_concat", f"up{level}_conv2")
        channels = layers[f"down{level}_conv2"][3]
        assert f"| {level} | {left} | {channels} | {cut} | {right} |" in GUIDE
    left = sizes("down4_pool", "bridge_conv2")
    assert f"| bridge | {left} | {layers['bridge_conv2'][3]} |  |  |" in GUIDE


def test_the_numbers_in_the_text_are_true(ran):
    model = ran["model"]
    kernels = [layer for layer in model.layers if layer.weights]
    work, seen, step = (
        {},
        1,
        1,
    )  # multiplications; pixels seen, pixels a step
    for layer in model.layers:
        if layer.name.endswith("_pool"):
            seen, step = seen + step, 2 * step
        elif layer.name.startswith(("down", "bridge")):
            seen += 2 * step
            if layer.name.endswith("conv2"):
                size, channels = layer.output.shape[2:]
                work[layer.name] = size**2 * 9 * channels**2
    low, high = round(min(work.values()) / 1e9), round(max(work.values()) / 1e9)
    cut = 512 * 512 * 3 // (64 * 64 * 4)
    stated = (
        f"{model.count_params():,} parameters are the numbers",
        f"Its {len(kernels)} convolutions",
        f"{model.input_shape[1]} pixels go in and {model.output_shape[1]} come out",
        f"between {low} and {high} billion multiplications",
        f"Each of the 28 × 28 places sees {seen} × {seen} pixels",
        f"only to {step} pixels",
        f"a **margin** of {geometry.margin(4)} pixels",
        f"up to {geometry.receptive_field(4)} × {geometry.receptive_field(4)} pixels",
        f"`depth=5` ({geometry.receptive_field(5)} pixels)",
        f"384 pixels further, not {geometry.output_size(572)}",
        f"only steps of {geometry.stride(4)} pixels",
        f"{cut} times fewer numbers",
    )
    for sentence in stated:
        assert sentence in PROSE, sentence


def test_what_the_guide_says_of_the_trainer_is_its_default():
    config = TrainConfig.model_validate({"data": {"images": "images"}})
    assert (config.optimizer, config.batch_size) == ("adam", 2)
    assert (config.model.filters, config.model.normalization) == (16, "batch")
    assert (config.augment, config.loss.class_weights) == ("paper", "balanced")
    assert "`keras-unet train`: Adam, two tiles at a time" in GUIDE
    assert "`keras-unet train`: 16 filters with batch normalization" in GUIDE


def test_the_dropout_layers_have_the_names_that_are_told():
    names = {layer.name for layer in keras_unet.build_unet(filters=2, dropout=0.5).layers}
    told = set(re.findall(r"`(\w+_dropout)`", GUIDE))
    assert told == {name for name in names if name.endswith("_dropout")}


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", GUIDE)
    assert len(links) > 10
    for link in links:
        if link.startswith("#"):
            assert link[1:] in slugs, link
        else:
            assert (DOCS / link).is_file(), link
