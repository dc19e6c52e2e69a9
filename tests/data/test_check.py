"""The data check: each kind of bad input is found, and the message says file, found, expected."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet.data import LabelRule, Pair, check_data, find_pairs, load_samples, shared_images
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import DataError

RNG = np.random.default_rng(8)


def _write(folder, name, image, labels):
    for kind, array in (("images", image), ("labels", labels)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        if array is not None:
            path = folder / kind / f"{name}.{'tif' if array.dtype.kind == 'f' else 'png'}"
            Image.fromarray(array).save(path)


def _image(shape=(20, 30)):
    return RNG.integers(0, 255, shape).astype(np.uint8)


def _mask(shape=(20, 30), value=1):
    mask = np.zeros(shape, np.uint8)
    mask[4:10, 5:12] = mask[14:18, 20:28] = value
    return mask


@pytest.fixture
def good(tmp_path):
    """A sound set of three images, 0/1 labels, two regions each."""
    for name in "abc":
        _write(tmp_path, name, _image(), _mask())
    return tmp_path


def _problems(folder, rule=None):
    return [str(problem) for problem in check_data(find_pairs(folder), rule).problems]


def test_a_sound_set(good):
    report = check_data(find_pairs(good))
    assert report.ok and report.raise_if_bad() is report and not report.notes
    s = report.summary
    assert (s.images, s.labelled, s.sizes, s.channels) == (3, 3, {"20x30": 3}, {"1": 3})
    assert s.dtypes == {"uint8": 3} and s.label_values == (0, 1) and s.cells is None
    assert s.class_fractions == pytest.approx((1 - 74 / 600, 74 / 600))
    stored = json.loads(report.to_json())
    assert stored["summary"]["images"] == 3 and stored["mapping"]["values"] == [0, 1]
    assert "3 images, 3 with labels" in report.to_text()


def test_all_bad_files_are_named_at_once(good):
    _write(good, "d", _image(), _mask((20, 29)))
    _write(good, "e", _image(), None)
    (good / "images/b.png").write_bytes(b"no image at all")
    (good / "labels/c.png").write_bytes((good / "labels/c.png").read_bytes()[:60])
    with pytest.raises(DataError) as error:
        load_samples(good)
    text = str(error.value)
    assert "the data check found 4 problems in 4 images:" in text
    assert f"{good}/images/b.png: is not a PNG, JPEG or TIFF file" in text
    assert f"{good}/labels/c.png: truncated or damaged" in text
    assert (
        f"{good}/labels/d.png: is 20x29 (height x width); expected 20x30, as its image "
        f"{good}/images/d.png" in text
    )
    assert f"{good}/images/e.png: has no labels; expected {good}/labels/e.png or .tif" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_a_note_and_infinity_a_problem(good, value):
    image = RNG.random((20, 30)).astype(np.float32)
    image[3, 3:5] = value
    _write(good, "n", image, _mask())
    if np.isnan(value):
        assert not _problems(good)
        notes = check_data(find_pairs(good)).notes
        assert any(n.startswith("0.3% of the pixels of 1 image were never mea") for n in notes)
    else:
        assert _problems(good) == [
            f"{good}/images/n.tif: holds 2 values that are infinite; expected finite ones"
        ]


def test_mixed_channels_name_the_odd_ones(good):
    _write(good, "rgb", _image((20, 30, 3)), _mask())
    assert _problems(good) == [
        f"{good}/images/rgb.png: has 3 channels; expected 1, as 3 of 4 images"
    ]


def test_label_values_out_of_range_name_the_files(good):
    _write(good, "x", _image(), _mask(value=3))
    assert _problems(good, LabelRule(num_classes=2)) == [
        f"{good}/labels/x.png: holds label values out of range: 3; expected 0, 1"
    ]
    (text,) = _problems(good)
    assert "found 3 distinct label values, 0, 1, 3" in text and "data.label_values" in text


def test_a_value_that_few_files_hold_names_them(good):
    for k in range(5):
        _write(good, f"more{k}", _image(), _mask())
    _write(good, "x", _image(), _mask(value=77))
    assert f"(found 77 only in {good}/labels/x.png)" in _problems(good)[0]


def test_negative_instance_numbers(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, low in (("a", 0), ("b", -4)):
        Image.fromarray(_image()).save(tmp_path / f"images/{name}.png")
        labels = np.where(_mask() > 0, 5, low).astype(np.int32)
        labels[0, 0] = 9
        tifffile.imwrite(tmp_path / f"labels/{name}.tif", labels)
    (text,) = _problems(tmp_path, LabelRule(kind="instances"))
    assert text.startswith(f"{tmp_path}/labels/b.tif: holds label values out of range: -4; expect")


def test_all_background(good):
    for name in "abc":
        _write(good, name, _image(), _mask(value=0))
    assert _problems(good) == [
        "the labels of all 3 images hold nothing but background; expected at least two classes "
        "in the set"
    ]
    assert "expected cells" in _problems(good, LabelRule(kind="instances"))[0]


def test_a_single_class_that_is_not_background(good):
    for name in "abc":
        _write(good, name, _image(), np.full((20, 30), 255, np.uint8))
    assert "hold a single class (1)" in _problems(good)[0]


def test_jpeg_labels(good):
    (good / "labels/b.png").unlink()
    Image.fromarray(_mask(value=255)).save(good / "labels/b.jpg")
    Image.fromarray(_mask(value=255)).save(good / "labels/c.png", format="JPEG")
    for text, name in zip(_problems(good), ("b.jpg", "c.png"), strict=True):
        assert f"labels/{name}: is compressed by JPEG, which changes label values; expected" in text


def test_smeared_masks(good):
    y, x = np.mgrid[:90, :120]
    big = ((y - 40) ** 2 + (x - 50) ** 2 < 900).astype(np.uint8) * np.uint8(255)
    Image.fromarray(big).save(good / "smeared.jpg", quality=60)
    jpeg = np.asarray(Image.open(good / "smeared.jpg"))
    (good / "smeared.jpg").unlink()
    resized = np.asarray(Image.fromarray(big).resize((300, 225), Image.Resampling.BICUBIC))
    for name, labels in (("jpeg", jpeg), ("resized", resized)):
        _write(good, name, _image(labels.shape), labels)
    texts = _problems(good)
    assert len(texts) == 2
    for text, name in zip(texts, ("jpeg", "resized"), strict=True):
        assert f"labels/{name}.png: holds" in text
        assert "nearly all close to 0 or 255: a mask that was smeared by JPEG" in text


def test_many_objects_are_not_taken_for_a_smeared_mask(tmp_path):
    labels = np.kron(np.arange(256).reshape(16, 16), np.ones((3, 3))).astype(np.uint8)
    _write(tmp_path, "a", _image(labels.shape), labels)
    assert not _problems(tmp_path, LabelRule(kind="instances"))


def test_few_objects_are_not_taken_for_classes(tmp_path):
    for name, boxes in (("a", 2), ("b", 3)):
        labels = np.zeros((20, 30), np.uint8)
        for k in range(boxes):
            labels[3:9, 2 + 8 * k : 7 + 8 * k] = k + 1
        _write(tmp_path, name, _image(), labels)
    (text,) = _problems(tmp_path)
    assert "each is one single region in every image, as numbers of objects are" in text
    assert 'expected data.label_kind = "instances" (--instances) if they are, or ' in text
    assert "data.num_classes = 4 (--set data.num_classes=4) if each number is a class" in text
    assert not _problems(tmp_path, LabelRule(num_classes=4))
    report = check_data(find_pairs(tmp_path), LabelRule(kind="instances"))
    assert report.ok and report.summary.cells_total == 5


def test_classes_declared_as_objects_are_noted(tmp_path):
    labels = np.indices((20, 30)).sum(0) % 3
    _write(tmp_path, "a", _image(), labels.astype(np.uint8))
    notes = check_data(find_pairs(tmp_path), LabelRule(kind="instances")).notes
    assert any('if the numbers are classes, set data.label_kind = "semantic"' in n for n in notes)


def test_figures_of_instances(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[2:6, 2:6], labels[2:6, 6:10] = 1, 2
    _write(tmp_path, "a", _image(), labels)
    _write(tmp_path, "b", _image(), np.where(labels == 1, np.uint8(9), np.uint8(0)))
    s = check_data(find_pairs(tmp_path), LabelRule(kind="instances")).summary
    assert s.cells_total == 3 and (s.cells.min, s.cells.median, s.cells.max) == (1, 1.5, 2)
    assert s.diameter.median == pytest.approx(2 * np.sqrt(16 / np.pi), abs=0.01)


def test_notes(good):
    _write(good, "empty", _image(), _mask(value=0))
    _write(good, "flat", np.full((20, 30), 9, np.uint8), _mask())
    _write(good, "deep", _image().astype(np.uint16), _mask())
    _write(good, "copy", np.asarray(Image.open(good / "images/a.png")), _mask())
    (good / "images/notes.txt").write_text("x")
    report = check_data(find_pairs(good))
    assert report.ok
    text = "\n".join(report.notes)
    assert "1 of 7 images are all background: empty" in text
    assert f"1 images are of one grey value: {good}/images/flat.png" in text
    assert f"most images are uint8, others uint16: {good}/images/deep.png" in text
    assert f"equal pixels in {good}/images/a.png, {good}/images/copy.png" in text
    assert "1 other entry left out: notes.txt" in text


def test_missing_labels_in_hand_made_pairs_and_where_they_are_needed(good):
    pairs = [
        Pair("a", good / "images/a.png", good / "labels/a.png"),
        Pair("b", good / "images/b.png"),
    ]
    (problem,) = check_data(pairs).problems
    assert str(problem) == f"{good}/images/b.png: has no labels; expected labels for each image"
    bare = find_pairs(good / "images")
    assert check_data(bare).ok
    assert "there are no labels; expected a folder labels/" in str(
        check_data(bare, need_labels=True).problems[0]
    )


def test_copies_between_sets_are_found(good, tmp_path):
    other = tmp_path / "other"
    _write(other, "z", np.asarray(Image.open(good / "images/b.png")), _mask())
    _write(other, "y", _image(), _mask())
    first, second = check_data(find_pairs(good)), check_data(find_pairs(other))
    assert shared_images(first, second) == (("b", "z"),)


def test_stacks_open_once_and_bad_pages_are_named(tmp_path, monkeypatch):
    from keras_unet.data import samples

    images, labels = np.stack([_image()] * 5), np.stack([_mask()] * 5)
    labels[3, 0, 0] = 9
    for name, array in (("em", images), ("truth", labels)):
        tifffile.imwrite(tmp_path / f"{name}.tif", array, metadata=None)
    opened = []

    class Counted(samples.ImageFile):
        def __init__(self, path):
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr(samples, "ImageFile", Counted)
    pairs = find_pairs(tmp_path / "em.tif", tmp_path / "truth.tif")
    report = check_data(pairs, LabelRule(num_classes=2))
    assert [str(p) for p in report.problems] == [
        f"{tmp_path}/truth.tif:003: holds label values out of range: 9; expected 0, 1"
    ]
    assert len(opened) == 2


def test_the_synthetic_set_passes_as_objects_and_is_refused_as_classes(tmp_path):
    folder = write_dataset(tmp_path, train=3, val=0, size=96) / "train"
    report = check_data(find_pairs(folder), LabelRule(kind="instances"))
    assert report.ok and not report.notes and report.summary.cells_total > 15
    (text,) = _problems(folder)
    assert 'if each number is one object, set data.label_kind = "instances"' in text


def _cells(share, bright=True, seed=0):
    """An image and its mask, of which objects cover about a share."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 40), np.uint8)
    mask[: int(40 * share)] = 1
    image = rng.normal(100, 10, mask.shape) + (60.0 if bright else -60.0) * mask
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("kind", ["semantic", "instances"])
def test_masks_of_mixed_polarity_are_noted(tmp_path, value, bright, kind):
    for number in range(6):
        image, mask = _cells(0.1 + 0.05 * number, bright, number)
        _write(tmp_path, f"m{number}", image, value * (1 - mask if number in (1, 4) else mask))
    notes = [
        n for n in check_data(find_pairs(tmp_path), LabelRule(kind=kind)).notes if "white" in n
    ]
    assert len(notes) == 1 and notes[0].endswith("(white for black) in m1, m4?")
    assert notes[0].startswith("2 of 6 masks are mostly foreground, unlike the others")


def test_masks_of_mixed_polarity_over_noise(tmp_path):
    for number in range(4):
        mask = _mask((40, 60))
        _write(tmp_path, f"m{number}", _image((40, 60)), 1 - mask if number == 2 else mask)
    (note,) = (n for n in check_data(find_pairs(tmp_path)).notes if "white" in n)
    assert note.endswith("in m2?")


def test_sparse_and_dense_images_are_no_mixed_polarity(tmp_path):
    for number, share in enumerate((0.05, 0.3, 0.55, 0.8, 0.95)):
        _write(tmp_path, f"m{number}", *_cells(share, seed=number))
    assert not any("white" in note for note in check_data(find_pairs(tmp_path)).notes)


def test_a_class_that_was_written_as_the_value_that_does_not_count(tmp_path):
    for number in range(4):
        _write(tmp_path, f"m{number}", _image(), _mask(value=255))
    rule = LabelRule(num_classes=2, ignore=255)
    (problem,) = check_data(find_pairs(tmp_path), rule).problems
    assert "hold nothing but background, and 12.3% of the pixels hold 255, which" in str(problem)
    assert str(problem).endswith("expected at least two classes in the set, stored as 0, 1")
    mask = _mask()
    mask[0] = 255
    _write(tmp_path, "right", _image(), mask)
    report = check_data(find_pairs(tmp_path), rule)
    assert report.ok
    (note,) = (n for n in report.notes if "as a mask of 0 and 255 would" in n)
    assert note.startswith("4 of 5 label images hold 255") and note.endswith("m0, m1, m2, m3")


@pytest.mark.parametrize("stray", [255, 254, -1])
def test_a_stray_value_that_may_not_count(tmp_path, stray):
    for number in range(3):
        mask = _mask().astype(np.float32)
        mask[0, 0] = stray if number == 1 else 0
        _write(tmp_path, f"m{number}", _image(), mask)
    (open_,) = check_data(find_pairs(tmp_path)).problems
    assert f"{stray} marks pixels that shall not count, set data.label_ignore = {stray}" in str(
        open_
    )
    (stated,) = check_data(find_pairs(tmp_path), LabelRule(num_classes=2)).problems
    assert "m1.tif" in str(stated) and f"data.label_ignore = {stray}" in str(stated)
    assert check_data(find_pairs(tmp_path), LabelRule(num_classes=2, ignore=stray)).ok


def _shown(folder, name, labels, colours):
    """A pair whose label image is indexed; colours: (r, g, b) of each index."""
    _write(folder, name, _image(labels.shape), None)
    picture = Image.fromarray(labels)
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(folder / "labels" / f"{name}.png")


WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (200, 0, 0)


def test_a_palette_that_shows_0_white_is_noted(tmp_path):
    for name in "abc":
        _shown(tmp_path, name, 1 - _mask(), [WHITE, BLACK])  # as quantising a mask gives it
    report = check_data(find_pairs(tmp_path))
    (note,) = (note for note in report.notes if "palette" in note)
    assert "3 of 3 label images show 0 white, 1 black" in note and str(tmp_path) in note
    assert "if bright is foreground, set data.label_values = [1, 0]" in note
    turned = check_data(find_pairs(tmp_path), LabelRule(values=(1, 0)))
    assert turned.ok and turned.summary.class_fractions[1] == pytest.approx(74 / 600)


def test_grey_from_white_on_in_a_tiff_is_noted(tmp_path):
    _write(tmp_path, "a", _image(), None)
    for photometric, many in (("minisblack", 0), ("miniswhite", 1)):
        tifffile.imwrite(tmp_path / "labels" / "a.tif", _mask(), photometric=photometric)
        report = check_data(find_pairs(tmp_path))
        assert report.ok and report.summary.label_values == (0, 1)  # as stored
        notes = [note for note in report.notes if "MinIsWhite 1 of 1 label images show" in note]
        assert len(notes) == many
    tifffile.imwrite(tmp_path / "labels" / "a.tif", _mask() > 0, photometric="miniswhite")
    report = check_data(find_pairs(tmp_path))
    assert report.summary.label_values == (0, 255)  # black and white are as shown
    (note,) = (note for note in report.notes if "MinIsWhite" in note)
    assert "of one bit" in note and "87.7% of their pixels are white" in note
    turned = check_data(find_pairs(tmp_path), LabelRule(values=(255, 0)))
    assert turned.ok and turned.summary.class_fractions[1] == pytest.approx(74 / 600)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", _mask() == 0, photometric="miniswhite")
    assert not any("MinIsWhite" in note for note in check_data(find_pairs(tmp_path)).notes)


@pytest.mark.parametrize(
    ("palette", "ignore", "noted"),
    [
        ([(255, 0, 0), BLACK], None, True),  # as quantising a coloured mask may give it
        ([(255, 0, 0), BLACK], 1, False),  # an ignored value is black in many palettes
        ([BLACK, (255, 0, 0)], None, False),
        ([(128, 64, 128), (244, 35, 232)], None, False),
    ],
)
def test_a_palette_that_shows_another_value_black_is_noted(tmp_path, palette, ignore, noted):
    _shown(tmp_path, "a", _mask(), palette)
    report = check_data(find_pairs(tmp_path), LabelRule(ignore=ignore))
    notes = [note for note in report.notes if "palette" in note]
    assert len(notes) == noted and all("0 #ff0000, 1 black" in note for note in notes)


def test_masks_of_one_and_of_255_in_one_set_are_no_pixels_to_ignore(tmp_path):
    for name, value in zip("abcd", (1, 255, 1, 255), strict=True):
        _write(tmp_path, name, _image(), _mask(value=value))
    _write(tmp_path, "e", _image(), _mask(value=0))
    for rule in (LabelRule(), LabelRule(num_classes=2)):  # the second as evaluation has it
        (problem,) = check_data(find_pairs(tmp_path), rule).problems
        assert "2 masks are of 0 and 1" in str(problem) and "2 of 0 and 255" in str(problem)
        assert "d.png" in str(problem) and "save them alike" in str(problem)
    assert check_data(find_pairs(tmp_path), LabelRule(values=(0, 1, 255))).ok
    void = _mask()
    void[0] = 255
    _write(tmp_path, "f", _image(), void)  # 255 beside 1 is a value of its own
    assert "if 255 marks pixels" in str(check_data(find_pairs(tmp_path)).problems[0])


def test_images_all_ignored_are_said_to_be_so(good):
    _write(good, "c", _image(), np.full((20, 30), 255, np.uint8))
    report = check_data(find_pairs(good), LabelRule(ignore=255))
    assert report.ok and "1 of 3 images hold no pixel that counts: c" in report.notes
    assert not any("all background" in note for note in report.notes)
    for name in "ab":
        _write(good, name, _image(), np.full((20, 30), 255, np.uint8))
    report = check_data(find_pairs(good), LabelRule(ignore=255))
    assert "all 3 images hold no pixel that counts" in str(report.problems[0])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_labels_without_the_orientation_of_their_image_are_noted(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    for name in "ab":
        _write(tmp_path, name, _image((24, 24)), _mask((24, 24)))
    stored = Image.fromarray(_image((24, 24)))
    stored.save(tmp_path / "images" / "a.png", exif=exif)
    said = [n for n in check_data(find_pairs(tmp_path)).notes if "another orientation" in n]
    assert len(said) == (orientation > 1) and all("1 of 2" in n and "a.png" in n for n in said)
    Image.fromarray(_mask((24, 24))).save(tmp_path / "labels" / "a.png", exif=exif)
    assert not any("another" in note for note in check_data(find_pairs(tmp_path)).notes)
    _write(tmp_path, "a", _image((20, 30)), _mask())
    Image.fromarray(_image((20, 30))).save(tmp_path / "images" / "a.png", exif=exif)
    problems = check_data(find_pairs(tmp_path)).problems
    assert ["turned by its orientation" in str(p) for p in problems] == [True] * (orientation == 6)


def test_unequal_palettes_are_noted(tmp_path):
    _shown(tmp_path, "a", _mask(), [BLACK, RED, WHITE])
    _shown(tmp_path, "b", _mask(), [BLACK, RED, RED])  # 2 is nowhere
    assert not check_data(find_pairs(tmp_path)).notes
    _shown(tmp_path, "c", 1 - _mask(), [RED, BLACK])
    (note,) = (
        note
        for note in check_data(find_pairs(tmp_path)).notes
        if note.startswith("palettes differ")
    )
    assert "palettes differ: 0 is black in" in note and "#c80000 in" in note


def _packed_png(values, bits):
    """A grey PNG of `bits` a pixel, as optimisers make them."""
    digits = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = b"".join(b"\0" + np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in digits)
    head = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_numbers_of_2_and_4_bits_are_those_of_8(tmp_path):
    for name, bits in (("a", 8), ("b", 4), ("c", 2)):
        _write(tmp_path, name, _image(), None)
        path = tmp_path / "labels" / f"{name}.png"
        path.write_bytes(_packed_png(_mask(value=2), bits))
    report = check_data(find_pairs(tmp_path), LabelRule(values=(0, 2)))
    assert report.ok and report.summary.label_values == (0, 2)
