"""Pixels that were never measured: out of the statistics, of the loss and of the scores."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data import LabelRule, Normalization, check_data, find_pairs, load_samples
from keras_unet.data.images import ImageFile, read_image
from keras_unet.data.pipeline import fill_bank, fitted, targets
from keras_unet.data.stored_pixels import as_nan, filled, missing_pixels
from keras_unet.data.tiff_windows import TiffWindows
from keras_unet.errors import DataError
from keras_unet.inference.inputs import Rows

RNG = np.random.default_rng(5)
SHAPE = (40, 48)
HOLE = np.zeros(SHAPE, bool)
HOLE[:6] = HOLE[20:23, 10:30] = True
CASES = [
    ("uint8", 0, "0"),
    ("uint8", 255, "255 "),
    ("uint16", 65535, "65535"),
    ("int16", -9999, "-9999"),
    ("int32", -2147483648, "-2147483648"),
    ("float32", -9999, "-9999"),
    ("float32", np.finfo("f4").min, "-3.40282346638529e+38"),
    ("float64", -1.7976931348623157e308, "-1.7976931348623157e+308"),
    ("float32", np.nan, "nan"),
    ("float32", np.nan, None),
    ("float16", np.nan, None),
]
LAYOUTS = [{}, {"compression": "zlib", "rowsperstrip": 7}, {"tile": (16, 16)}]


def _picture(dtype, value, channels=1):
    pixels = RNG.integers(20, 200, (*SHAPE, channels)).astype(dtype)
    pixels[HOLE] = value
    return pixels


def _write(path, pixels, tag=None, mask=None, **options):
    extra = [] if tag is None else [(42113, 2, 0, tag, True)]
    photometric = "rgb" if pixels.shape[2] == 3 else "minisblack"
    data = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    with tifffile.TiffWriter(path) as file:
        file.write(data, extratags=extra, metadata=None, photometric=photometric, **options)
        if mask is not None:
            file.write(mask, subfiletype=4, metadata=None)
    return path


def _whole(path):
    """What windows give of a file: pixels, what is missing, shift and scale."""
    with TiffWindows(path) as file:
        page = file.page(0)
        windows = [(slice(a, min(a + 11, SHAPE[0])), slice(0, SHAPE[1])) for a in range(0, 40, 11)]
        parts = [page.read(*window) for window in windows]
        missing = [page.missing(*window, part) for window, part in zip(windows, parts, strict=True)]
        none = np.zeros(SHAPE, bool)
        found = [none[w[0]] if m is None else m for w, m in zip(windows, missing, strict=True)]
        return np.concatenate(parts), np.concatenate(found), Normalization().parameters(Rows(page))


@pytest.mark.parametrize(("dtype", "value", "tag"), CASES)
@pytest.mark.parametrize("options", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_value_that_stands_for_no_pixel(tmp_path, dtype, value, tag, options, channels):
    pixels = _picture(dtype, value, channels)
    path = _write(tmp_path / "a.tif", pixels, tag, **options)
    with ImageFile(path) as file:
        image, missing = file.measured()
    np.testing.assert_array_equal(missing, HOLE)
    np.testing.assert_array_equal(image[~HOLE], pixels[~HOLE].astype(image.dtype))
    if image.dtype.kind == "f":
        np.testing.assert_array_equal(np.isnan(read_image(path)).any(-1), HOLE)
    windows, seen, parameters = _whole(path)
    np.testing.assert_array_equal(seen, HOLE)
    np.testing.assert_array_equal(windows[~HOLE], image[~HOLE])
    measured = as_nan(image, missing)
    shift, scale = Normalization().parameters(measured)
    inside = pixels[~HOLE].astype(np.float64)
    np.testing.assert_allclose(shift, inside.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale, 1 / inside.std(0), rtol=1e-5)
    np.testing.assert_array_equal(parameters, (shift, scale))
    assert not Normalization()(measured)[HOLE].any()


@pytest.mark.parametrize("options", LAYOUTS)
@pytest.mark.parametrize("first", [0, 1])
def test_a_transparency_mask(tmp_path, options, first):
    pixels = _picture("uint8", 7)
    mask = ~HOLE if first == 0 else (~HOLE).astype(bool)
    path = _write(tmp_path / "a.tif", pixels, mask=mask, **options)
    with ImageFile(path) as file:
        assert len(file) == 1 and file.left_out == ("mask 40x48",)
        np.testing.assert_array_equal(file.measured()[1], HOLE)
    np.testing.assert_array_equal(_whole(path)[1], HOLE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_with_the_image(tmp_path, orientation):
    pixels = _picture("int16", -9999)
    turned = [(274, 3, 1, orientation, True)]
    extra = [*turned, (42113, 2, 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels[..., 0], extratags=extra, metadata=None)
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(pixels[..., 0], extratags=turned, metadata=None)
        file.write(~HOLE, subfiletype=4, metadata=None)
    for name in "ab":
        with ImageFile(tmp_path / f"{name}.tif") as file, TiffWindows(file.path) as windows:
            image, missing = file.measured()
            np.testing.assert_array_equal(missing, image[..., 0] == -9999)
            window = slice(0, image.shape[0]), slice(0, image.shape[1])
            read = windows.page(0).read(*window)
            np.testing.assert_array_equal(windows.page(0).missing(*window, read), missing)


def test_white_is_zero_and_tags_that_mean_nothing(tmp_path):
    pixels = _picture("uint8", 0)
    path = tmp_path / "a.tif"
    extra = [(42113, 2, 0, "0", True)]
    tifffile.imwrite(path, pixels[..., 0], photometric="miniswhite", extratags=extra)
    with ImageFile(path) as file:
        image, missing = file.measured()
    np.testing.assert_array_equal(missing, HOLE)
    assert (image[HOLE] == 255).all()
    for tag in ("-9999", "256", "0.5", "none", ""):
        with ImageFile(_write(path, pixels, tag)) as file:
            assert file.measured()[1] is None


def test_black_in_one_channel_is_a_colour_and_a_hole_in_one_band_is_a_hole():
    colour = np.full((4, 4, 3), 9, np.uint8)
    colour[0, 0] = 0
    colour[1, 1, 0] = 0
    assert np.argwhere(missing_pixels(colour, 0)).tolist() == [[0, 0]]
    bands = colour.astype(np.int16)
    bands[1, 1, 0] = bands[0, 0] = -1
    assert np.argwhere(missing_pixels(bands, -1)).tolist() == [[0, 0], [1, 1]]
    assert missing_pixels(colour) is None and missing_pixels(bands, 77) is None


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_what_is_missing_is_filled_in_its_type(dtype):
    pixels = np.array([[[10, 1], [13, 2]], [[0, 0], [11, 4]]], dtype)
    missing = np.array([[False, False], [True, False]])
    out = filled(pixels, missing)
    assert out.dtype == pixels.dtype and np.allclose(out[1, 0], [11.33, 2.33], atol=0.34)
    assert (filled(pixels, missing, np.array([300.0, -1e9]))[~missing] == pixels[~missing]).all()
    assert filled(pixels, None) is pixels


def _set(folder, dtype="int16", value=-9999, tag="-9999", count=3, whole=False):
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        pixels = _picture(dtype, value)
        if whole and number == 1:
            pixels[:] = value
        _write(folder / "images" / f"{number}.tif", pixels, tag)
        labels = np.zeros(SHAPE, np.uint8)
        labels[10:18, 8:30] = labels[2:5] = 1
        labels[0] = 99  # lies where nothing was measured
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("dtype", "value", "tag"),
    [("uint8", 0, "0"), ("int16", -9999, "-9999"), ("float32", np.nan, None)],
)
@pytest.mark.parametrize("method", ["image", "dataset", "range"])
def test_it_counts_nowhere_in_training(tmp_path, dtype, value, tag, method):
    samples, report = load_samples(_set(tmp_path, dtype, value, tag), rule=LabelRule())
    (note,) = (n for n in report.notes if "never measured" in n)
    assert note.startswith(f"{HOLE.mean():.1%} of the pixels of 3 images were never measured")
    expected = np.zeros(SHAPE, int)
    expected[10:18, 8:30] = expected[2:5] = 1
    for sample in samples:
        np.testing.assert_array_equal(sample.classes, np.where(HOLE, -1, expected))
        assert np.isfinite(sample.image).all() and sample.image.dtype == dtype
    inside = (expected[~HOLE] > 0).mean()
    assert report.summary.class_fractions == pytest.approx((1 - inside, inside))
    made = targets(samples, 2)
    assert all((t.weight[HOLE] == 0).all() and (t.weight[~HOLE] > 0).all() for t in made)
    if method == "range" and dtype == "float32":
        samples = [
            s.__class__(s.name, s.image / 255, s.classes, missing=s.missing) for s in samples
        ]
    found = fitted(method, samples)
    values = np.concatenate([s.image[~HOLE] for s in samples]).astype(np.float64)
    if method == "dataset":
        assert found.mean == pytest.approx([values.mean()]) and found.std == pytest.approx(
            [values.std()]
        )
    bank = fill_bank(samples, made, found)
    for k, sample in enumerate(samples):
        own = sample.image[~HOLE].astype(np.float64)
        stored = [float(part[k, 0]) for part in bank.statistics]
        assert stored == pytest.approx([own.mean(), own.std(), own.min(), own.max()], rel=1e-5)
        shift, scale = float(bank.shift[k, 0]), float(bank.scale[k, 0])
        first = int(bank.offset[k])
        assert abs((float(bank.image[first, 0]) - shift) * scale) <= 0.5 * scale + 1e-6


def test_an_image_without_a_measured_pixel_is_named(tmp_path):
    (problem,) = check_data(find_pairs(_set(tmp_path, whole=True))).problems
    assert "images/1.tif: holds no measured pixel, all are nodata" in str(problem)
    with pytest.raises(DataError, match="holds no measured pixel"):
        Normalization().parameters(np.full((4, 4, 1), np.nan, np.float32))


def test_infinite_values_stay_an_error(tmp_path):
    data = _set(tmp_path, "float32", np.nan, None)
    pixels = read_image(data / "images/1.tif")
    pixels[30, 30] = np.inf
    _write(data / "images/1.tif", pixels)
    (problem,) = check_data(find_pairs(data)).problems
    assert "1.tif: holds 1 values that are infinite" in str(problem)


@pytest.mark.parametrize(("dtype", "value", "tag"), [CASES[0], CASES[3], CASES[8]])
def test_records_keep_it(tmp_path, dtype, value, tag):
    from keras_unet.data.records import encode_example, read_record

    (sample, *_), _ = load_samples(_set(tmp_path, dtype, value, tag), rule=LabelRule())
    labels = np.maximum(sample.classes, 0)
    data = encode_example("a", sample.measured, labels, dtype=sample.image.dtype)
    raw = read_record(data, tmp_path, 0, LabelRule())
    assert not raw.problems
    again = raw.sample(LabelRule().resolve((0, 1)))
    for one, other in (
        (again.image, sample.image),
        (again.missing, sample.missing),
        (again.classes, sample.classes),
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
