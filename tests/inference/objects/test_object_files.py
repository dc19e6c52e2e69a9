from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import roifile
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from keras_unet.data.images import read_labels
from keras_unet.data.stored_pixels import PixelSize
from keras_unet.data.tiff_windows import read_pixel_size
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects.measurements import measure
from keras_unet.inference.objects.object_formats import to_roi, write_csv
from keras_unet.inference.objects.object_writer import ObjectWriter, write_objects
from keras_unet.inference.objects.polygons import outlines


@pytest.fixture
def labels():
    """Objects with holes, with parts that touch at corners, and at the image's edges."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 50)), 1.2)
    return ndimage.label(noise > 0.05, np.ones((3, 3)))[0].astype(np.int32)


def rasterised(geometry, shape):
    """Pixels whose centre lies in the geometry."""
    y, x = np.indices(shape) + 0.5
    return shapely.contains_xy(geometry, x, y)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_geojson_is_what_qupath_reads(labels, tmp_path):
    image = np.random.default_rng(1).normal(size=labels.shape)
    image[labels == 2] = np.nan
    kinds = {n: "odd" if n % 2 else "even" for n in range(1, labels.max() + 1)}
    (path,) = write_objects(
        labels, tmp_path, "a", image=image, classes=kinds, pixel_size=0.5, formats=["geojson"]
    )
    assert path.name == "a_objects.geojson"
    written = json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN
    assert written["type"] == "FeatureCollection"
    assert len(written["features"]) == labels.max() > 5
    table = measure(labels, image, 0.5)
    colors = {}
    types = set()
    for row, feature in enumerate(written["features"]):
        number = int(table["label"][row])
        assert feature["type"] == "Feature"
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid and "plane" not in feature["geometry"]
        assert np.array_equal(rasterised(geometry, labels.shape), labels == number)
        for part in shapely.get_parts(geometry):
            assert part.exterior.is_ccw
        rings = feature["geometry"]["coordinates"]
        rings = rings if feature["geometry"]["type"] == "Polygon" else [r for p in rings for r in p]
        assert all(ring[0] == ring[-1] for ring in rings)  # GeoJSON closes them
        types.add((feature["geometry"]["type"], len(shapely.get_rings(geometry)) > 1))
        properties = feature["properties"]
        assert properties["objectType"] == "detection" and properties["name"] == str(number)
        kind = properties["classification"]
        assert kind["name"] == kinds[number]
        assert len(kind["color"]) == 3 and all(0 <= c <= 255 for c in kind["color"])
        assert colors.setdefault(kind["name"], kind["color"]) == kind["color"]
        assert properties["measurements"]["area_um2"] == table["area_um2"][row]
        assert ("mean_intensity" in properties["measurements"]) == (number != 2)
        assert all(isinstance(v, (int, float)) for v in properties["measurements"].values())
    assert {("Polygon", False), ("Polygon", True), ("MultiPolygon", False)} <= types
    assert colors["odd"] != colors["even"]


def roi_mask(roi, shape):
    """As ImageJ fills it: even-odd over all rings."""
    rings = [shapely.Polygon(ring) for ring in roi.coordinates(multi=True)]
    return np.logical_xor.reduce([rasterised(ring, shape) for ring in rings])


def test_rois_hold_the_same_pixels(labels, tmp_path):
    (path,) = write_objects(labels, tmp_path, "a", formats=["rois"])
    rois = roifile.roiread(path)
    assert [int(roi.name) for roi in rois] == list(range(1, labels.max() + 1))
    kinds = set()
    for roi in rois:
        inside = labels == int(roi.name)
        assert np.array_equal(roi_mask(roi, labels.shape), inside)
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        assert (roi.top, roi.bottom) == (rows[0], rows[-1] + 1)
        assert (roi.left, roi.right) == (columns[0], columns[-1] + 1)
        assert roi.position == 0
        kinds.add(roi.roitype)
    assert kinds == {roifile.ROI_TYPE.TRACED, roifile.ROI_TYPE.RECT}


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (5, 6)), st.sampled_from([0, 33_000, 70_000]))
def test_any_object_survives_the_roi_format(mask, far):
    """Also beyond 32,767 and 65,535, where 16-bit coordinates end."""
    for outline in outlines(mask.astype(np.uint8)):
        moved = tuple(tuple(ring + far for ring in polygon) for polygon in outline.polygons)
        roi = to_roi(outline._replace(polygons=moved), "x", color=(1, 2, 3), slice_number=4)
        again = roifile.ImagejRoi.frombytes(roi.tobytes())
        assert again.position == 5 and again.stroke_color == bytes((255, 1, 2, 3))
        rings = [np.asarray(ring) - far for ring in again.coordinates(multi=True)]
        inside = [rasterised(shapely.Polygon(ring), mask.shape) for ring in rings]
        assert np.array_equal(np.logical_xor.reduce(inside), mask)


def test_labels_keep_numbers_and_pixel_size(labels, tmp_path):
    size = PixelSize(height=0.5, width=0.25)
    (path,) = write_objects(labels, tmp_path, "a", pixel_size=size, formats=["labels"])
    assert np.array_equal(read_labels(path), labels) and read_pixel_size(path) == size
    with tifffile.TiffFile(path) as file:
        assert file.series[0].dtype == np.uint16
        across, down = (file.pages[0].tags[f"{axis}Resolution"].value for axis in "XY")
    assert across[0] / across[1] == 40_000 and down[0] / down[1] == 20_000  # pixels a centimetre
    (path,) = write_objects(labels * 70_000, tmp_path, "b", formats=["labels"])
    assert tifffile.imread(path).dtype == np.uint32
    assert np.array_equal(read_labels(path), labels * 70_000) and read_pixel_size(path) is None


def test_large_labels_are_tiled(tmp_path):
    large = np.arange(700 * 1100, dtype=np.int64).reshape(700, 1100) // 7
    (path,) = write_objects(large, tmp_path, "a", formats=["labels"])
    with tifffile.TiffFile(path) as file:
        assert (
            file.pages[0].is_tiled
            and file.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        )
        assert np.array_equal(file.asarray(), large)


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_tables_hold_every_measurement(labels, tmp_path, name):
    image = np.random.default_rng(1).normal(size=(*labels.shape, 2))
    (path,) = write_objects(
        labels, tmp_path, "a", image=image, pixel_size=0.3, formats=[name], channels=("r", "g")
    )
    expected = measure(labels, image, 0.3, channels=("r", "g"))
    if name == "csv":
        rows = rows_of(path)
        columns = {key: [row[key] for row in rows] for key in rows[0]}
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        columns = table.to_pydict()
        assert str(table.schema.field("area_px").type) == "int64"
        assert str(table.schema.field("class").type) == "string"
    assert list(columns) == ["label", "class", *list(expected)[1:]]
    assert set(columns.pop("class")) == {"cell"}
    exact = 5e-6 if name == "csv" else 1e-11  # 6 digits, for people
    for key, values in columns.items():
        np.testing.assert_allclose(np.array(values, float), expected[key], rtol=exact)


def test_a_csv_has_6_digits_or_2_places_and_whole_numbers_whole(tmp_path):
    numbers = [1 / 3, 67.20321497, 1234567.891, 50_000.0, 0.0, 2e-7 / 3, np.nan, -54321.987]
    table = {"float": np.array(numbers), "int": np.arange(8) + 123456789012}
    write_csv(tmp_path / "a.csv", table)
    rows = rows_of(tmp_path / "a.csv")
    expected = ["0.333333", "67.2032", "1234567.89", "50000", "0", "6.66667e-08", "", "-54321.99"]
    assert [row["float"] for row in rows] == expected
    assert rows[7]["int"] == "123456789019"


def test_a_stack_has_one_table_with_slices_in_order(labels, tmp_path):
    stack = np.stack([labels, np.zeros_like(labels), labels[::-1] * 70_000])
    kinds = ["a", "b", {70_000 * n: "c" for n in range(1, labels.max() + 1)}]
    paths = write_objects(
        stack,
        tmp_path,
        "s",
        classes=kinds,
        pixel_size=PixelSize(height=1, width=1, depth=2),
        formats=["labels", "csv", "geojson", "rois", "parquet"],
    )
    names = [
        "s_labels.tif",
        "s_objects.csv",
        "s_objects.geojson",
        "s_rois.zip",
        "s_objects.parquet",
    ]
    assert [path.name for path in paths] == names == sorted_like(names, tmp_path)
    with tifffile.TiffFile(paths[0]) as file:
        assert file.series[0].axes == "ZYX" and file.series[0].dtype == np.uint32
        assert np.array_equal(file.asarray(), stack)
    assert read_pixel_size(paths[0]) == PixelSize(height=1, width=1, depth=2)
    count = labels.max()
    rows = rows_of(paths[1])
    assert [row["slice"] for row in rows] == ["0"] * count + ["2"] * count
    assert [row["class"] for row in rows] == ["a"] * count + ["c"] * count
    assert rows[-1]["label"] == str(70_000 * count)
    features = json.loads(paths[2].read_text())["features"]
    planes = [feature["geometry"].get("plane") for feature in features]
    assert planes == [None] * count + [{"c": -1, "z": 2, "t": 0}] * count
    rois = roifile.roiread(paths[3])
    assert [roi.position for roi in rois] == [1] * count + [3] * count
    assert len({roi.name for roi in rois}) == 2 * count


def sorted_like(names, folder):
    """What lies in the folder, hidden files too, in the order of `names`."""
    return sorted((path.name for path in folder.iterdir()), key=names.index)


def test_an_image_without_objects_has_files_too(tmp_path):
    formats = ["labels", "csv", "geojson", "rois", "parquet"]
    paths = write_objects(np.zeros((9, 8), np.uint8), tmp_path / "new", "none", formats=formats)
    assert read_labels(paths[0]).shape == (9, 8)
    assert len(paths[1].read_text().splitlines()) == 1
    assert json.loads(paths[2].read_text())["features"] == []
    assert pytest.importorskip("pyarrow.parquet").read_table(paths[4]).num_rows == 0


def test_nothing_half_written_is_left(labels, tmp_path):
    write_objects(labels, tmp_path, "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="slice 1 is"), ObjectWriter(tmp_path, "a", stack=True) as w:
        w.add(labels)
        w.add(labels[:5])
    tables = ObjectWriter(tmp_path, "a", formats=["csv"], stack=True)
    with pytest.raises(DataError, match="different measurements"), tables:
        tables.add(labels)
        tables.add(labels, image=labels)
    with pytest.raises(DataError, match="no image was added"), ObjectWriter(tmp_path, "a"):
        pass
    with pytest.raises(KeyboardInterrupt), ObjectWriter(tmp_path, "b") as writer:
        writer.add(labels)
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bad_requests_are_refused(labels, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="got xls"):
        write_objects(labels, tmp_path, "a", formats=["csv", "xls"])
    with pytest.raises(ConfigError, match="got none"):
        write_objects(labels, tmp_path, "a", formats=[])
    with pytest.raises(ConfigError, match="pixel_size"):
        write_objects(labels, tmp_path, "a", pixel_size=-1.0)
    with pytest.raises(DataError, match="no entry for object 2"):
        write_objects(labels, tmp_path, "a", classes={1: "x"})
    with pytest.raises(DataError, match="image has 2 slices, instances 1"):
        write_objects(labels[None], tmp_path, "a", image=np.zeros((2, *labels.shape)))
    with pytest.raises(DataError, match="integer labels"):
        write_objects(labels / 2, tmp_path, "a")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"unet-keras\[parquet\]"):
        write_objects(labels, tmp_path, "a", formats=["parquet"])
    assert list(tmp_path.iterdir()) == []
