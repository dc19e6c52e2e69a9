"""What label values are taken to mean, and what is refused rather than guessed."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from keras_unet.data.label_rule import IGNORED, LabelMapping, LabelRule
from keras_unet.errors import DataError


def _classes(rule, labels):
    labels = np.asarray(labels, np.int32)
    return rule.resolve(np.unique(labels).tolist()).classes(labels).tolist()


def test_contiguous_values_are_classes_as_they_are():
    mapping = LabelRule().resolve([2, 0, 1])
    assert mapping.values == (0, 1, 2) and mapping.num_classes == 3 and not mapping.notes
    assert _classes(LabelRule(), [[0, 2], [1, 1]]) == [[0, 2], [1, 1]]


def test_0_and_255_become_0_and_1_and_it_is_said():
    for rule in (LabelRule(), LabelRule(num_classes=2)):
        mapping = rule.resolve([0, 255])
        assert mapping.values == (0, 255) and mapping.num_classes == 2
        assert mapping.notes == ("label values 0 and 255 are read as classes 0 and 1",)
        assert mapping.classes(np.array([[255, 0]])).tolist() == [[1, 0]]


@pytest.mark.parametrize("found", [[], [0], [1], [0, 1]])
def test_there_are_always_two_classes(found):
    assert LabelRule().resolve(found).values == (0, 1)


def test_stated_values_keep_their_order():
    assert _classes(LabelRule(values=(255, 0, 128)), [[0, 128, 255]]) == [[1, 2, 0]]
    mapping = LabelRule(values=(0, 128, 255)).resolve([0, 255])
    assert mapping.values == (0, 128, 255)
    assert mapping.notes == ("no pixel has the label value 128",)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            range(27),
            "found 27 distinct label values, 0…26: if each number is one object, set "
            'data.label_kind = "instances" (--instances); if they are classes, set '
            "data.num_classes = 27 (--set data.num_classes=27)",
        ),
        ([0, 128, 255], "if they are classes, set data.label_values = [0, 128, 255]"),
        ([0, 1, 255], "if 255 marks pixels that shall not count, set data.label_ignore = 255"),
        ([0, 2], "set data.label_values = [0, 2]"),
        (range(0, 4000, 40), "list the value of each in data.label_values"),
    ],
)
def test_what_is_open_is_refused_with_the_ways_out(found, words):
    with pytest.raises(DataError) as error:
        LabelRule().resolve(found)
    assert words in str(error.value)


def test_the_ways_out_work():
    assert LabelRule(kind="instances").resolve(range(27)).num_classes == 2
    assert LabelRule(num_classes=27).resolve(range(27)).num_classes == 27
    assert LabelRule(ignore=255).resolve([0, 1, 255]).num_classes == 2


def test_values_beyond_the_stated_ones():
    with pytest.raises(DataError, match="found label values 0, 1, 3; expected 0, 1, 2, as stated"):
        LabelRule(num_classes=3).resolve([0, 1, 3])
    mapping = LabelRule().resolve([0, 1])
    with pytest.raises(DataError, match="found label values 7; expected 0, 1"):
        mapping.classes(np.array([[0, 7]]))
    with pytest.raises(DataError, match="found label values -1"):
        mapping.classes(np.array([[0, -1]]))


def test_ignored_pixels():
    rule = LabelRule(values=(0, 5), ignore=9)
    assert _classes(rule, [[0, 5, 9]]) == [[0, 1, IGNORED]]
    cells = LabelRule(kind="instances", ignore=9).resolve([0, 1, 2, 9])
    labels = np.array([[0, 1, 2, 9]])
    assert cells.classes(labels).tolist() == [[0, 1, 1, IGNORED]]
    assert cells.instances(labels).tolist() == [[0, 1, 2, 0]]


def test_instances_keep_their_numbers():
    labels = np.array([[0, 7], [70000, 7]], np.int32)
    mapping = LabelRule(kind="instances").resolve([0, 7, 70000])
    assert not mapping.split and not mapping.notes
    assert mapping.instances(labels).tolist() == labels.tolist()
    assert mapping.classes(labels).tolist() == [[0, 1], [1, 1]]
    assert LabelRule().resolve([0, 1]).instances(labels) is None


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_in_instances_mode_is_split_and_it_is_said(value):
    mapping = LabelRule(kind="instances").resolve([0, value])
    assert "each 4-connected region is taken as one object" in mapping.notes[0]
    mask = value * np.array([[1, 1, 0, 1], [0, 0, 1, 0]])
    assert mapping.instances(mask).tolist() == [[1, 1, 0, 2], [0, 0, 3, 0]]


def test_negative_numbers_are_no_objects():
    with pytest.raises(DataError, match="found label values -1, 0, 4; expected 0 for background"):
        LabelRule(kind="instances").resolve([0, 4, -1])


@pytest.mark.parametrize(
    "rule",
    [
        LabelRule(),
        LabelRule(kind="instances", ignore=9),
        LabelRule(values=(0, 255, 128)),
    ],
)
def test_the_mapping_is_stored_and_reads_other_sets_alike(rule):
    mapping = rule.resolve([0, 255])
    again = LabelMapping.model_validate_json(mapping.model_dump_json())
    assert again == mapping
    assert again.as_rule().resolve([0]).num_classes == mapping.num_classes  # a class is absent
    labels = np.array([[0, 255, 0]])
    other = again.as_rule().resolve([0, 255])
    assert other.classes(labels).tolist() == mapping.classes(labels).tolist()


def test_a_mask_of_ones_and_one_of_255_mean_the_same():
    rule = LabelRule().resolve([0, 255]).as_rule()
    assert rule.resolve([0, 1]).classes(np.array([[0, 1]])).tolist() == [[0, 1]]
    rule = LabelRule().resolve([0, 1]).as_rule()
    assert rule.resolve([0, 255]).classes(np.array([[0, 255]])).tolist() == [[0, 1]]
    with pytest.raises(DataError, match="expected 0, 1"):
        rule.resolve([0, 1, 2])


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "objects"},
        {"kind": "instances", "values": (0, 1)},
        {"kind": "instances", "num_classes": 5},
        {"num_classes": 1},
        {"values": (0,)},
        {"values": (0, 1, 1)},
        {"values": (0, 1), "num_classes": 3},
        {"values": (0, 1), "ignore": 1},
        {"colour": "red"},
    ],
)
def test_rules_that_contradict_themselves(fields):
    with pytest.raises(ValidationError):
        LabelRule(**fields)
