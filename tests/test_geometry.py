"""keras_unet.geometry against a step-by-step walk through the network's layers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_unet import geometry
from keras_unet.errors import ConfigError


def walk(size: int, depth: int) -> tuple[int, list[int]] | None:
    """Output size and crops of a valid U-Net, one layer at a time; None where a layer fails."""
    skips, crops = [], []
    for _ in range(depth):
        size -= 4
        if size < 1 or size % 2:
            return None
        skips.append(size)
        size //= 2
    size -= 4
    for skip in reversed(skips):
        size *= 2
        if size < 1 or (skip - size) % 2:
            return None
        crops.append((skip - size) // 2)
        size -= 4
    return (size, crops) if size >= 1 else None


def test_the_papers_numbers():
    assert geometry.output_size(572) == 388
    assert geometry.input_size(388) == 572
    assert geometry.crops(depth=4) == (4, 16, 40, 88)
    assert geometry.margin() == 92
    assert geometry.output_size((572, 700)) == (388, 516)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_every_size_agrees_with_the_walk(depth):
    legal = {size: walk(size, depth) for size in range(1, 900)}
    legal = {size: found for size, found in legal.items() if found}
    for size in range(1, 900):
        if size in legal:
            out, crops = legal[size]
            assert geometry.output_size(size, depth) == out
            assert list(geometry.crops(depth)) == crops
            assert size - out == 2 * geometry.margin(depth)
        else:
            with pytest.raises(ConfigError):
                geometry.output_size(size, depth)
    for out in range(1, 400):
        assert geometry.input_size(out, depth) == min(n for n, f in legal.items() if f[0] >= out)


def test_an_illegal_size_names_the_two_nearest():
    with pytest.raises(ConfigError, match="573.*572 and 588"):
        geometry.output_size(573)
    with pytest.raises(ConfigError, match="nearest legal size is 188"):
        geometry.output_size((572, 20))


@given(st.integers(1, 10_000), st.integers(1, 6))
def test_same_padding_keeps_every_size(size, depth):
    assert geometry.output_size(size, depth, "same") == size
    assert geometry.input_size(size, depth, "same") == size
    assert geometry.crops(depth, "same") == (0,) * depth
    assert geometry.margin(depth, "same") == 0


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "4"])
def test_bad_depth(bad):
    with pytest.raises(ConfigError, match="depth"):
        geometry.crops(depth=bad)


@pytest.mark.parametrize("bad", [0, 2.5, "572", (1, 2, 3)])
def test_bad_size(bad):
    with pytest.raises(ConfigError):
        geometry.input_size(bad)


def test_bad_padding():
    with pytest.raises(ConfigError, match="full"):
        geometry.margin(padding="full")
