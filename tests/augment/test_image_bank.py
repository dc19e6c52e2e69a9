"""The bank: what it stores, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_unet.augment.image_bank import ImageBank
from keras_unet.errors import DataError

A = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
B = np.arange(10, dtype=np.uint8).reshape(2, 5, 1)


def test_images_lie_in_rows_of_one_length():
    bank = ImageBank.from_arrays([A, B], [A[..., 0].astype(np.int64), B[..., 0].astype(np.int64)])
    assert len(bank.height) == 2 and bank.pitch == 5
    assert bank.offset.numpy().tolist() == [0, 15]
    pixels = bank.image.numpy()[:, 0]
    np.testing.assert_array_equal(pixels[:15].reshape(3, 5)[:, :4], A[..., 0])
    np.testing.assert_array_equal(pixels[15:25].reshape(2, 5), B[..., 0])
    assert len(pixels) == 25 + 5 + 1  # the last pixel's neighbours exist
    assert bank.image.dtype == "uint8" and bank.label.dtype == "uint8" and bank.weight is None


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_each_image_stands_whole_at_its_place(sizes, seed):
    rng = np.random.default_rng(seed)
    images = [rng.integers(1, 256, (*size, 2)).astype(np.uint8) for size in sizes]
    bank = ImageBank.from_arrays(images)
    pixels, taken = bank.image.numpy(), np.zeros(len(bank.image), int)
    for image, offset in zip(images, bank.offset.numpy(), strict=True):
        rows, columns = (np.arange(size) for size in image.shape[:2])
        index = offset + rows[:, None] * bank.pitch + columns
        np.testing.assert_array_equal(pixels[index], image)
        again = [np.minimum(np.arange(max(2, n)), n - 1) for n in image.shape[:2]]
        rows, columns = (np.arange(len(one)) for one in again)
        index = offset + rows[:, None] * bank.pitch + columns
        np.testing.assert_array_equal(pixels[index], image[np.ix_(*again)])
        taken[index] += 1
        assert index.max() + bank.pitch + 1 < len(pixels)
    assert taken.max() == 1


def test_a_wide_image_among_many_small_ones_takes_little_room():
    images = [np.ones((64, 6400, 1), np.uint8)] + 100 * [np.ones((64, 64, 1), np.uint8)]
    used = sum(image.size for image in images)
    assert len(ImageBank.from_arrays(images).image) < 1.02 * used


@pytest.mark.parametrize(
    ("top", "dtype"), [(255, "uint8"), (256, "uint16"), (65_536, "int32"), (-1, "int32")]
)
def test_labels_are_stored_as_small_as_they_fit(top, dtype):
    label = np.zeros((3, 4), np.int64)
    label[1, 1] = top
    bank = ImageBank.from_arrays([A], [label])
    assert bank.label.dtype == dtype and int(bank.label[bank.pitch + 1]) == top


def test_statistics_and_normalisation_are_per_image_and_channel():
    image = np.stack([A[..., 0], 2 * A[..., 0]], axis=-1)
    bank = ImageBank.from_arrays([image], shift=[1.0, 2.0], scale=0.5)
    expected = [image.mean((0, 1)), image.std((0, 1)), image.min((0, 1)), image.max((0, 1))]
    for found, value in zip(bank.statistics, expected, strict=True):
        np.testing.assert_allclose(found.numpy()[0], value, rtol=1e-6)
    assert bank.shift.numpy().tolist() == [[1.0, 2.0]] and bank.scale.numpy().tolist() == [
        [0.5, 0.5]
    ]


BAD = [
    (([],), "at least one image"),
    (([A[..., 0]],), r"image 0 must be \[height, width, channels\]; found shape \(3, 4\)"),
    (([A.astype(np.int64)],), "uint8, uint16 or float32; found int64"),
    (([A, np.repeat(B, 3, -1)],), "image 1 has 3 channels of uint8; image 0 has 1"),
    (([A], [B[..., 0]]), r"label 0 has shape \(2, 5\); its image is \(3, 4\)"),
    (([A], []), "found 0 labels for 1 images"),
    (([A], [np.zeros((3, 4))]), "integer dtype; found float64"),
    (([A], [np.full((3, 4), 2**40)]), "fit int32"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:18] for _, message in BAD])
def test_bad_arrays(arguments, message):
    with pytest.raises(DataError, match=message):
        ImageBank.from_arrays(*arguments)
