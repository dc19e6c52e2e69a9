"""The tf.data pipeline: tiles of image, class and weight that belong together, reproducibly."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from keras_unet import build_unet
from keras_unet.augment import Augment
from keras_unet.data import LabelRule, load_dataset
from keras_unet.data.normalization import Normalization
from keras_unet.data.pipeline import Target, fill_bank, tile_dataset, tile_entries
from keras_unet.data.samples import Sample
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError, DataError
from keras_unet.losses import WeightedCrossEntropy


def bank(sizes):
    """Images whose value, class and weight tell the image and the pixel they came from."""
    samples, made = [], []
    for number, size in enumerate(sizes):
        classes = np.random.default_rng(number).integers(0, 9, size).astype(np.uint8)
        image = (10 * classes[..., None] + number).astype(np.uint8)
        samples.append(Sample(f"{number}", image, classes.astype(np.int32), None))
        made.append(Target(classes, classes.astype(np.float32) + 0.5))
    return fill_bank(samples, made, Normalization(method="range", scale=255.0))


def take(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def test_image_class_and_weight_move_together():
    sizes = [(40, 50), (33, 21), (64, 64)]
    augment = Augment.from_preset("flips", tile=28, output=12)
    data = tile_dataset(bank(sizes), augment, np.arange(3), batch_size=2, seed=1)
    for image, classes, weight in take(data, 6):
        assert (image.shape, classes.shape) == ((2, 28, 28, 1), (2, 12, 12))
        assert (image.dtype, classes.dtype, weight.dtype) == (np.float32, np.int32, np.float32)
        stored = np.rint(image[:, 8:20, 8:20, 0] * 255)
        np.testing.assert_array_equal(stored // 10, classes)
        np.testing.assert_array_equal(weight, classes + 0.5)


def test_every_image_comes_once_an_epoch_in_changing_order():
    augment = Augment.from_preset("none", tile=4, output=4)
    data = tile_dataset(bank([(20, 20)] * 7), augment, np.arange(7), batch_size=1, seed=3)
    order = [round(float(image[0, 0, 0, 0]) * 255) % 10 for image, _, _ in take(data, 21)]
    epochs = [order[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_same_seed_gives_the_same_bytes_however_many_threads():
    augment = Augment.from_preset("paper", tile=36, output=20)
    runs = [
        take(
            tile_dataset(
                bank([(60, 50), (45, 70)]),
                augment,
                np.arange(2),
                batch_size=2,
                seed=seed,
                parallel=n,
            ),
            5,
        )
        for seed, n in [(5, 1), (5, 2), (5, 4), (6, 2)]
    ]
    for other in runs[1:3]:
        for a, b in zip(runs[0], other, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
    assert not np.array_equal(runs[0][0][0], runs[3][0][0])


def test_large_images_are_drawn_more_often():
    np.testing.assert_array_equal(
        tile_entries([(100, 100), (300, 200), (10, 10)], 100), [0] + [1] * 6 + [2]
    )


def test_load_dataset_trains_a_keras_model(tmp_path):
    write_dataset(tmp_path, train=2, val=1, size=(96, 96), seed=0)
    data = load_dataset(
        tmp_path / "train", rule=LabelRule(kind="instances"), tile=92, depth=2, batch_size=2
    )
    image, classes, weight = next(iter(data))
    assert image.shape == (2, 92, 92, 1)
    assert classes.shape == weight.shape == (2, 52, 52)
    assert abs(float(image.numpy().mean())) < 2  # normalised
    model = build_unet(filters=2, depth=2)
    model.compile("adam", WeightedCrossEntropy(), jit_compile=False)
    history = model.fit(data, steps_per_epoch=2, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_an_augment_without_a_tile_gets_the_networks(tmp_path):
    write_dataset(tmp_path, train=1, val=1, size=(96, 96), seed=0)
    rule = LabelRule(kind="instances")
    tiles = [
        next(iter(load_dataset(tmp_path / "train", rule=rule, tile=92, depth=2, augment=augment)))
        for augment in ("flips", Augment.from_preset("flips"))
    ]
    for named, given in zip(*tiles, strict=True):
        np.testing.assert_array_equal(named, given)


def test_bad_input(tmp_path):
    write_dataset(tmp_path, train=2, val=1, size=(64, 64), seed=0)
    with pytest.raises(ConfigError, match="93.*92 and 96"):
        load_dataset(tmp_path / "train", tile=93, depth=2)
    with pytest.raises(DataError, match="labels"):
        load_dataset(tmp_path / "train" / "images", tile=92, depth=2)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint32, np.float32])
def test_every_stored_dtype_is_trained_on(tmp_path, dtype):
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for name in "ab":
        labels = rng.integers(0, 2, (40, 40)).astype(np.uint8)
        image = (1000 * labels.astype(np.int64) - (500 if dtype == np.int16 else 0)).astype(dtype)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image)
        tifffile.imwrite(tmp_path / "labels" / f"{name}.tif", labels)
    data = load_dataset(tmp_path, tile=40, depth=1, augment="none")
    image, classes, _ = next(iter(data))
    inside = image.numpy()[0, 8:-8, 8:-8, 0]
    assert np.corrcoef(inside.ravel(), classes.numpy()[0].ravel())[0, 1] > 0.999
