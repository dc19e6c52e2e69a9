"""Files that are part of a set, or hold several images, masks and reduced images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data import check_data, find_pairs, tiff
from keras_unet.data.images import ImageFile, count_pages, read_image
from keras_unet.data.tiff import TiffStack
from keras_unet.data.tiff_windows import TiffWindows

RNG = np.random.default_rng(3)
HEAD = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{uuid}>'


def _ome(images, own, names, with_uuid=True):
    """OME-XML of a set: each image is (sizes by axis, [(file, IFD, {T, Z, C})])."""
    text = HEAD.format(uuid=f' UUID="urn:uuid:{own}"' if with_uuid else "")
    for number, (sizes, planes) in enumerate(images):
        dims = " ".join(f'Size{axis}="{sizes.get(axis, 1)}"' for axis in "XYCZT")
        text += (
            f'<Image ID="Image:{number}" Name="i{number}"><Pixels ID="Pixels:{number}" '
            f'DimensionOrder="XYCZT" Type="uint8" {dims}>'
        )
        text += "".join(
            f'<Channel ID="Channel:{number}:{c}" SamplesPerPixel="1"/>'
            for c in range(sizes.get("C", 1))
        )
        for file, ifd, at in planes:
            first = " ".join(f'First{axis}="{k}"' for axis, k in at.items())
            text += (
                f'<TiffData IFD="{ifd}" PlaneCount="1" {first}>'
                f'<UUID FileName="{names[file]}">urn:uuid:{file}</UUID></TiffData>'
            )
        text += "</Pixels></Image>"
    return text + "</OME>"


def _write_set(folder, kind, options=None, with_uuid=True):
    """Three files of a set and the images [n, H, W, C] that each should give."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"w{k}.ome.tif" for k in range(3)]
    sizes = {"X": 20, "Y": 16}
    data = RNG.integers(0, 255, (3, 6, 16, 20)).astype(np.uint8)
    if kind == "positions":  # three images, each of 3 Z and 2 C
        images = []
        for k in range(3):
            places = [{"Z": z, "C": c} for z in range(3) for c in range(2)]
            planes = [(k, ifd, at) for ifd, at in enumerate(places)]
            images.append(({**sizes, "Z": 3, "C": 2}, planes))
        expected = data.reshape(3, 3, 2, 16, 20).transpose(0, 1, 3, 4, 2)
    elif kind == "times":  # one image of 3 T, 3 Z, 2 C; a file a time
        places = [{"T": t, "Z": z, "C": c} for t in range(3) for z in range(3) for c in range(2)]
        images = [
            (
                {**sizes, "T": 3, "Z": 3, "C": 2},
                [(at["T"], n % 6, at) for n, at in enumerate(places)],
            )
        ]
        expected = data.reshape(3, 3, 2, 16, 20).transpose(0, 1, 3, 4, 2)
    elif kind == "channels":  # one image of 3 C x 6 Z; a file a channel
        places = [{"Z": z, "C": c} for c in range(3) for z in range(6)]
        images = [({**sizes, "Z": 6, "C": 3}, [(at["C"], at["Z"], at) for at in places])]
        expected = data[..., None]
    else:  # planes of an image scattered over the files: no block
        places = [{"Z": z} for z in range(18)]
        order = [(z % 3, z // 3) for z in range(17)] + [(2, 5)]
        images = [
            ({**sizes, "Z": 18}, [(f, i, at) for (f, i), at in zip(order, places, strict=True)])
        ]
        expected = data[..., None]
    for k, name in enumerate(names):
        xml = _ome(images, k, names, with_uuid)
        with tifffile.TiffWriter(folder / name, ome=False) as file:
            for ifd, plane in enumerate(data[k]):
                text = xml.encode() if ifd == 0 else None
                file.write(plane, description=text, metadata=None, **(options or {}))
    return [folder / name for name in names], expected


@pytest.mark.parametrize("kind", ["positions", "times", "channels", "scattered"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "lzw", "rowsperstrip": 4}, {"tile": (16, 16)}],
)
@pytest.mark.parametrize("with_uuid", [True, False])
def test_a_file_of_a_set_is_its_own_planes(tmp_path, kind, options, with_uuid):
    files, expected = _write_set(tmp_path, kind, options, with_uuid)
    for path, images in zip(files, expected, strict=True):
        with warnings.catch_warnings(), ImageFile(path) as file, TiffWindows(path) as windows:
            warnings.simplefilter("error")
            assert len(file) == len(windows) == len(images)
            for page, image in enumerate(images):
                np.testing.assert_array_equal(file.image(page), image)
                window = windows.page(page).read(slice(3, 16), slice(2, 19))
                np.testing.assert_array_equal(window, image[3:16, 2:19])


@pytest.mark.parametrize("kind", ["positions", "times", "channels"])
def test_a_file_of_a_set_reads_alone_and_renamed(tmp_path, kind):
    files, expected = _write_set(tmp_path / "set", kind)
    alone = tmp_path / "another name.tif"
    alone.write_bytes(files[1].read_bytes())
    assert np.array_equal([read_image(alone, k) for k in range(len(expected[1]))], expected[1])


def test_a_companion_says_which_planes_are_whose(tmp_path):
    files, expected = _write_set(tmp_path, "times")
    with tifffile.TiffFile(files[0]) as file:
        xml = file.ome_metadata
    (tmp_path / "set.companion.ome").write_text(xml.replace('urn:uuid:0"', 'urn:uuid:9"', 1))
    for k, path in enumerate(files):
        head = HEAD.format(uuid=f' UUID="urn:uuid:{k}"')
        only = head + '<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:9"/></OME>'
        with tifffile.TiffFile(path) as file:
            planes = [page.asarray() for page in file.pages]
        with tifffile.TiffWriter(path, ome=False) as file:
            for ifd, plane in enumerate(planes):
                text = only.encode() if ifd == 0 else None
                file.write(plane, description=text, metadata=None)
        assert np.array_equal([read_image(path, z) for z in range(3)], expected[k])
    (tmp_path / "set.companion.ome").unlink()
    assert count_pages(files[0]) == 6  # nothing says what they are


def test_times_of_a_set_are_as_many_pairs_as_files(tmp_path):
    for kind in ("images", "labels"):
        _write_set(tmp_path / kind, "channels")
    pairs = find_pairs(tmp_path)
    assert len(pairs) == 18 and len({(pair.image, pair.image_page) for pair in pairs}) == 18
    assert not any("equal pixels" in note for note in check_data(pairs).notes)


def test_several_images_in_one_file_are_pages(tmp_path):
    macro, scan, other = (RNG.integers(0, 255, (n, n + 4)).astype(np.uint8) for n in (12, 40, 40))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for name, array in (("macro image", macro), ("scan", scan), ("pos2", other)):
            file.write(array, metadata={"axes": "YX", "Name": name})
    assert count_pages(tmp_path / "a.ome.tif") == 3
    for page, array in enumerate((macro, scan, other)):
        np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif", page)[..., 0], array)
    with TiffWindows(tmp_path / "a.ome.tif") as windows:
        assert [shape[:2] for shape in windows.shapes] == [(12, 16), (40, 44), (40, 44)]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("flag", [1, 4, 5])
@pytest.mark.parametrize("shape", [(10, 12), (40, 48)])
def test_masks_and_reduced_images_are_no_pages(tmp_path, first, flag, shape):
    scan = RNG.integers(0, 255, (40, 48)).astype(np.uint8)
    other = np.ones(shape, bool if flag & 4 else np.uint8)
    parts = [(scan, 0), (other, flag)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for array, kind in parts[::-1] if first else parts:
            file.write(array, subfiletype=kind, metadata=None)
    with TiffStack(tmp_path / "a.tif") as stack:
        assert len(stack) == 1 and stack.axes == ()
        what = "reduced image" if flag == 1 else "mask"
        level = flag == 1 and not first and shape != scan.shape  # of a pyramid
        assert stack.left_out == (() if level else (f"{what} {shape[0]}x{shape[1]}",))
        np.testing.assert_array_equal(stack.read(0)[..., 0], scan)


def test_old_subfile_types_and_flags_on_all_pages(tmp_path):
    """Tag 255 says it too (2: reduced); where every page is flagged, flags say nothing."""
    scan = RNG.integers(0, 255, (40, 48)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "old.tif") as file:
        file.write(scan, metadata=None)
        file.write(scan[::4, ::4], metadata=None, extratags=[(255, 3, 1, 2, True)])
    assert count_pages(tmp_path / "old.tif") == 1
    with tifffile.TiffWriter(tmp_path / "all.tif") as file:
        for _ in range(3):
            file.write(scan, subfiletype=1, metadata=None)
    assert count_pages(tmp_path / "all.tif") == 3


def test_pyramids_are_one_image(tmp_path):
    scan = RNG.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    for name in ("a.ome.tif", "a.tif"):
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(scan, subifds=2, tile=(16, 16), photometric="rgb")
            for step in (2, 4):
                file.write(scan[::step, ::step], subfiletype=1, tile=(16, 16), photometric="rgb")
        np.testing.assert_array_equal(read_image(tmp_path / name), scan)


@pytest.mark.parametrize("sizes", [(64, 32), (64, 32, 16), (64, 16), (64, 32, 64, 32)])
def test_images_half_as_large_are_no_levels_of_a_pyramid_unless_they_say_so(tmp_path, sizes):
    images = [RNG.integers(0, 255, (size, size + 32)).astype(np.uint8) for size in sizes]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for image in images:
            file.write(image, metadata=None)
    first, *rest = map(Image.fromarray, images)
    first.save(tmp_path / "b.tif", save_all=True, append_images=rest)
    for name in ("a.tif", "b.tif"):
        assert count_pages(tmp_path / name) == len(images)
        with TiffWindows(tmp_path / name) as windows:
            for page, image in enumerate(images):
                np.testing.assert_array_equal(read_image(tmp_path / name, page)[..., 0], image)
                whole = tuple(slice(0, length) for length in image.shape)
                np.testing.assert_array_equal(windows.page(page).read(*whole)[..., 0], image)


def test_a_slide_is_its_scan_and_the_rest_is_named(tmp_path):
    scan = RNG.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        note = "Aperio Image Library v1\r\n96x64|AppMag = 20"
        file.write(scan, tile=(32, 32), photometric="rgb", description=note, metadata=None)
        file.write(scan[::4, ::4], photometric="rgb", metadata=None)
        file.write(scan[::2, ::2], tile=(16, 16), photometric="rgb", metadata=None)
        file.write(scan[:20, :30], subfiletype=1, photometric="rgb", metadata=None)
        file.write(scan[:24, :40], subfiletype=9, photometric="rgb", metadata=None)
    with ImageFile(tmp_path / "a.svs") as file:
        assert file.left_out == ("thumbnail 16x24", "label 20x30", "macro 24x40")
        np.testing.assert_array_equal(file.image(), scan)


def test_what_lies_beside_the_images_is_noted(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            array = RNG.integers(0, 2, (20, 20)).astype(np.uint8)
            with tifffile.TiffWriter(tmp_path / kind / f"{name}.tif") as file:
                file.write(array, metadata=None)
                if kind == "images":
                    file.write(np.ones((10, 10), bool), subfiletype=4, metadata=None)
    report = check_data(find_pairs(tmp_path))
    assert report.ok and report.summary.images == 2
    (note,) = (n for n in report.notes if "more than the images that are read" in n)
    assert note.startswith("2 files hold") and "a.tif (mask 10x10)" in note


def test_planes_that_the_metadata_name_and_the_file_lacks(tmp_path):
    """An acquisition that was ended early: 2 of 4 times are there."""
    planes = RNG.integers(0, 255, (2, 16, 20)).astype(np.uint8)
    sizes = {"X": 20, "Y": 16, "T": 4}
    xml = _ome([(sizes, [(0, t, {"T": t}) for t in range(2)])], 0, ["a.ome.tif"])
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=False) as file:
        for t, plane in enumerate(planes):
            file.write(plane, description=xml.encode() if not t else None, metadata=None)
    with ImageFile(tmp_path / "a.ome.tif") as file:
        assert len(file) == 2 and "2 images that it names and does not hold" in file.left_out
        for t, plane in enumerate(planes):
            np.testing.assert_array_equal(file.image(t)[..., 0], plane)


def test_a_plane_count_beyond_the_set_ends_with_it(tmp_path):
    planes = [("a", 0, {"Z": 0})]
    text = _ome([({"X": 4, "Y": 4, "Z": 2}, planes)], "a", {"a": "a.ome.tif"})
    text = text.replace('PlaneCount="1"', f'PlaneCount="{10**12}"')
    (image,) = tiff.own_images(text, tmp_path / "a.ome.tif")
    assert image == {(0, 0, 0): 0, (0, 1, 0): 1}
