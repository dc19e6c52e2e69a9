from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from keras_unet.inference.objects import measurements, polygons
from keras_unet.inference.objects.polygons import outlines

LABELS = arrays(
    np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 5])
)


def filled(rings, shape):
    """Pixels whose centres the rings enclose, by the even-odd rule: one pixel, one ray."""
    inside = np.zeros(shape, bool)
    for y, x in np.ndindex(*shape):
        for ring in rings:
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if x0 == x1 and x0 > x and min(y0, y1) <= y < max(y0, y1):
                    inside[y, x] ^= True
    return inside


def check(labels):
    found = list(outlines(labels))
    assert [outline.label for outline in found] == sorted(set(labels.ravel().tolist()) - {0})
    for outline in found:
        rings = [ring for polygon in outline.polygons for ring in polygon]
        assert np.array_equal(filled(rings, labels.shape), labels == outline.label)
        shape = shapely.MultiPolygon([(p[0], p[1:]) for p in outline.polygons])
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == (labels == outline.label).sum()
        for outer, *holes in outline.polygons:
            assert shapely.LinearRing(outer).is_ccw
            assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)
        for ring in rings:
            steps = np.roll(ring, -1, axis=0) - ring
            turns = steps != 0
            assert (turns.sum(axis=1) == 1).all()  # along pixel edges
            assert (turns != np.roll(turns, 1, axis=0)).all()  # corners only
            assert ring.dtype == np.int32 and tuple(ring[0]) == min(
                map(tuple, ring.tolist()), key=lambda point: point[::-1]
            )


@settings(max_examples=150, deadline=None)
@given(LABELS)
def test_outlines_give_the_pixels_back(labels):
    check(labels)


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, (7, 8), elements=st.integers(0, 1)), st.integers(1, 30), st.integers(1, 60))
def test_neither_bands_nor_groups_matter(labels, band, group):
    numbers = np.arange(56).reshape(7, 8) // 5 * labels
    expected = [(o.label, [[r.tolist() for r in p] for p in o.polygons]) for o in outlines(numbers)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurements, "BAND_PIXELS", band)
        patch.setattr(polygons, "_GROUP", group)
        again = [
            (o.label, [[r.tolist() for r in p] for p in o.polygons]) for o in outlines(numbers)
        ]
    assert again == expected


def one(rows):
    (outline,) = outlines(np.array([[int(c) for c in row] for row in rows]))
    return [[ring.tolist() for ring in polygon] for polygon in outline.polygons]


def test_pixels_that_touch_at_a_corner_are_two_polygons():
    assert one(["10", "01"]) == [
        [[[0, 0], [1, 0], [1, 1], [0, 1]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2]]],
    ]


def test_a_hole_that_touches_the_outline_stays_a_hole():
    ring = [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]
    hole = [[1, 1], [1, 2], [2, 2], [2, 1]]
    assert one(["111", "101", "110"]) == [[ring, hole]]


def test_an_island_in_a_hole_is_a_polygon_of_its_own():
    rows = ["1111111", "1000001", "1011101", "1010101", "1011101", "1000001", "1111111"]
    polygon, island = one(rows)
    assert [len(polygon), len(island)] == [2, 2]
    assert polygon[1] == [[1, 1], [1, 6], [6, 6], [6, 1]]
    assert island[1] == [[3, 3], [3, 4], [4, 4], [4, 3]]


def test_holes_find_their_part_past_other_holes():
    rows = ["1111101111111", "1010101010101", "1111101111111"]
    first, second = one(rows)
    assert [len(first), len(second)] == [3, 4]
    assert [hole[0] for hole in second[1:]] == [[7, 1], [9, 1], [11, 1]]


def test_a_tongue_in_a_hole_leads_back_to_the_outline():
    rows = ["1111111", "1001001", "1001001", "1000001", "1111111"]
    assert [len(polygon) for polygon in one(rows)] == [2]


def test_large_numbers_and_nothing():
    labels = np.zeros((3, 4), np.uint32)
    assert (
        list(outlines(labels)) == list(outlines(labels[:0])) == list(outlines(labels[:, :0])) == []
    )
    labels[1, 2] = 4_000_000_000
    ((number, ((ring,),)),) = outlines(labels)
    assert number == 4_000_000_000
    assert ring.tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]


def test_real_nuclei(shared):
    from keras_unet.data import read_labels

    labels = read_labels(min((shared / "data/dsb2018_fluo/val/labels").iterdir()))
    area = np.bincount(labels.ravel())
    found = list(outlines(labels))
    assert len(found) == np.count_nonzero(area[1:])
    for number, parts in found:
        assert shapely.MultiPolygon([(p[0], p[1:]) for p in parts]).area == area[number]
