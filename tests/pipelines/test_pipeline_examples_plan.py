"""What ImageExampleGen decides before and without Beam: pairs, groups, splits, shards, records."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_unet.data import LabelRule, Pair, find_pairs, load_samples
from keras_unet.data.reading import PairReader
from keras_unet.data.record_files import read_record
from keras_unet.data.synthetic import write_dataset
from keras_unet.data.targets import border_term
from keras_unet.errors import ConfigError, DataError
from pipelines.examples import ExampleOptions
from pipelines.examples.items import fingerprint, list_source
from pipelines.examples.plan import from_lines, list_pairs, make_shards, split_pairs, to_lines
from pipelines.examples.record import make_record

CELLS = ExampleOptions(rule=LabelRule(kind="instances"))
BUCKETS = {"train": 800, "eval": 200}


@pytest.fixture
def folder(tmp_path):
    return write_dataset(tmp_path, train=3, val=1, size=(64, 64), seed=0) / "train"


def listed(folder, pattern="*/*", options=CELLS):
    return list_pairs(list_source(str(folder), pattern), options)


def manifest(folder, *lines, head="image,label,group"):
    (folder / "cells.csv").write_text("\n".join([head, *lines]) + "\n")
    return listed(folder, "cells.csv")


def named(*names):
    return [Pair(name, f"/data/{name}.png") for name in names]


def test_a_folder_gives_the_librarys_pairs_and_what_is_no_pair(folder):
    shutil.copy(next((folder / "images").iterdir()), folder / "images" / "lonely.png")
    pairs, problems = listed(folder)
    found = find_pairs(folder)
    assert tuple(pairs) == found.pairs
    assert problems == found.problems
    assert "lonely.png: has no labels" in str(problems[0])


def test_pages_of_stacks_are_pairs(tmp_path):
    import tifffile

    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        pixels = np.ones((3, 8, 9), np.uint8)
        tifffile.imwrite(tmp_path / kind / "s.tif", pixels, photometric="minisblack")
    pairs, problems = listed(tmp_path)
    assert [(p.name, p.image_page, p.label_page) for p in pairs] == [
        (f"s:00{k}", k, k) for k in range(3)
    ]
    assert not problems


def test_a_manifest_says_what_belongs_together(folder):
    a, b, c = (path.name for path in sorted((folder / "images").iterdir()))
    pairs, problems = manifest(
        folder,
        f"images/{a}, labels/{a}, mouse 1",
        f"images/{b},labels/{b},",
        f"images/{a},labels/{b},mouse 2",
        f"../{c},labels/{c},",
        f"images/{c},/etc/passwd,",
        f"images/{c},,",
        f"images/{c}",
    )
    assert [(p.name, p.group) for p in pairs] == [
        (f"images/{a[:-4]}", "mouse 1"),
        (f"images/{b[:-4]}", ""),
    ]
    assert pairs[0].label == folder / "labels" / a
    said = [str(problem).partition("cells.csv, line ")[2] for problem in problems]
    assert [line[:2] for line in said] == ["4:", "5:", "6:", "7:", "8:"]
    assert "again, after line 2" in said[0]
    assert "has the image ../" in said[1] and "within the manifest's folder" in said[1]
    assert "has the label /etc/passwd" in said[2]
    assert "names no label" in said[3]
    assert "another number of fields" in said[4]


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("image;label", "has the columns image;label; expected image,label"),
        ("image,label", "lists no image that can be used"),
        ('image,label\n"a', "cannot be read as CSV"),
        ("image,label\n" + "x" * 5000, "cannot be read as CSV.*field larger than"),
    ],
)
def test_a_table_that_is_no_manifest_is_refused(tmp_path, head, said):
    with pytest.raises(DataError, match=f"cells.csv: {said}"):
        manifest(tmp_path, head=head)


def test_places_without_data_are_refused(tmp_path):
    with pytest.raises(DataError, match="span-3: holds no folder images/; expected"):
        list_source(str(tmp_path), "span-3/*/*")
    with pytest.raises(DataError, match="no.csv: cannot be opened"):
        list_source(str(tmp_path), "no.csv")
    (tmp_path / "latin.csv").write_bytes(b"image,label\n\xe9,\xe9\n")
    with pytest.raises(DataError, match="UTF-8"):
        list_source(str(tmp_path), "latin.csv")


def test_groups_never_straddle():
    names = [f"mouse{k // 7}_slice{k}" for k in range(700)]
    options = ExampleOptions(rule=CELLS.rule, groups=r"^(mouse\d+)_")
    from pipelines.examples.plan import _grouped

    pairs = [_grouped(pair, options.groups) for pair in named(*names)]
    dealt = split_pairs(pairs, BUCKETS, 0)
    groups = {split: {pair.group for pair in pairs} for split, pairs in dealt.items()}
    assert not groups["train"] & groups["eval"]
    assert groups["train"] | groups["eval"] == {f"mouse{k}" for k in range(100)}
    assert 5 <= len(groups["eval"]) <= 40  # 20 of 100 expected; 4 standard deviations are 16
    said = [Pair("mouse1_slice1", "x", group="cage"), Pair("free", "y")]
    assert [_grouped(pair, options.groups).group for pair in said] == ["cage", ""]


def test_the_split_of_an_image_does_not_depend_on_the_others():
    few = named(*(f"cell{k}" for k in range(60)))
    many = named(*(f"cell{k}" for k in range(600)))
    first, second = (split_pairs(pairs, BUCKETS, 0) for pairs in (few, reversed(many)))
    for split in BUCKETS:
        kept = {pair.name for pair in second[split]} & {pair.name for pair in few}
        assert kept == {pair.name for pair in first[split]}
    assert 80 <= len(second["eval"]) <= 160  # 120 expected; 4 standard deviations are 39
    assert split_pairs(many, BUCKETS, 1)["eval"] != second["eval"]


def test_neighbours_in_a_stack_stay_together():
    pages = [Pair(f"s:{k:03d}", "s.tif", "s.tif", k, k) for k in range(800)]
    dealt = split_pairs(pages, BUCKETS, 0)
    held = {pair.image_page for pair in dealt["eval"]}
    assert held == {page // 8 * 8 + k for page in held for k in range(8)}
    assert len(dealt["train"]) > len(held) > 0


def test_an_empty_split_is_told():
    with pytest.raises(DataError, match="split eval gets none of 1 images in 1 groups or single"):
        split_pairs(named("a"), {"train": 999, "eval": 1}, 0)


def test_shards_hold_all_pairs_once_and_give_them_back():
    pairs = [Pair(f"s:{k:03d}", f"/d/s{k}.tif", "/d/l.tif", k, k, "g" * (k % 2)) for k in range(10)]
    shards = make_shards(pairs, 4)
    assert sorted(map(len, shards)) == [3, 3, 4]
    assert sorted(p.name for shard in shards for p in shard) == [p.name for p in pairs]
    back = [pair for shard in shards for pair in from_lines(to_lines(shard))]
    assert sorted(back, key=lambda p: p.name) == [
        Pair(p.name, type(back[0].image)(p.image), type(back[0].label)(p.label), *_rest(p))
        for p in pairs
    ]


def _rest(pair):
    return pair.image_page, pair.label_page, pair.group


def test_the_fingerprint_knows_names_labels_and_times(folder):
    def now(pattern="*/*"):
        return fingerprint(list_source(str(folder), pattern).files)

    first = now()
    assert now() == first
    label = next((folder / "labels").iterdir())
    found = label.stat()
    os.utime(label, ns=(found.st_atime_ns, found.st_mtime_ns + 1000))  # TFX's would not see it
    second = now()
    assert second != first
    image = next((folder / "images").iterdir())
    image.rename(image.with_name("other.png"))
    third = now()
    assert third not in (first, second)
    (folder / "images" / "other.png").rename(image)
    assert now() == second
    (folder / "m.csv").write_text(f"image,label\nimages/{image.name},labels/{image.name}\n")
    before = now("m.csv")
    os.utime(folder / "labels" / image.name, ns=(1, 1))
    assert now("m.csv") != before
    (folder / "labels" / image.name).unlink()
    assert now("m.csv") != before


def raws(folder, rule):
    with PairReader() as reader:
        return [reader.read(pair, rule) for pair in find_pairs(folder)]


def test_a_record_is_the_librarys_reading_bit_for_bit(folder):
    options = ExampleOptions(rule=CELLS.rule, sigma=3.3, separation=1)
    expected, report = load_samples(folder, rule=options.rule)
    for sample, raw in zip(expected, raws(folder, options.rule), strict=True):
        data, problems = make_record(raw, options)
        assert not problems
        back = read_record(data, folder, 0, options.rule)
        assert back.image.dtype == raw.image.dtype
        np.testing.assert_array_equal(back.image, raw.image)
        np.testing.assert_array_equal(back.labels, raw.labels)
        assert (back.digest, back.values) == (raw.digest, raw.values)
        found = back.sample(report.mapping)
        np.testing.assert_array_equal(found.instances, sample.instances)
        np.testing.assert_array_equal(found.border.weights, border_term(sample, 3.3, 1))
        assert found.border.weights.max() > 0.1
        assert (np.float32(found.border.sigma), found.border.separation) == (np.float32(3.3), 1)


def features(data):
    import tensorflow as tf

    found = tf.train.Example.FromString(data).features.feature
    kinds = {key: value.WhichOneof("kind") for key, value in found.items()}
    return {key: list(getattr(found[key], kind).value) for key, kind in kinds.items() if kind}


def written(tmp_path, image, labels):
    for kind, array in (("images", image), ("labels", labels)):
        (tmp_path / kind).mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    return tmp_path


def test_statistics_are_those_of_the_image(tmp_path):
    image = np.zeros((10, 20), np.uint8)
    image[:, :5] = 200
    labels = np.zeros((10, 20), np.uint8)
    labels[:3, :3], labels[5:, 10:14] = 4, 7
    (raw,) = raws(written(tmp_path, image, labels), CELLS.rule)
    found = features(make_record(raw, CELLS)[0])
    assert found["image/mean"] == [50]
    np.testing.assert_allclose(found["image/std"], image.std(), rtol=1e-6)
    assert (found["image/low"], found["image/high"]) == ([0], [200])
    assert (found["label/values"], found["label/cells"]) == ([0, 1], [2])
    np.testing.assert_allclose(found["label/foreground"], 29 / 200, rtol=1e-6)
    across = 2 * np.sqrt(np.array([9, 20]) / np.pi)
    np.testing.assert_allclose(found["label/diameter"], across.mean(), rtol=1e-6)
    assert found["image/group"] == [b""]

    rule = LabelRule(values=(0, 4), ignore=7)
    (raw,) = raws(tmp_path, rule)
    found = features(make_record(raw, ExampleOptions(rule=rule))[0])
    assert (found["label/values"], found["label/cells"]) == ([0, 4], [1])
    np.testing.assert_allclose(found["label/foreground"], 9 / 180, rtol=1e-6)

    (raw,) = raws(written(tmp_path, image, 0 * labels), CELLS.rule)
    empty = features(make_record(raw, CELLS)[0])
    assert (empty["label/values"], empty["label/cells"]) == ([0], [0])
    assert "label/diameter" not in empty


@pytest.mark.parametrize("value", [1, 255, 7])
def test_the_border_term_does_not_depend_on_how_a_set_is_settled(tmp_path, value):
    """An image's only object in two pieces: in a mask two cells, in numbered labels one."""
    labels = np.zeros((10, 30), np.uint8)
    labels[3:7, 3:9], labels[3:7, 12:18] = value, value
    (raw,) = raws(written(tmp_path, labels, labels), CELLS.rule)
    stored = read_record(make_record(raw, CELLS)[0], tmp_path, 0, CELLS.rule).border
    for found in ({0, value}, {0, 1, 2, 3}):  # of the whole set
        sample = raw.sample(CELLS.rule.resolve(found))
        np.testing.assert_array_equal(stored.weights, border_term(sample, 5.0, 2))
    assert (stored.weights.max() > 0) == (value != 7)


@pytest.mark.parametrize(
    ("rule", "values", "said"),
    [
        (LabelRule(num_classes=2), (0, 2), "holds label values out of range: 2"),
        (LabelRule(values=(0, 5, 9)), (0, 7), "holds label values out of range: 7"),
    ],
)
def test_labels_that_do_not_fit_the_rule_are_bad(tmp_path, rule, values, said):
    labels = np.resize(np.array(values, np.uint8), (8, 8))
    (raw,) = raws(written(tmp_path, labels, labels), rule)
    data, problems = make_record(raw, ExampleOptions(rule=rule))
    assert data is None
    assert f"a.png: {said}" in str(problems[0])


def test_options_are_checked():
    with pytest.raises(ConfigError, match="the label rule is .*; expected the values"):
        ExampleOptions(rule=LabelRule()).require_stated()
    assert CELLS.require_stated() is CELLS
    assert ExampleOptions.model_validate_json(CELLS.model_dump_json()) == CELLS
    for bad in ({"groups": "("}, {"max_bad_share": 1.5}, {"sigma": 0}, {"shards": 3}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ExampleOptions(rule=CELLS.rule, **bad)
