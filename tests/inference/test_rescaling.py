"""Interpolation: against Pillow, by windows, and around pixels that were never measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_unet.errors import DataError
from keras_unet.inference.inputs import ArraySource
from keras_unet.inference.rescaling import (
    BICUBIC,
    BILINEAR,
    Interpolation,
    Rescaled,
    resized,
    resized_bands,
)

RNG = np.random.default_rng(0)
SIDE = st.integers(1, 90)


@pytest.mark.parametrize(
    ("kernel", "pillow"),
    [
        (BILINEAR, Image.Resampling.BILINEAR),
        (BICUBIC, Image.Resampling.BICUBIC),
    ],
)
@pytest.mark.parametrize("size", [(100, 80), (21, 13), (50, 37), (5, 4), (1, 1), (499, 3)])
def test_it_is_what_pillow_gives(kernel, pillow, size):
    image = RNG.random((50, 37)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], pillow))
    np.testing.assert_allclose(resized(image, size, kernel), expected, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE), st.integers(1, 3), st.data())
def test_a_window_is_a_part_of_the_whole(given_size, size, channels, data):
    image = RNG.random((*given_size, channels)).astype(np.float32)
    image[RNG.random(given_size) < 0.2] = np.nan
    whole = _whole(Rescaled(ArraySource(image), size))
    assert whole.shape == (*size, channels)
    window = []
    for length in size:
        start = data.draw(st.integers(0, length - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, length))))
    part = Rescaled(ArraySource(image), size).read(*window)
    np.testing.assert_allclose(part, whole[tuple(window)], rtol=1e-5, atol=1e-6)  # float32 sums


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE), st.integers(1, 40), st.data())
def test_bands_are_parts_of_the_whole(given_size, size, step, data):
    values = RNG.random((*given_size, 2)).astype(np.float32)
    whole = resized(values, size)
    rows, columns = (Interpolation(n, m, BILINEAR) for n, m in zip(given_size, size, strict=True))
    first = data.draw(st.integers(0, size[0] - 1))
    needed = rows.span(slice(first, first + 1)).start
    starts = range(needed - needed % step, given_size[0], step)
    bands = ((slice(n, min(n + step, given_size[0])), values[n : n + step]) for n in starts)
    made = list(resized_bands(bands, rows, columns, first))
    spans = [span for span, _ in made]
    assert (spans[0].start, spans[-1].stop) == (first, size[0])
    assert [span.start for span in spans[1:]] == [span.stop for span in spans[:-1]]
    np.testing.assert_array_equal(np.concatenate([band for _, band in made]), whole[first:])


def test_a_long_image_is_read_and_given_by_strips():
    class Recorded(ArraySource):
        def read(self, rows, columns):
            heights.append(rows.stop - rows.start)
            return super().read(rows, columns)

    heights: list[int] = []
    Rescaled(Recorded(np.zeros((20_000, 3), np.uint8)), (2_000, 1)).read(
        slice(0, 2_000), slice(0, 1)
    )
    assert max(heights) <= 512 + 40 and sum(heights) < 1.1 * 20_000
    rows, columns = Interpolation(40, 4_000, BILINEAR), Interpolation(3, 3, BILINEAR)
    bands = iter([(slice(0, 40), np.zeros((40, 3, 1), np.float32))])
    assert max(len(band) for _, band in resized_bands(bands, rows, columns, 0)) == 512


def test_pixels_that_were_never_measured_change_no_others():
    image = np.full((60, 60, 1), 7.0, np.float32)
    image[20:40, 20:40] = np.nan
    for size in ((30, 30), (120, 120), (91, 47)):
        seen = Rescaled(ArraySource(image), size)
        found = _whole(seen)[..., 0]
        assert seen.incomplete
        np.testing.assert_allclose(found[np.isfinite(found)], 7, rtol=1e-6)
        assert np.isnan(found).mean() == pytest.approx(1 / 9, abs=0.02)
    seen = Rescaled(ArraySource(image[:10]), (20, 20))
    assert np.isfinite(_whole(seen)).all() and not seen.incomplete


def test_infinite_values_are_named_by_the_images_own_rows():
    image = np.zeros((90, 20), np.float32)
    image[70:72, 3] = np.inf
    with pytest.raises(DataError, match="infinite values in rows 0 to 90"):
        _whole(Rescaled(ArraySource(image), (30, 30)))


def _whole(seen: Rescaled) -> np.ndarray:
    return seen.read(slice(0, seen.shape[0]), slice(0, seen.shape[1]))
