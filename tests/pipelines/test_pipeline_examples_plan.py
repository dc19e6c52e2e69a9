"""What ImageExampleGen decides before and without Beam: pairs, groups, splits, shards."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from keras_unet.data import LabelRule, Pair, find_pairs
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from pipelines.examples import ExampleOptions
from pipelines.examples.items import fingerprint, list_source
from pipelines.examples.plan import from_lines, list_pairs, make_shards, split_pairs, to_lines

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
        f"images/{c},.,",
    )
    assert [(p.name, p.group) for p in pairs] == [
        (f"images/{a[:-4]}", "mouse 1"),
        (f"images/{b[:-4]}", ""),
    ]
    assert pairs[0].label == folder / "labels" / a
    said = [str(problem).partition("cells.csv, line ")[2] for problem in problems]
    assert [line[:2] for line in said] == ["4:", "5:", "6:", "7:", "8:", "9:"]
    assert "again, after line 2" in said[0]
    assert "has the image ../" in said[1] and "within the manifest's folder" in said[1]
    assert "has the label /etc/passwd" in said[2]
    assert "names no label" in said[3]
    assert "another number of fields" in said[4]
    assert "has the label ." in said[5]


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
    with pytest.raises(DataError, match="span-3: does not exist; expected the images"):
        list_source(str(tmp_path), "span-3/*/*")
    (tmp_path / "span-3").mkdir()
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
    for other in (".a.png", "Thumbs.db"):  # nobody reads them
        (folder / "images" / other).touch()
    assert now() == second
    (folder / "m.csv").write_text(f"image,label\nimages/{image.name},labels/{image.name}\n")
    before = now("m.csv")
    os.utime(folder / "labels" / image.name, ns=(1, 1))
    assert now("m.csv") != before
    (folder / "labels" / image.name).unlink()
    assert now("m.csv") != before


def test_options_are_checked():
    with pytest.raises(ConfigError, match="the label rule is .*; expected the values"):
        ExampleOptions(rule=LabelRule()).require_stated()
    assert CELLS.require_stated() is CELLS
    assert ExampleOptions.model_validate_json(CELLS.model_dump_json()) == CELLS
    for bad in ({"groups": "("}, {"max_bad_share": 1.5}, {"sigma": 0}, {"shards": 3}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ExampleOptions(rule=CELLS.rule, **bad)
