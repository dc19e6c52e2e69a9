"""Images composed by copy-paste of objects."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from keras_unet.data.copy_paste import HALO, composed
from keras_unet.data.pipeline import targets
from keras_unet.data.samples import Sample

SIDE, STEP = 160, 40


def discs(name, radius=7, background=20, object_=120, dtype=np.uint8, channels=1):
    """Nine whole discs that touch nothing, and one that the image's border cuts."""
    y, x = np.mgrid[:SIDE, :SIDE]
    instances = np.zeros((SIDE, SIDE), np.int32)
    places = [(r, c) for r in range(STEP, SIDE, STEP) for c in range(STEP, SIDE, STEP)]
    for number, (row, column) in enumerate([*places, (0, 20)], 1):
        instances[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = number
    image = np.where(instances > 0, object_, background).astype(dtype)
    image = np.repeat(image[..., None], channels, axis=-1)
    return Sample(name, image, (instances > 0).astype(np.int32), instances)


def pasted(sample, original):
    """The numbers of the objects that the original does not have."""
    return range(original.instances.max() + 1, sample.instances.max() + 1)


def touches(labels, number):
    """Does this object share a side of a pixel with another?"""
    mask = labels == number
    around = ndimage.binary_dilation(mask) & ~mask
    return bool((labels[around] > 0).any())


def test_image_labels_and_classes_change_together():
    one, other = discs("a"), discs("b", radius=9)
    made = composed([one, other], 1.5, seed=3)
    assert len(made) == 3 and len({s.name for s in made}) == 3
    for sample in made:
        original = one if sample.name.startswith("a+") else other
        assert sample.image.dtype == np.uint8 and sample.border is None
        np.testing.assert_array_equal(sample.classes, sample.instances > 0)
        new = np.isin(sample.instances, list(pasted(sample, original)))
        assert 1 <= len(pasted(sample, original)) <= 10
        far = ndimage.distance_transform_edt(~new) > HALO
        np.testing.assert_array_equal(sample.image[far], original.image[far])
        np.testing.assert_array_equal(sample.instances[~new], original.instances[~new])
        assert (sample.image[new] > 100).all()
    assert {s.name[0] for s in made} == {"a", "b"}


def test_the_same_seed_gives_the_same_images():
    samples = [discs("a"), discs("b")]
    first, again, other = (composed(samples, 1.0, seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.instances, two.instances)
    assert any((a.image != b.image).any() for a, b in zip(first, other, strict=True))


def test_about_half_of_the_pasted_objects_touch_another_and_none_hides_one():
    samples = [discs("a"), discs("b")]
    area = int((samples[0].instances == 1).sum())
    touching = total = 0
    for sample in composed(samples, 10.0):
        new = pasted(sample, samples[0])
        touching += sum(touches(sample.instances, number) for number in new)
        total += len(new)
        sizes = np.bincount(sample.instances.ravel())[1:10]
        assert sizes.min() >= 0.6 * area  # each pasted one covers a tenth at most
    assert total > 80
    assert 0.4 < touching / total < 0.8  # those beside which another is put later count too


def test_touching_objects_are_separated_in_the_targets():
    samples = [discs("a"), discs("b")]
    sample = max(
        composed(samples, 4.0),
        key=lambda s: sum(touches(s.instances, n) for n in pasted(s, samples[0])),
    )
    (made,) = targets([sample], 2, w0=5.0, class_weights="none")
    apart = ndimage.label(made.classes)[1]
    assert apart > ndimage.label(sample.classes)[1]
    assert apart >= len(np.unique(sample.instances)) - 1
    assert made.weight.max() > 3


@pytest.mark.parametrize("turned", [False, True])
def test_objects_take_the_contrast_of_the_image_they_are_pasted_into(turned):
    """Bright or dark ones, and three channels as well as one."""
    grey = (lambda v: 255 - v) if turned else (lambda v: v)
    bright = discs("bright", background=grey(20), object_=grey(140), channels=3)
    dim = discs("dim", background=grey(60), object_=grey(110), channels=3)
    made = [s for s in composed([bright, dim], 12.0) if s.name.startswith("dim+")]
    means = []
    for sample in made:
        for number in pasted(sample, dim):
            mask = sample.instances == number
            if not touches(sample.instances, number):
                means.append(sample.image[mask].mean())
    assert len(means) > 5
    np.testing.assert_allclose(means, grey(110), atol=1)


def test_objects_of_another_size_or_the_other_side_of_the_background_stay_where_they_are():
    small, large = discs("small", radius=4), discs("large", radius=12)
    dark = discs("dark", background=200, object_=100)
    made = composed([small, large, dark], 4.0)
    for original in (small, large, dark):
        area = np.bincount(original.instances.ravel())[1:10].max()
        for sample in (s for s in made if s.name.startswith(f"{original.name}+")):
            sizes = np.bincount(sample.instances.ravel())[original.instances.max() + 1 :]
            assert sizes.max() == area
            new = np.isin(sample.instances, list(pasted(sample, original)))
            colour = original.image[original.instances == 1].mean()
            assert abs(float(np.median(sample.image[new])) - colour) <= 1


def test_pixels_that_do_not_count_are_left_alone():
    sample = discs("a")
    sample.classes[:, 90:] = -1
    for made in composed([sample], 5.0):
        np.testing.assert_array_equal(made.classes == -1, sample.classes == -1)
        np.testing.assert_array_equal(made.image[:, 95:], sample.image[:, 95:])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_range_of_the_numbers_is_kept(dtype):
    high = 65_000 if dtype == np.uint16 else 1e5
    sample = discs("a", background=500, object_=high, dtype=dtype)
    (made,) = composed([sample], 1.0)
    assert made.image.dtype == dtype
    new = np.isin(made.instances, list(pasted(made, sample)))
    assert made.image[new].min() > 0.9 * high  # nothing wraps around
    assert np.isfinite(made.image).all()


def test_where_nothing_can_be_pasted_there_are_none():
    sample = discs("a")
    corner = slice(0, 10), slice(0, 40)  # the disc that the border cuts
    cut = Sample("cut", sample.image[corner], sample.classes[corner], sample.instances[corner])
    assert cut.classes.any()
    flat = Sample("flat", np.full_like(sample.image, 9), sample.classes, sample.instances)
    nothing = np.zeros((30, 30), np.int32)
    empty = Sample("empty", np.zeros((30, 30, 1), np.uint8), nothing, nothing)
    assert composed([empty, flat, cut], 3.0) == []
    assert composed([sample], 0.0) == []
    assert [s.name for s in composed([empty, sample], 1.0)] == ["a+1", "a+2"]


def test_objects_may_have_any_numbers():
    sample = discs("a")
    large = np.where(sample.instances > 0, sample.instances + 2**30, 0).astype(np.int32)
    (made,) = composed([Sample("large", sample.image, sample.classes, large)], 1.0)
    (same,) = composed([sample], 1.0)
    np.testing.assert_array_equal(made.instances, same.instances)
