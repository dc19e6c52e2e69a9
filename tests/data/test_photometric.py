"""A TIFF reads the same whatever its compression, layout and writer."""

from __future__ import annotations

import io
import itertools
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from keras_unet.data import tiff as fax
from keras_unet.data.images import count_pages, read_image, read_labels
from keras_unet.data.photometric import from_cmyk
from keras_unet.data.tiff_windows import TiffWindows
from keras_unet.errors import DataError

H, W = 21, 37
RNG = np.random.default_rng(0)
ENCODE = {
    1: bytes,
    5: imagecodecs.lzw_encode,
    8: imagecodecs.zlib_encode,
    32773: imagecodecs.packbits_encode,
    34925: imagecodecs.lzma_encode,
    50000: imagecodecs.zstd_encode,
}
COMPRESSIONS = ["none", "packbits", "zlib", "adobe_deflate", "lzw", "zstd", "lzma"]
PILLOWS = {
    "1": ("tiff_ccitt", "group3", "group4"),
    "any": (None, "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "zstd", "lzma"),
}
STORED = {  # how an image lies in the file, so that the tag turns it upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def tiff(tags, segments, order="<"):
    """A TIFF file of one page; tags: number -> (type, values)."""
    data = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 0)
    starts = []
    for segment in segments:
        starts.append(len(data))
        data += segment + bytes(len(segment) % 2)
    places, counts = (324, 325) if 322 in tags else (273, 279)
    rows = b""
    for code, (kind, values) in sorted(
        {**tags, places: (4, starts), counts: (4, list(map(len, segments)))}.items()
    ):
        body = struct.pack(f"{order}{len(values)}{ {3: 'H', 4: 'I'}[kind] }", *values)
        if len(body) > 4:
            body, data = struct.pack(order + "I", len(data)), data + body
        rows += struct.pack(order + "HHI", code, kind, len(values)) + body.ljust(4, b"\0")
    at = struct.pack(order + "I", len(data))
    return data[:4] + at + data[8:] + struct.pack(order + "H", len(rows) // 12) + rows + bytes(4)


def coded(block, bits, compression, order, fill):
    """A strip or tile [h, w, S] as bytes."""
    rows = block.reshape(len(block), -1)
    if bits in (8, 16, 32):
        lines = [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    else:  # packed, each row from a byte of its own on
        digits = rows[..., None] >> np.arange(bits - 1, -1, -1) & 1
        lines = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in digits]
    if compression == 32773:
        data = b"".join(map(ENCODE[compression], lines))
    else:
        data = ENCODE[compression](b"".join(lines))
    return imagecodecs.bitorder_encode(data) if fill == 2 else data


def file_of(samples, bits, compression, photometric, order, fill, planar, layout, colours=None):
    """Any uncompressed or losslessly compressed kind of page, of samples int [H, W, S]."""
    count = samples.shape[2]
    tags = {256: (4, [W]), 257: (4, [H]), 258: (3, [bits] * count), 259: (3, [compression])}
    tags |= {262: (3, [photometric]), 266: (3, [fill]), 277: (3, [count]), 284: (3, [planar])}
    if colours is not None:
        tags[320] = (3, (colours.astype(int) * 257).T.ravel().tolist())
    blocks = []
    for plane in [samples] if planar == 1 else np.split(samples, count, axis=2):
        if layout == "tiles":
            tags |= {322: (4, [16]), 323: (4, [16])}
            whole = np.zeros((32, 48, plane.shape[2]), np.int64)
            whole[:H, :W] = plane
            blocks += [whole[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16, 32)]
        else:
            rows = H if layout == "strip" else 5
            tags[278] = (4, [rows])
            blocks += [plane[y : y + rows] for y in range(0, H, rows)]
    return tiff(tags, [coded(block, bits, compression, order, fill) for block in blocks], order)


def check(path, image, labels=None):
    """Whole, in a window, and as labels; image [H, W, C]."""
    found = read_image(path)
    assert found.dtype == image.dtype
    np.testing.assert_array_equal(found, image)
    with TiffWindows(path) as file:
        page = file.page(0)
        assert file.shapes[0] == page.shape == image.shape and page.dtype == image.dtype
        window = page.read(slice(2, 15), slice(3, 20))
        np.testing.assert_array_equal(window, image[2:15, 3:20])
    if labels is not None:
        np.testing.assert_array_equal(read_labels(path), labels)


def inverted(levels, bits=None):
    """What MinIsWhite shows of stored levels."""
    if levels.dtype.kind == "u":
        return levels.dtype.type(2 ** (bits or 8 * levels.dtype.itemsize) - 1) - levels
    return ~levels if levels.dtype.kind in "ib" else 1 - levels


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 32])
def test_every_depth(tmp_path, bits):
    path = tmp_path / "a.tif"
    dtype = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
    # what has no say in the samples takes turns, each time with other compressions
    forms = itertools.cycle(itertools.product("<>", (1, 2), ("strip", "strips", "tiles")))
    for photometric, planar, compression in itertools.product((0, 1, 2, 3), (1, 2), (*ENCODE, 1)):
        order, fill, layout = next(forms)
        count = 3 if photometric == 2 else 1
        if (planar == 2 and count == 1) or (photometric == 3 and bits > 16):
            continue
        samples = RNG.integers(0, 2 ** min(bits, 31), (H, W, count))
        colours = RNG.integers(0, 256, (2**bits, 3)).astype(np.uint8) if photometric == 3 else None
        form = (bits, compression, photometric, order, fill, planar, layout)
        path.write_bytes(file_of(samples, *form, colours))
        numbers = samples.astype(dtype)
        if photometric == 3:
            check(path, colours[samples[..., 0]], numbers[..., 0])
            continue
        levels = inverted(numbers, bits) if photometric == 0 else numbers
        if bits in (1, 2, 4):
            levels = levels * np.uint8(255 // (2**bits - 1))
        labels = levels if bits == 1 else numbers  # black and white are 0 and 255
        check(path, levels, labels[..., 0] if count == 1 else None)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.uint16, np.uint32, np.int8, np.int16, np.float32]
)
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_as_tifffile_writes_it(tmp_path, dtype, orientation):
    path, dtype = tmp_path / "a.tif", np.dtype(dtype)
    picture = (RNG.random((H, W)) * (2 if dtype.kind == "b" else 100)).astype(int).astype(dtype)
    stored = np.ascontiguousarray(STORED[orientation](picture))
    layouts = ({}, {"tile": (16, 16)}, {"rowsperstrip": 5})
    forms = itertools.cycle(itertools.product("<>", layouts))
    for photometric, compression in itertools.product(("minisblack", "miniswhite"), COMPRESSIONS):
        order, layout = next(forms)
        for predictor in {False, compression in ("zlib", "lzw", "zstd") and dtype.kind != "b"}:
            tifffile.imwrite(
                path,
                stored,
                photometric=photometric,
                compression=compression,
                predictor=predictor,
                byteorder=order,
                bigtiff=order == ">",
                extratags=[(274, 3, 1, orientation, True)],
                metadata=None,
                **layout,
            )
            shown = inverted(picture) if photometric == "miniswhite" else picture
            shown = shown * np.uint8(255) if dtype.kind == "b" else shown
            check(path, shown[..., None], shown if dtype.kind == "b" else picture)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "I", "F"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_as_pillow_writes_it(tmp_path, mode, orientation):
    path = tmp_path / "a.tif"
    dtype = {"1": bool, "L": "u1", "I;16": "u2", "I": "i4", "F": "f4"}[mode]
    picture = (RNG.random((H, W)) * (2 if mode == "1" else 100)).astype(int).astype(dtype)
    stored = np.ascontiguousarray(STORED[orientation](picture))
    for compression in (*PILLOWS["any"], *PILLOWS.get(mode, ())):
        for photometric in (0, 1):
            info = TiffImagePlugin.ImageFileDirectory_v2()
            info[262], info[274] = photometric, orientation
            Image.fromarray(stored).save(path, compression=compression, tiffinfo=info)
            white = photometric == 0
            if mode == "1":  # Pillow stores what shows the picture
                check(path, picture[..., None] * np.uint8(255), picture * 255)
            elif mode == "L":
                check(path, picture[..., None], inverted(picture) if white else picture)
            else:
                check(path, (inverted(picture) if white else picture)[..., None], picture)


def test_group_3_and_4_in_all_their_forms_and_by_the_other_decoder(tmp_path):
    path, picture = tmp_path / "a.tif", RNG.random((H, W)) > 0.6
    for compression, photometric, fill, options, rows in itertools.product(
        PILLOWS["1"], (0, 1), (1, 2), (0, 1, 4, 5), (None, 7)
    ):
        if options and compression != "group3":
            continue
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[262], info[266] = photometric, fill
        if compression == "group3":
            info[292] = options  # two-dimensional, ends of lines at bytes
        if rows:
            info[278] = rows
        Image.fromarray(picture).save(path, compression=compression, tiffinfo=info)
        check(path, picture[..., None] * np.uint8(255), picture * 255)
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            bits = fax.decode_fax(page)
            np.testing.assert_array_equal(bits != (page.photometric == 0), picture)


def test_group_4_in_tiles(tmp_path):
    tiles = []
    for number in range(4):
        square = (np.add.outer(np.arange(16), np.arange(16)) + number) % 5 < 2
        Image.fromarray(square).save(tmp_path / "tile.tif", compression="group4")
        with tifffile.TiffFile(tmp_path / "tile.tif") as file:
            page = file.pages[0]
            start, count = page.dataoffsets[0], page.databytecounts[0]
            tiles.append((square, (tmp_path / "tile.tif").read_bytes()[start : start + count]))
            white = int(page.photometric)
    tags = {256: (4, [30]), 257: (4, [27]), 258: (3, [1]), 259: (3, [4]), 262: (3, [white])}
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(tags | {322: (4, [16]), 323: (4, [16])}, [data for _, data in tiles]))
    a, b, c, d = (square for square, _ in tiles)
    picture = np.block([[a, b], [c, d]])[:27, :30]
    check(path, picture[..., None] * np.uint8(255), picture * 255)
    with tifffile.TiffFile(path) as file:
        np.testing.assert_array_equal(fax.decode_fax(file.pages[0]) != (white == 0), picture)


def test_each_page_is_read_by_its_own_tags(tmp_path):
    """More than eight pages that begin and end alike are one series to tifffile."""
    path = tmp_path / "a.tif"
    pages = RNG.integers(0, 255, (12, 20, 20)).astype(np.uint8)
    orientations = [1, 1, 3, 6, 2, 8, 4, 1, 5, 7, 3, 1]
    for photometrics in (["minisblack"] * 12, (["minisblack"] * 2 + ["miniswhite"]) * 4):
        with tifffile.TiffWriter(path) as writer:
            for page, turned, photometric in zip(pages, orientations, photometrics, strict=True):
                writer.write(
                    np.ascontiguousarray(STORED[turned](page)),
                    photometric=photometric,
                    extratags=[(274, 3, 1, turned, True)],
                    metadata=None,
                    compression="lzw",
                )
        assert count_pages(path) == 12
        with TiffWindows(path) as file:
            for number, (page, photometric) in enumerate(zip(pages, photometrics, strict=True)):
                shown = 255 - page if photometric == "miniswhite" else page
                np.testing.assert_array_equal(read_image(path, number)[..., 0], shown)
                np.testing.assert_array_equal(read_labels(path, number), page)
                window = file.page(number).read(slice(1, 9), slice(2, 20))
                np.testing.assert_array_equal(window[..., 0], shown[1:9, 2:20])


def test_channels_turned_differently_are_no_image(tmp_path):
    path = tmp_path / "a.tif"
    planes = RNG.integers(0, 255, (2, 9, 9)).astype(np.uint8)
    tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX"}, photometric="minisblack")
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        assert file.pages[1].dataoffsets  # tags of its own
        at = file.pages[1].offset
    entry = data.index(struct.pack("<HH", 259, 3), at)  # no compression, its default: overwritten
    path.write_bytes(data[:entry] + struct.pack("<HHIHH", 274, 3, 1, 3, 0) + data[entry + 12 :])
    with pytest.raises(DataError, match=r"a\.tif: channels of one image have the orientations \["):
        read_image(path)


COLOUR = np.stack(
    [np.add.outer(np.arange(48) * p, np.arange(64) * q) for p, q in ((4, 0), (0, 3), (2, 2))], -1
).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr", "RGBA", "LA"])
def test_colours_are_the_same_in_every_compression(tmp_path, mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    expected = picture.convert({"LA": "L", "L": "L"}.get(mode, "RGB"))
    expected = np.atleast_3d(np.asarray(expected)).astype(int)
    for compression in (*PILLOWS["any"], "jpeg"):
        if compression == "jpeg" and mode in ("LA", "RGBA"):
            continue
        quality = {"quality": 98} if compression == "jpeg" else {}
        picture.save(tmp_path / "a.tif", compression=compression, **quality)
        found = read_image(tmp_path / "a.tif")
        check(tmp_path / "a.tif", found)
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found - expected).max() <= (6 if compression == "jpeg" else 1)


@pytest.mark.parametrize(
    ("photometric", "layout"),
    [
        *itertools.product(
            ("minisblack", "miniswhite", "rgb", "ycbcr", "separated"), ({}, {"tile": (16, 16)})
        ),
        *((photometric, {"planarconfig": "separate"}) for photometric in ("rgb", "separated")),
    ],
    ids=str,
)
def test_jpeg_inside_is_as_the_samples_are(tmp_path, photometric, layout):
    path = tmp_path / "a.tif"
    inks = np.dstack([255 - COLOUR, COLOUR[..., 0] // 3])
    samples = {"rgb": COLOUR, "ycbcr": COLOUR, "separated": inks}.get(photometric, COLOUR[..., :1])
    stored = np.moveaxis(samples, -1, 0) if "planarconfig" in layout else np.squeeze(samples)
    found = {}
    for compression in ("none", "lzw", "jpeg"):
        more = {"compressionargs": {"level": 98}} if compression == "jpeg" else {}
        tifffile.imwrite(
            path, stored, photometric=photometric, compression=compression, metadata=None,
            **layout, **more,
        )  # fmt: skip
        found[compression] = read_image(path).astype(int)
        check(path, read_image(path))
    expected = {
        "minisblack": lambda: samples,
        "miniswhite": lambda: 255 - samples,
        "rgb": lambda: samples,
        "ycbcr": lambda: np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB")),
        "separated": lambda: from_cmyk(samples),
    }[photometric]()
    np.testing.assert_array_equal(found["none"], expected)
    np.testing.assert_array_equal(found["lzw"], expected)
    assert np.abs(found["jpeg"] - expected).max() <= 10


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_of_the_old_kind(tmp_path, mode):
    file = io.BytesIO()
    Image.fromarray(COLOUR).convert(mode).save(file, "JPEG", quality=95, subsampling=0)
    data, count = file.getvalue(), len(mode) if mode == "RGB" else 1
    tags = {256: (4, [64]), 257: (4, [48]), 258: (3, [8] * count), 259: (3, [6]), 278: (4, [48])}
    tags |= {262: (3, [6 if count == 3 else 1]), 277: (3, [count]), 530: (3, [1, 1])}
    tags |= {513: (4, [8]), 514: (4, [len(data)])}  # where the JPEG file lies
    (tmp_path / "a.tif").write_bytes(tiff(tags, [data]))
    expected = np.atleast_3d(np.asarray(Image.open(file))).astype(int)
    assert np.abs(read_image(tmp_path / "a.tif") - expected).max() <= 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({262: 8}, "CIELAB colours"),
        ({262: 6}, "YCbCr colours that JPEG didn't compress, subsampled"),  # by default 2 x 2
        ({262: 5, 277: 4, 258: 32}, "CMYK colours of 32 bits"),
        ({277: 1, 258: 24}, "integers of 24 bits"),
    ],
    ids=str,
)
def test_what_is_not_known_is_refused_by_name(tmp_path, changed, words):
    count, bits = changed.get(277, 3), changed.get(258, 8)
    tags = {256: (4, [8]), 257: (4, [6]), 258: (3, [bits] * count), 259: (3, [1])}
    tags |= {262: (3, [changed.get(262, 1)]), 277: (3, [count]), 278: (4, [6])}
    (tmp_path / "a.tif").write_bytes(tiff(tags, [bytes(48 * count * bits // 8)]))
    for read in (read_image, read_labels):
        with pytest.raises(DataError, match=rf"a\.tif: holds {words}.*; expected"):
            read(tmp_path / "a.tif")


def test_floating_point_of_16_and_24_bits(tmp_path):
    values = (RNG.random((H, W)) * 100).astype(np.float16)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="lzw", metadata=None)
    check(tmp_path / "a.tif", values[..., None].astype(np.float32))
    small = RNG.integers(0, 2**10, (H, W)).astype(np.float32)  # exact in 24 bits
    tags = {256: (4, [W]), 257: (4, [H]), 258: (3, [24]), 259: (3, [1]), 262: (3, [1])}
    tags |= {277: (3, [1]), 278: (4, [H]), 339: (3, [3])}
    data = imagecodecs.float24_encode(small, byteorder="<")
    (tmp_path / "b.tif").write_bytes(tiff(tags, [data]))
    check(tmp_path / "b.tif", small[..., None], small)


def test_opacity_is_never_inverted(tmp_path):
    grey = RNG.integers(0, 255, (H, W)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([grey, np.full_like(grey, 255)]),
        photometric="miniswhite",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    check(tmp_path / "a.tif", 255 - grey[..., None], grey)


@pytest.mark.parametrize("compression", [34661, 32809, 12345], ids=["JBIG", "ThunderScan", "none"])
def test_a_compression_that_nobody_uses_is_named(tmp_path, compression):
    path = tmp_path / "a.tif"
    tags = {256: (4, [8]), 257: (4, [6]), 258: (3, [8]), 259: (3, [compression]), 262: (3, [1])}
    path.write_bytes(tiff(tags | {277: (3, [1]), 278: (4, [6])}, [bytes(48)]))
    for read in (read_image, lambda path: TiffWindows(path).page(0).read(slice(0, 6), slice(0, 8))):
        with pytest.raises(DataError, match=r"a\.tif: cannot decode its \w+ compression .*; expec"):
            read(path)
