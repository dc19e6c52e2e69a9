"""Who is held out: every image once, neighbours and groups together, reproducibly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError
from keras_unet.training.splits import (
    classes_of,
    group_of,
    hold_out,
    make_folds,
    require_classes,
    split,
)


def named(names):
    return [Sample(name, np.zeros((4, 4, 1), np.uint8)) for name in names]


def test_every_image_is_held_out_once_and_folds_are_even():
    names = [f"{i}" for i in range(13)]
    folds = make_folds(names, 5, seed=0)
    assert sorted((name for fold in folds for name in fold), key=int) == names
    assert sorted(map(len, folds)) == [2, 2, 3, 3, 3]
    assert make_folds(names, 5, seed=0) == folds
    assert make_folds(names, 5, seed=1) != folds


def test_pages_of_one_stack_are_held_out_as_neighbours():
    names = [f"stack:{i:03d}" for i in range(10)]
    assert make_folds(names, 5, seed=3) == [names[i : i + 2] for i in range(0, 10, 2)]


@pytest.mark.parametrize("seed", range(8))
def test_pages_stay_neighbours_beside_other_images(seed):
    names = ["other", *(f"single{i}" for i in range(4)), *(f"stack:{i:03d}" for i in range(10))]
    _, held = split(named(names), 0.2, seed=seed)
    pages = [int(s.name[6:]) for s in held if s.name.startswith("stack")]
    assert len(held) == 3
    assert pages in [[i, i + 1] for i in range(9)]
    folds = make_folds([*names[:1], *names[5:]], 3, seed=seed)
    for fold in folds:
        held_pages = [int(name[6:]) for name in fold if ":" in name]
        assert held_pages == list(range(held_pages[0], held_pages[0] + len(held_pages)))


def labelled(classes):
    """An image for each set of classes."""
    found = []
    for number, present in enumerate(classes):
        each = np.resize(np.array(sorted(present), np.int32), (4, 4))
        found.append(Sample(f"{number}", np.zeros((4, 4, 1), np.uint8), each))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_both_sides_get_each_class_where_that_can_be(seed):
    training, held = split(labelled([{0, 1}] * 8 + [{0, 1, 2}] * 2), 0.2, seed)
    assert classes_of(training) == classes_of(held) == {0, 1, 2}
    require_classes(training, held)


def test_a_class_that_one_side_lacks_is_named():
    samples = labelled([{-1, 0, 1}] * 4 + [{0, 1, 2}])
    with pytest.raises(ConfigError, match=r"validation images have no pixel of class \[2\]"):
        require_classes(samples, samples[:2])
    with pytest.raises(ConfigError, match=r"4 training images have no pixel of class \[2\]"):
        require_classes(samples[:4], samples[4:])
    training, held = split(samples, 0.2, seed=0)  # no draw is fair: the seed's own
    assert (len(training), len(held)) == (4, 1)


def test_whole_stacks_where_there_are_enough():
    names = [f"{stack}:{i:03d}" for stack in "abcdef" for i in range(3)]
    folds = make_folds(names, 3, seed=0)
    assert [len(fold) for fold in folds] == [6, 6, 6]
    for fold in folds:
        assert len({name[0] for name in fold}) == 2


def test_groups_stay_together_and_large_ones_are_dealt_first():
    names = [
        f"mouse{m}_slice{i}" for m, count in ((1, 6), (2, 3), (3, 2), (4, 1)) for i in range(count)
    ]
    folds = make_folds(names, 2, seed=0, groups=r"mouse\d+")
    animals = [{name.split("_")[0] for name in fold} for fold in folds]
    assert not animals[0] & animals[1]
    assert sorted(len(fold) for fold in folds) == [6, 6]
    training, held = split(named(names), 0.25, seed=0, groups=r"(mouse\d+)_")
    assert not {s.name[:6] for s in training} & {s.name[:6] for s in held}
    assert len(held) >= 3
    assert training


def test_a_name_without_a_match_is_a_group_of_its_own():
    assert group_of("a_1", r"^(\w)_") == group_of("a_2", r"^(\w)_")
    assert group_of("other", r"^(\w)_") != group_of("another", r"^(\w)_")
    assert group_of("a", None) != group_of("b", None)


def test_named_images_are_held_out():
    training, held = hold_out(named("abc"), ["c", "a"])
    assert [s.name for s in training] == ["b"]
    assert [s.name for s in held] == ["a", "c"]
    with pytest.raises(ConfigError, match="No image is called z"):
        hold_out(named("abc"), ["z"])
    with pytest.raises(ConfigError, match="not all of them"):
        hold_out(named("abc"), list("abc"))


@pytest.mark.parametrize(
    ("names", "folds", "groups", "message"),
    [
        ("abc", 4, None, "4 folds of 3 images"),
        ("abc", 1, None, "1 folds"),
        (["m1_a", "m1_b", "m2_a"], 3, r"m\d", "gives 2"),
    ],
)
def test_too_few_to_fold(names, folds, groups, message):
    with pytest.raises(ConfigError, match=message):
        make_folds(list(names), folds, seed=0, groups=groups)
    if groups is not None:
        with pytest.raises(ConfigError, match="one group"):
            split(named(names[:2]), 0.5, seed=0, groups=groups)


def test_a_class_that_one_image_holds_gets_advice_that_can_help():
    samples = labelled([{0, 1}] * 4 + [{0, 1, 2}])
    for training, held in ((samples, samples[:2]), (samples[:4], samples[4:])):
        with pytest.raises(ConfigError, match=r"4 alone holds class 2 \(label value 70\)") as error:
            require_classes(training, held, (0, 30, 70))
        assert "another seed" not in str(error.value) and "hold out" not in str(error.value)
        assert "label_ignore=70" in str(error.value)
    copied = [*samples, replace(samples[4], name="c")]
    require_classes(*split(copied, 0.2, seed=0))  # as it says
