"""Partly labelled images: tiles lie where labels are, and ignored pixels teach nothing."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet.augment import Augment, sample_seeds
from keras_unet.data import LabelRule, load_dataset, load_samples
from keras_unet.data.normalization import Normalization
from keras_unet.data.partial_labels import (
    labelled_places,
    nearest_class,
    places_of_tiles,
    whole_objects,
)
from keras_unet.data.pipeline import (
    fill_bank,
    for_partial_labels,
    foreground_pixels,
    targets,
    tile_dataset,
    tile_entries,
    tile_requests,
)
from keras_unet.data.samples import Sample


def sample(classes, name="a"):
    return Sample(name, np.zeros((*classes.shape, 1), np.uint8), classes)


def strokes():
    """One of each class in 200 × 260 pixels, far apart; all else is ignored."""
    classes = np.full((200, 260), -1, np.int32)
    classes[20:23, 30:60] = 1
    classes[150:190, 240:243] = 0
    return classes


def test_centres_lie_in_blocks_with_labels_each_as_often():
    mask = strokes() >= 0
    places = labelled_places([~mask, mask], 40)
    assert (places.images[0] == (0, 20 * 26)).all()  # every block of the first
    count = 4000
    index = np.ones(count, np.int32)
    centres = places.choose(index, sample_seeds(3, 0, np.arange(count, dtype=np.int32))).numpy()
    blocks, often = np.unique(centres // 10, axis=0, return_counts=True)
    expected = np.argwhere(mask.reshape(20, 10, 26, 10).any(axis=(1, 3)))
    np.testing.assert_array_equal(blocks, expected)
    assert len(blocks) == 7
    assert abs(often / count - 1 / 7).max() < 0.02
    assert len(np.unique(centres % 10, axis=0)) == 100  # anywhere in a block


def test_blocks_at_the_edge_end_with_the_image():
    mask = np.zeros((25, 33), bool)
    mask[24, 32] = True
    places = labelled_places([mask], 40)
    assert places.blocks.tolist() == [[20, 30, 5, 3]]
    index = np.zeros(200, np.int32)
    centres = places.choose(index, sample_seeds(0, 0, np.arange(200, dtype=np.int32))).numpy()
    assert centres.min(axis=0).tolist() == [20, 30] and centres.max(axis=0).tolist() == [24, 32]


def test_the_share_of_labels_in_tiles():
    mask = np.zeros((100, 100), bool)
    mask[40:50, 60:70] = True
    places = labelled_places([mask, np.zeros((30, 30), bool)], 40)
    assert places.blocks.tolist() == [[40, 60, 10, 10]]
    assert places.share == pytest.approx(100 / 40**2)  # not 100 / 10900
    assert places.areas.tolist() == [100, 0]


def test_labels_all_over_the_images_need_no_places():
    every = np.zeros((80, 80), bool)
    every[::7, ::7] = True
    assert places_of_tiles([every], 40) is None
    every[:, :20] = False
    assert places_of_tiles([every], 40) is not None
    assert places_of_tiles([np.ones((8, 8), bool)], 40) is None


def test_an_epoch_follows_the_labelled_area():
    masks = [np.zeros((200, 200), bool) for _ in range(4)]
    masks[0][:] = True
    masks[1][:100] = True
    masks[2][:5, :5] = True
    entries = tile_entries([m.shape for m in masks], 40, labelled_places(masks, 40))
    assert np.bincount(entries, minlength=4).tolist() == [25, 12, 1, 0]


def test_requests_depend_on_their_place_alone():
    places = labelled_places([strokes() >= 0] * 3, 40)
    entries = np.arange(3, dtype=np.int32)
    table = foreground_pixels([(strokes() == 1).astype(np.uint8)] * 3, 0.5)

    def requests(batch, start=0):
        made = tile_requests(
            entries, batch_size=batch, seed=5, start=start, places=places, foreground=table
        )
        return [np.concatenate(part) for part in zip(*made.take(12 // batch), strict=True)]

    whole = requests(1)
    for one, three in zip(whole, requests(3), strict=True):
        np.testing.assert_array_equal(one, three)
    for one, later in zip(whole, requests(1, start=4), strict=True):
        np.testing.assert_array_equal(one[4:], later[:8])
    plain = next(iter(tile_requests(entries, batch_size=12, seed=5)))
    np.testing.assert_array_equal(plain[1], whole[1])  # all else is drawn as before


def test_every_tile_holds_labels_where_random_ones_seldom_do():
    samples = [sample(strokes())]
    made, places = for_partial_labels(samples, targets(samples, 2, w0=0), 40)
    bank = fill_bank(samples, made, Normalization(method="range", scale=255.0))
    augment = Augment.from_preset("paper", tile=56, output=40)

    def held(**given):
        entries = tile_entries([(200, 260)], 40, given.get("places"))
        data = tile_dataset(bank, augment, entries, batch_size=8, seed=0, **given)
        return np.concatenate([w.numpy().max(axis=(1, 2)) > 0 for _, _, w in data.take(8)])

    assert held(places=places).all()
    assert held().mean() < 0.5


def test_no_pixel_with_weight_has_the_class_of_an_ignored_one():
    """Turned and bent, a stroke's edge mixes weights of pixels inside and outside of it."""
    classes = np.full((120, 120), -1, np.int32)
    classes[40:43, 10:110] = 1
    samples = [sample(classes)]
    made, places = for_partial_labels(samples, targets(samples, 2, w0=0), 60)
    bank = fill_bank(samples, made, Normalization(method="range", scale=255.0))
    augment = Augment.from_preset("paper", tile=60, elastic_sigma=3.0)
    entries = tile_entries([(120, 120)], 60, places)
    data = tile_dataset(bank, augment, entries, batch_size=8, seed=0, places=places)
    _, found, weight = next(iter(data))
    assert (weight.numpy() % 1 > 0).any()  # mixed ones
    assert (found.numpy()[weight.numpy() > 0] == 1).all()


def test_ignored_pixels_have_the_nearest_class_and_none_without_any():
    classes = np.array([[2, -1, -1, -1, 0]])
    assert nearest_class(classes)[0, [0, 1, 3, 4]].tolist() == [2, 2, 0, 0]
    assert nearest_class(np.full((2, 2), -1)).tolist() == [[0, 0], [0, 0]]
    whole = np.array([[0, 1]])
    assert nearest_class(whole).tolist() == [[0, 1]]


def test_weights_make_up_for_few_labels():
    """A loss that is the mean over all pixels is that over the labelled ones, on average."""
    samples = [sample(strokes()), sample(strokes()[::-1], "b")]
    made = targets(samples, 2, w0=0, class_weights="none")
    scaled, places = for_partial_labels(samples, made, 40)
    bank = fill_bank(samples, scaled, Normalization(method="range", scale=255.0))
    augment = Augment.from_preset("none", tile=40)
    entries = tile_entries([s.image.shape[:2] for s in samples], 40, places)
    data = tile_dataset(bank, augment, entries, batch_size=50, seed=0, places=places)
    mean = np.mean([w.numpy().mean() for _, _, w in data.take(10)])
    assert mean == pytest.approx(1, abs=0.1)
    whole = [sample(np.zeros((8, 8), np.int32)), sample(np.ones((8, 8), np.int32), "b")]
    made = targets(whole, 2)
    same, places = for_partial_labels(whole, made, 8)
    assert places is None and all(a is b for a, b in zip(same, made, strict=True))


def test_rare_pixels_to_centre_on_are_labelled_ones():
    classes = strokes()
    (made,) = targets([sample(classes)], 2, w0=0)
    assert (made.classes == 1).sum() > 1000  # with ignored ones
    table = foreground_pixels([np.where(made.weight > 0, made.classes, 0)], 1.0)
    assert (classes[tuple(table.pixels.T)] == 1).all() and len(table.pixels) == 90


def test_no_border_is_seen_between_strokes_that_may_be_in_one_cell():
    classes = np.full((60, 60), -1, np.int32)
    classes[10:14, 10:50] = classes[20:24, 10:50] = 1
    classes[16:18, 10:50] = 0  # background right between the two
    (open_sided,) = targets([sample(classes)], 2, class_weights="none")
    assert open_sided.weight.max() == 1  # the strokes may meet beside it
    classes[14:20, :] = 0
    (divided,) = targets([sample(classes)], 2, class_weights="none")
    assert divided.weight[17, 30] > 4


def test_instances_keep_their_border_weights_beside_ignored_pixels():
    instances = np.zeros((40, 60), np.int32)
    instances[10:30, 10:24], instances[10:30, 27:40] = 1, 2
    known = (instances > 0).astype(np.int32)
    known[:, 45:] = -1
    image = np.zeros((40, 60, 1), np.uint8)
    (made,) = targets([Sample("a", image, known, instances)], 2, class_weights="none")
    assert made.weight[20, 25] > 5
    assert (made.weight[:, 45:] == 0).all()
    assert (made.classes[10:30, 23] == 1).all()  # no separating line where nothing touches


def test_objects_that_ignored_pixels_touch_are_not_whole():
    objects = np.zeros((9, 9), np.int32)
    objects[1:3, 1:3], objects[5:7, 1:3], objects[1:3, 6:8] = 1, 2, 3
    ignored = np.zeros((9, 9), bool)
    ignored[7, 3] = True  # at a corner of 2
    found = whole_objects(objects, ignored)
    assert np.unique(found).tolist() == [0, 1, 3]


def scribbled(folder, value, classes=(0, 1), images=4):
    """Images with one stroke of 150 px of each class; everything else has `value`."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(images):
        labels = np.full((96, 96), value, np.uint8)
        for k, stored in enumerate(classes):
            labels[8 + 12 * k : 11 + 12 * k, 10:60] = stored
        Image.fromarray(labels).save(folder / f"labels/{number}.png")
        grey = rng.integers(0, 255, (96, 96), np.uint8)
        Image.fromarray(grey).save(folder / f"images/{number}.png")
    return folder


@pytest.mark.parametrize(
    ("value", "classes", "rule"),
    [
        (255, (0, 1), LabelRule(ignore=255)),
        (0, (1, 2), LabelRule(values=(1, 2), ignore=0)),  # as napari paints them
        (9, (0, 1, 2), LabelRule(ignore=9)),  # a stroke a class is no object
    ],
)
def test_strokes_of_any_values_are_read_and_drawn(tmp_path, value, classes, rule):
    folder = scribbled(tmp_path / "a", value, classes)
    samples, report = load_samples(folder, rule=rule, need_labels=True)
    assert report.mapping.num_classes == len(classes)
    assert [int((samples[0].classes == k).sum()) for k in range(len(classes))] == [150] * len(
        classes
    )
    data = load_dataset(folder, rule=rule, tile=32, padding="same", batch_size=4, w0=0)
    for _, labels, weight in data.take(3):
        assert (weight.numpy().max(axis=(1, 2)) > 0).all()
        assert labels.numpy().max() < len(classes)


def test_regions_that_do_not_count_are_no_objects(tmp_path):
    folder = scribbled(tmp_path / "a", 255, (0, 7))
    rule = LabelRule(kind="instances", ignore=255)
    notes = load_samples(folder, rule=rule)[1].notes
    assert not any("separate regions" in note for note in notes)


@pytest.mark.parametrize(("images", "few"), [(1, True), (2, False)])
def test_too_few_labels_are_said_to_be_so(tmp_path, images, few):
    folder = scribbled(tmp_path / "a", 255, images=images)
    notes = load_samples(folder, rule=LabelRule(ignore=255))[1].notes
    said = [note for note in notes if "hardly enough to learn" in note]
    assert [note[:33] for note in said] == (
        ["class 0 has 150 labelled pixels i", "class 1 has 150 labelled pixels i"] if few else []
    )
