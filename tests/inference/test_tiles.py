"""Tiles cover every image once, at origins that the pooling allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.inference import tiles
from keras_unet.inference.tiles import axis_weights

depths = st.integers(1, 4)
paddings = st.sampled_from(["valid", "same"])
upsamplings = st.sampled_from(["transpose", "nearest", "bilinear"])


@given(st.integers(1, 40), st.integers(-200, 0), st.integers(1, 300))
def test_mirrored_is_numpys_reflection(size, start, length):
    stop = start + length
    before, after = -start, max(stop - size, 0)
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(tiles.mirrored(start, stop, size), padded[: stop - start])


@settings(deadline=None)
@given(st.integers(1, 3000), depths, paddings, upsamplings, st.booleans(), st.integers(0, 600))
def test_every_pixel_is_computed_once(size, depth, padding, upsampling, symmetric, more):
    form = tiles.layout(depth, padding, upsampling, symmetric=symmetric)
    largest = form.smallest + more
    axis = tiles.abutting(size, form, largest)
    assert axis.tile <= largest
    geometry.output_size(axis.tile, depth, padding)  # legal
    assert axis.step % form.stride == 0 or axis.repeats == 1
    assert (axis.repeats - 1) * axis.step < size <= axis.repeats * axis.step
    # What is used lies within the output, and within what sees no padding.
    output = geometry.output_size(axis.tile, depth, padding)
    before, after = geometry.padded_edges(depth, upsampling)
    if padding == "same":
        before = after = geometry.reach(depth, upsampling)
    assert before <= axis.lead and axis.lead % form.stride == 0
    assert axis.lead + axis.used <= output - after
    if symmetric and padding == "valid":
        assert axis.lead + axis.used <= output - before
    # A tile with one pixel less a side would not do with as many.
    smaller = axis.tile - form.stride
    assert axis.repeats * ((smaller - form.lost) // form.stride * form.stride) < size
    # The tile as a limit gives the same plan again.
    assert tiles.abutting(size, form, axis.tile) == axis


def test_the_papers_tile():
    form = tiles.layout(4, "valid")
    assert (form.stride, form.context, form.lead, form.lost) == (16, 92, 0, 184)
    axis = tiles.abutting(1152, form, 572)
    assert axis == tiles.Axis(572, 92, 0, 384, 384, 3)
    assert tiles.abutting(1000, form, 572) == tiles.Axis(524, 92, 0, 336, 336, 3)  # balanced


def test_a_small_image_gets_the_smallest_tile():
    form = tiles.layout(4, "valid")
    assert tiles.abutting(388, form, 572) == tiles.Axis(572, 92, 0, 388, 388, 1)
    assert tiles.abutting(20, form, 572).tile == 204
    assert tiles.abutting(1, form, 572).tile == 188


def test_a_tile_that_is_too_small():
    with pytest.raises(ConfigError, match="tile 190.*204"):
        tiles.abutting(1000, tiles.layout(4, "valid"), 190)
    with pytest.raises(ConfigError, match="tile 31.*32"):
        tiles.overlapping(1000, tiles.layout(4, "same", cut=False), 31, 0.25)


@settings(deadline=None)
@given(
    st.integers(1, 3000),
    depths,
    st.integers(0, 300),
    st.floats(0.01, 0.5),
    st.sampled_from(["gaussian", "flat"]),
)
def test_overlapping_tiles_share_every_pixel_fairly(size, depth, more, overlap, blend):
    form = tiles.layout(depth, "same", cut=False)
    axis = tiles.overlapping(size, form, 2 * form.stride + more, overlap)
    weights = axis_weights(axis, blend)
    assert weights.shape == (axis.repeats, axis.used) and (weights > 0).all()
    total, tiles_here = np.zeros(axis.repeats * axis.tile), np.zeros(axis.repeats * axis.tile, int)
    for number, weight in enumerate(weights):
        here = slice(number * axis.step, number * axis.step + axis.used)
        total[here] += weight
        tiles_here[here] += 1
    np.testing.assert_allclose(total[:size], 1, atol=1e-6)
    assert set(tiles_here[:size]) <= {1, 2}
    if axis.repeats > 1:
        assert axis.tile % form.stride == axis.step % form.stride == 0
        assert 2 in tiles_here[:size]
        assert axis.step * 2 >= axis.tile
    assert tiles.overlapping(size, form, axis.tile, overlap) == axis
