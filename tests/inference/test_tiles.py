"""Tiles cover every image once, at origins that the pooling allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.inference import tiles


@given(st.integers(1, 40), st.integers(-200, 0), st.integers(1, 300))
def test_mirrored_is_numpys_reflection(size, start, length):
    stop = start + length
    before, after = -start, max(stop - size, 0)
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(tiles.mirrored(start, stop, size), padded[: stop - start])


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 700)),
    st.integers(1, 4),
    st.sampled_from(["valid", "same"]),
    st.one_of(st.none(), st.integers(300, 900)),
)
def test_every_pixel_is_computed_once(size, depth, padding, max_tile):
    axes = tiles.plan(size, depth, padding, max_tile)
    covered = np.zeros(size, np.int8)
    for tile in tiles.tiles(size, axes):
        covered[tile.output] += 1
        assert tile.rows.shape == (axes[0].tile,)
        assert tile.columns.shape == (axes[1].tile,)
        for out, inside, axis in zip(tile.output, tile.inside, axes, strict=True):
            assert out.start % geometry.stride(depth) == 0
            assert out.stop - out.start == inside.stop - inside.start
            assert inside.stop <= axis.output
            assert max_tile is None or axis.tile <= max_tile
    assert (covered == 1).all()


def test_the_papers_tile():
    axis, _ = tiles.plan((1000, 1), 4, "valid", 572)
    assert (axis.tile, axis.output, axis.context, axis.step, axis.repeats) == (572, 388, 92, 384, 3)


def test_a_small_image_gets_the_smallest_tile():
    assert tiles.plan((388, 20), 4, "valid", 572)[0].tile == 572
    assert tiles.plan((388, 20), 4, "valid", 572)[1].tile == 204


def test_a_tile_that_is_too_small():
    with pytest.raises(ConfigError, match="tile 190.*204"):
        tiles.plan((1000, 1000), 4, "valid", 190)


@pytest.mark.parametrize(("depth", "padding"), [(7, "valid"), (6, "same"), (8, "valid")])
def test_a_deep_network_gets_a_tile_that_can_be_repeated(depth, padding):
    axis, _ = tiles.plan((5000, 100), depth, padding)
    assert axis.tile > tiles.USUAL_TILE
    assert axis.step % geometry.stride(depth) == 0
    assert axis.repeats * axis.step >= 5000
