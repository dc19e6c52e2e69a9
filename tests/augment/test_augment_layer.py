"""`Augment`: what comes out, what stays exact, and that image, label and weight stay together."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_unet.augment import PRESETS, Augment, make_settings, sample_seeds
from keras_unet.augment.image_bank import ImageBank
from keras_unet.errors import ConfigError, DataError

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 256, (3, 21, 24, 2)).astype(np.uint8)
LABEL = RNG.integers(0, 60_000, (3, 21, 24)).astype(np.uint16)
WEIGHT = RNG.random((3, 21, 24)).astype(np.float32)


def test_an_identity_draw_changes_nothing():
    for layer in (Augment(), Augment.from_preset("none"), Augment(interpolation="bicubic")):
        image, label, weight = layer(IMAGE, LABEL, WEIGHT)
        np.testing.assert_array_equal(image.numpy(), IMAGE.astype(np.float32))
        np.testing.assert_array_equal(label.numpy(), LABEL)
        np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_options_that_the_coin_refuses_change_nothing():
    # Every option on, but the probability so small that no draw gets it: neutral values throughout.
    never = {f"{name}_p": 1e-9 for name in ("rotate", "scale", "shear", "elastic", "multiply")}
    never |= {f"{name}_p": 1e-9 for name in ("brightness", "contrast", "gamma", "noise", "blur")}
    layer = Augment(
        rotate=(-90, 90), scale=(0.5, 2), shear=(-9, 9), elastic_sigma=9, multiply=(0.5, 2),
        brightness=(-1, 1), contrast=(0.5, 2), gamma=(0.5, 2), noise=(1, 2), blur=(1, 2),
        low_resolution=(0.5, 0.6), low_resolution_p=1e-9, gamma_inverted_p=1e-9, per_channel=True,
        **never,
    )  # fmt: skip
    image = RNG.normal(0, 3, (2, 20, 22, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(image).numpy(), image)


def test_flips_are_exact_copies():
    for vertical, horizontal in ((1, 0), (0, 1), (1, 1)):
        layer = Augment(flip_vertical=vertical, flip_horizontal=horizontal)
        for given_, new in zip((IMAGE, LABEL, WEIGHT), layer(IMAGE, LABEL, WEIGHT), strict=True):
            expected = given_[:, :: 1 - 2 * vertical, :: 1 - 2 * horizontal]
            np.testing.assert_array_equal(new.numpy(), expected.astype(new.dtype.as_numpy_dtype))


@pytest.mark.parametrize("size", [(8, 8), (9, 9)])
def test_all_eight_symmetries_of_the_square_are_reached_exactly(size):
    layer = Augment.from_preset("flips")
    image = RNG.normal(size=(1, *size, 1)).astype(np.float32)
    label = RNG.integers(-(2**31), 2**31, (1, *size)).astype(np.int32)
    symmetries = [
        np.rot90(a, k) for k in range(4) for a in (image[0, ..., 0], image[0, ::-1, :, 0])
    ]
    many = [np.repeat(value, 200, axis=0) for value in (image, label)]
    new, new_label = (v.numpy() for v in layer(*many, seeds=sample_seeds(0, 0, np.arange(200))))
    found = [[np.array_equal(n[..., 0], s) for s in symmetries].index(True) for n in new]
    counts = np.bincount(found, minlength=8)
    assert (counts > 8).all(), counts
    turned = [np.rot90(a, k) for k in range(4) for a in (label[0], label[0, ::-1])]
    for n, k in zip(new_label, found, strict=True):
        np.testing.assert_array_equal(n, turned[k])


def test_rotation_turns_counter_clockwise():
    layer = Augment(rotate=(90, 90))
    image = RNG.random((1, 15, 15, 1)).astype(np.float32)
    turned = layer(image).numpy()[0]
    np.testing.assert_allclose(turned, np.rot90(image[0]), atol=1e-4)


def test_quarter_turns_of_odd_by_even_tiles_are_copies():
    # All values differ, so a mean of two pixels would be a new value.
    image = (2.0 ** np.arange(16 * 16) % 1013).reshape(1, 16, 16, 1).astype(np.float32)
    tiles = Augment(rotate="right_angles", tile=(5, 8))
    new = tiles(np.repeat(image, 40, axis=0), seeds=sample_seeds(1, 0, np.arange(40))).numpy()
    assert set(new.ravel()) <= set(image.ravel())


@pytest.mark.parametrize("preset", ["paper", "nnunet"])
def test_a_label_painted_into_the_image_stays_the_warped_label(preset):
    label = np.kron(RNG.integers(0, 200, (4, 8, 8)), np.ones((8, 8))).astype(np.int32)
    off = dict.fromkeys(
        ("multiply", "brightness", "contrast", "gamma", "noise", "blur", "low_resolution")
    )
    layer = Augment.from_preset(preset, **off)
    seeds = sample_seeds(1, 0, np.arange(4))
    image, new = layer(label[..., None].astype(np.float32), label, seeds=seeds)
    image, new = image.numpy()[..., 0], new.numpy()
    assert not np.array_equal(new, label)
    # Inside the blocks both are the same number; the image mixes numbers only next to an edge.
    pure = np.isin(image, np.unique(label)) & (np.abs(image - np.round(image)) < 1e-4)
    assert pure.mean() > 0.6
    agree = np.abs(image - new)[pure] < 1e-3
    assert agree.mean() > 0.995
    # And the label painted with a nearest image (weights 0 and 1 apart) is never a new id.
    assert set(np.unique(new)) <= set(np.unique(label))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "int64"])
def test_label_dtypes_and_ids_survive(dtype):
    top = min(np.iinfo(dtype).max, 2**62)
    label = RNG.integers(0, top, (2, 9, 9), dtype=np.int64).astype(dtype)
    image, new = Augment.from_preset("paper")(np.zeros((2, 9, 9, 1), np.uint16), label)
    assert new.dtype == dtype and image.dtype == "float32"
    assert set(new.numpy().ravel()) <= set(label.ravel())


def test_bfloat16_in_and_out():
    image = tf.cast(IMAGE, tf.bfloat16)
    assert Augment()(image).dtype == tf.float32
    layer = Augment.from_preset("paper", image_dtype="bfloat16")
    assert layer(image).dtype == tf.bfloat16


def test_intensity_never_touches_labels_and_weights():
    options = dict(PRESETS["nnunet"])
    grey = {k: v for k, v in options.items() if not k.startswith(("flip", "rotate", "scale"))}
    grey = {k: 1.0 if k.endswith("_p") else v for k, v in grey.items()}
    image, label, weight = Augment(grey)(IMAGE, LABEL, WEIGHT)
    assert not np.array_equal(image.numpy(), IMAGE)
    np.testing.assert_array_equal(label.numpy(), LABEL)
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_the_output_is_the_centre_of_the_tile():
    layer = Augment.from_preset("paper", tile=(30, 26), output=(14, 12), gamma=None, contrast=None,
                                brightness=None)  # fmt: skip
    place = RNG.integers(0, 2**20, (5, 40, 41)).astype(np.int32)
    image, label, weight = layer(
        place[..., None].astype(np.float32), place, place.astype(np.float32),
        seeds=sample_seeds(0, 0, np.arange(5)),
    )  # fmt: skip
    assert image.shape == (5, 30, 26, 1) and label.shape == (5, 14, 12) == weight.shape
    np.testing.assert_allclose(weight.numpy(), image.numpy()[:, 8:22, 7:19, 0], rtol=1e-5, atol=0.5)


@pytest.mark.parametrize(
    ("size", "tile", "channels"), [((19, 27), (24, 13), 3), ((1, 6), (4, 9), 1)]
)
def test_bank_and_batch_give_the_same(size, tile, channels):
    image = RNG.integers(0, 2**16, (2, *size, channels)).astype(np.uint16)
    label = RNG.integers(0, 300, (2, *size)).astype(np.int32)
    layer = Augment.from_preset("paper", tile=tile)
    seeds = sample_seeds(2, 1, np.arange(2))
    # A wider third image lets the two stand side by side in the bank.
    extra = RNG.integers(0, 2**16, (4, 60, channels)).astype(np.uint16)
    bank = ImageBank.from_arrays([*image, extra], [*label, np.zeros((4, 60), np.int32)])
    from_batch = layer(image, label, seeds=seeds)
    from_bank = layer.sample(bank, [0, 1], seeds)
    np.testing.assert_array_equal(from_batch[1].numpy(), from_bank[1].numpy())
    np.testing.assert_allclose(from_batch[0].numpy(), from_bank[0].numpy(), rtol=2e-4, atol=0.2)


def test_a_bank_normalises_after_resampling():
    bank = ImageBank.from_arrays([IMAGE[0]], shift=[[10.0, 20.0]], scale=[[0.5, 2.0]])
    image = Augment(tile=(21, 24)).sample(bank, 0, training=False).numpy()
    np.testing.assert_allclose(image[0], (IMAGE[0] - [10.0, 20.0]) * [0.5, 2.0], rtol=1e-6)


def test_tiles_cover_every_pixel_equally_and_larger_outputs_are_centred():
    size = 24
    place = np.arange(size * size, dtype=np.int32).reshape(size, size)
    bank = ImageBank.from_arrays([np.zeros((size, size, 1), np.uint8)], [place])
    for output in (8, 7):
        layer = Augment(tile=output + 4, output=output)
        _, label = layer.sample(bank, np.zeros(20_000, int), sample_seeds(0, 0, np.arange(20_000)))
        counts = np.bincount(label.numpy().ravel(), minlength=size * size).reshape(size, size)
        inner = counts[1:-1, 1:-1] / counts[1:-1, 1:-1].mean()
        assert inner.min() > 0.9 and inner.max() < 1.1
        # The outermost line is not repeated by mirroring: once where others show twice.
        assert 0.45 < counts[0, 1:-1].mean() / counts[1:-1, 1:-1].mean() < 0.55
    wide = Augment(tile=(28, 28)).sample(bank, 0)[1].numpy()[0]
    np.testing.assert_array_equal(wide, np.pad(place, 2, mode="reflect"))


def test_without_training_nothing_moves():
    layer = Augment.from_preset("paper")
    np.testing.assert_array_equal(layer(IMAGE, training=False).numpy(), IMAGE)
    centre = Augment.from_preset("paper", tile=(11, 10))(IMAGE, training=False).numpy()
    np.testing.assert_array_equal(centre, IMAGE[:, 5:16, 7:17])


def test_each_sample_has_its_own_draw_and_calls_differ():
    layer = Augment.from_preset("paper", seed=3)
    image = np.repeat(IMAGE[:1], 4, axis=0)
    first, second = layer(image).numpy(), layer(image).numpy()
    assert len({value.tobytes() for value in (*first, *second)}) == 8
    again = Augment.from_preset("paper", seed=3)
    np.testing.assert_array_equal(again(image).numpy(), first)


def test_config_round_trip_and_saved_model_file(tmp_path):
    layer = Augment.from_preset(
        "paper", tile=(16, 16), output=8, seed=4, elastic_sigma=3.0, name="augment"
    )
    config = layer.get_config()
    copy = Augment.from_config(config)
    assert copy.get_config() == config and copy.settings == layer.settings
    seeds = sample_seeds(0, 0, np.arange(3))
    np.testing.assert_array_equal(
        layer(IMAGE, LABEL, seeds=seeds)[1].numpy(), copy(IMAGE, LABEL, seeds=seeds)[1].numpy()
    )
    inputs = keras.Input((20, 20, 1))
    model = keras.Model(inputs, Augment.from_preset("flips", name="flips")(inputs))
    assert model.output.shape == (None, 20, 20, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.get_layer("flips").settings == make_settings(PRESETS["flips"])


def test_wrong_arguments_say_what_was_found():
    with pytest.raises(DataError, match=r"image must be \[batch, height, width, channels\]"):
        Augment()(np.zeros((4, 4, 1), np.float32))
    with pytest.raises(DataError, match="tile"):
        Augment().sample(ImageBank.from_arrays([IMAGE[0]]), 0)
    with pytest.raises(ConfigError, match="388.*at most the tile's height 380"):
        Augment(tile=380, output=388)
    with pytest.raises(ConfigError, match="even number"):
        Augment(tile=9, output=8)
    with pytest.raises(ConfigError, match="positive integer"):
        Augment(tile=(0, 3))
    with pytest.raises(ConfigError, match="unknown augmentation preset 'papier'"):
        Augment.from_preset("papier")
    with pytest.raises(ConfigError, match="augmentation: elastik: unknown"):
        Augment.from_preset("paper", elastik=3)
