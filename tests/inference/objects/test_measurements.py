from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.draw import disk
from skimage.measure import perimeter_crofton, regionprops

from keras_unet.data.stored_pixels import PixelSize
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects import measurements
from keras_unet.inference.objects.measurements import measure


def second_moments(ys, xs, height, width):
    """Axes of the ellipse of the pixels as squares: 4 sqrt of the covariance's eigenvalues."""
    covariance = np.cov(np.stack([ys * height, xs * width]), bias=True) if len(ys) > 1 else 0
    squares = np.diag([height**2 / 12, width**2 / 12])
    return 4 * np.sqrt(np.linalg.eigvalsh(covariance + squares))


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int32, (6, 7), elements=st.sampled_from([0, 0, 1, 2, 9])),
    st.booleans(),
    st.sampled_from([1, 13, 1 << 22]),
)
def test_every_column_equals_brute_force(instances, colour, band):
    shape = (6, 7, 3) if colour else (6, 7)
    image = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurements, "BAND_PIXELS", band)
        table = measure(instances, image, (0.5, 0.2))
    regions = regionprops(instances, image)
    assert table["label"].tolist() == [region.label for region in regions]
    for row, region in enumerate(regions):
        found = {name: column[row].item() for name, column in table.items()}
        inside = instances == region.label
        ys, xs = np.nonzero(inside)
        minor, major = second_moments(ys, xs, 1, 1)
        minor_um, major_um = second_moments(ys, xs, 0.5, 0.2)
        corners = [
            (x + a, y + b) for y, x in zip(ys, xs, strict=True) for a in (0, 1) for b in (0, 1)
        ]
        top, left, bottom, right = region.bbox
        expected = {
            "label": region.label,
            "area_px": region.area,
            "centroid_y_px": region.centroid[0],
            "centroid_x_px": region.centroid[1],
            "equivalent_diameter_px": region.equivalent_diameter_area,
            "box_top_px": top,
            "box_left_px": left,
            "box_bottom_px": bottom,
            "box_right_px": right,
            "at_border": int(top == 0 or left == 0 or bottom == 6 or right == 7),
            "perimeter_px": perimeter_crofton(inside, directions=4),
            "major_axis_px": major,
            "minor_axis_px": minor,
            "eccentricity": np.sqrt(max(1 - (minor / major) ** 2, 0)),
            "solidity": region.area / shapely.MultiPoint(corners).convex_hull.area,
            "area_um2": region.area * 0.1,
            "centroid_y_um": region.centroid[0] * 0.5,
            "centroid_x_um": region.centroid[1] * 0.2,
            "equivalent_diameter_um": region.equivalent_diameter_area * np.sqrt(0.1),
            "major_axis_um": major_um,
            "minor_axis_um": minor_um,
        }
        for number, end in enumerate(("_0", "_1", "_2") if colour else ("",)):
            values = image.reshape(6, 7, -1)[..., number][inside].astype(float)
            expected[f"mean_intensity{end}"] = values.mean()
            expected[f"min_intensity{end}"] = values.min()
            expected[f"max_intensity{end}"] = values.max()
            expected[f"sum_intensity{end}"] = values.sum()
        assert found.pop("perimeter_um") > 0
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_disc_and_an_ellipse_in_micrometres():
    """Pixels of 0.5 x 0.25 µm: the disc of 20 µm is an ellipse in pixels."""
    y, x = np.mgrid[:100, :200]
    instances = ((((y - 50) * 0.5) ** 2 + ((x - 100) * 0.25) ** 2) <= 10**2).astype(int)
    table = {name: column[0] for name, column in measure(instances, pixel_size=(0.5, 0.25)).items()}
    assert table["equivalent_diameter_um"] == pytest.approx(20, rel=5e-3)
    assert table["perimeter_um"] == pytest.approx(20 * np.pi, rel=0.02)
    assert table["major_axis_um"] == pytest.approx(20, rel=5e-3)
    assert table["minor_axis_um"] == pytest.approx(20, rel=5e-3)
    assert table["major_axis_px"] == pytest.approx(80, rel=5e-3)
    assert table["eccentricity"] == pytest.approx(np.sqrt(0.75), rel=5e-3)
    assert table["solidity"] > 0.96


def test_a_perimeter_scales_with_the_pixel():
    instances = np.zeros((60, 60), int)
    instances[disk((30, 30), 20)] = 1
    one, two = measure(instances), measure(instances, pixel_size=PixelSize(height=2, width=2))
    assert one["perimeter_px"] == pytest.approx([40 * np.pi], rel=0.02)
    assert two["perimeter_um"] == pytest.approx(2 * one["perimeter_px"])
    assert two["equivalent_diameter_um"] == pytest.approx(2 * one["equivalent_diameter_px"])


def test_channels_have_their_names():
    instances = np.array([[0, 3, 3]], np.uint8)
    image = np.array([[[9.0, 9.0], [1.0, -5.0], [3.0, np.inf]]])
    table = measure(instances, image, channels=("DAPI", "GFP"))
    assert table["mean_intensity_DAPI"] == [2] and table["min_intensity_GFP"] == [-5]
    assert table["sum_intensity_GFP"] == [np.inf]
    with pytest.raises(DataError, match="1 channel names for 2"):
        measure(instances, image, channels=["DAPI"])


def test_sums_of_deep_images_are_exact():
    instances = np.ones((300, 300), np.uint16)
    table = measure(instances, np.full((300, 300), 65535, np.uint16))
    assert table["sum_intensity"] == [65535 * 90_000] and table["mean_intensity"] == [65535]


def test_nothing_is_measured_of_nothing():
    for shape in ((4, 5), (0, 5), (4, 0)):
        table = measure(np.zeros(shape, bool), np.zeros((*shape, 2)), 0.5)
        assert len(table) == 30 and all(column.size == 0 for column in table.values())


def test_bad_tables_are_refused():
    labels = np.ones((4, 4), int)
    with pytest.raises(DataError, match="integer labels"):
        measure(labels / 2)
    with pytest.raises(DataError, match="label -1"):
        measure(-labels)
    with pytest.raises(DataError, match="image must be"):
        measure(labels, np.ones((3, 3)))
    with pytest.raises(DataError, match="numbers"):
        measure(labels, np.full((4, 4), "x"))
    for size in (0.0, (1.0, -1.0), np.inf, np.nan):
        with pytest.raises(ConfigError, match="pixel_size"):
            measure(labels, pixel_size=size)


def test_labels_beyond_int64_are_refused_not_lost():
    with pytest.raises(DataError, match="expected less than 2"):
        measure(np.full((3, 3), 2**63, np.uint64))
