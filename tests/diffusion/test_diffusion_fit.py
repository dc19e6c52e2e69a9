"""`DiffusionModel` in a Keras script: fit, average, save, resume, sample."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet.diffusion import (
    DDIM,
    DiffusionModel,
    NoiseSchedule,
    build_autoencoder,
    build_diffusion_unet,
)
from keras_unet.errors import ConfigError

SMALL = {"filters": (8, 16), "norm_groups": 4, "layers_per_block": 1}


def images(count=8, size=8, channels=1):
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size, channels)).astype("float32")


def by_class(**options):
    unet = build_diffusion_unet((8, 8, 1), num_classes=4, **SMALL)
    model = DiffusionModel(unet, condition_dropout=0.2, unconditional=3, gamma=5.0, **options)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    return model


@pytest.fixture(scope="module")
def trained():
    model = by_class(average=0.9, seed=3)
    model.fit(images(), np.arange(8) % 3, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


def test_training_changes_the_network_and_its_average_follows(trained):
    assert int(trained.draws.numpy()) == 4
    for mean, now in zip(trained.averaged.weights, trained.unet.weights, strict=True):
        assert not np.array_equal(mean, now)
    # after n steps the decay is (1 + n) / (10 + n): the average is near the weights by now
    far = [
        np.abs(m - w).max()
        for m, w in zip(trained.averaged.weights, trained.unet.weights, strict=True)
    ]
    assert max(far) < 4e-3


def test_a_saved_model_goes_on_to_the_same_bits(tmp_path):
    def fit(model, first, last):
        x, y = images(), np.arange(8) % 3
        for k in range(first, last):
            model.train_on_batch(x[2 * k : 2 * k + 2], y[2 * k : 2 * k + 2])

    keras.utils.set_random_seed(0)
    whole = by_class(average=0.9)
    start = whole.get_weights()
    fit(whole, 0, 4)
    keras.utils.set_random_seed(1)
    half = by_class(average=0.9)
    half.set_weights(start)
    fit(half, 0, 2)
    half.save(tmp_path / "half.keras")
    rest = keras.saving.load_model(tmp_path / "half.keras")
    fit(rest, 2, 4)
    for before, after in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_samples_are_a_function_of_the_seed(trained, tmp_path):
    options = {"steps": 4, "seed": 7, "guidance": 2.0}
    first = trained.sample(np.arange(3), **options)
    assert first.shape == (3, 8, 8, 1) and first.dtype == np.float32
    np.testing.assert_array_equal(first, trained.sample(np.arange(3), **options))
    np.testing.assert_array_equal(
        first, trained.sample(np.arange(3), progress=lambda done, total: None, **options)
    )
    assert not np.allclose(first, trained.sample(np.arange(3), **{**options, "seed": 8}))
    assert not np.allclose(first, trained.sample(np.array([0, 1, 1]), **options))
    np.testing.assert_allclose(trained.sample([0], **options), first[:1], atol=1e-4)
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(first, loaded.sample(np.arange(3), **options))


def test_the_loss_is_that_of_the_schedule_and_the_prediction():
    """A network that answers 0 has the mean square of what it is asked for."""

    def loss(prediction, **options):
        model = DiffusionModel(
            build_diffusion_unet((16, 16, 1), **SMALL), None, prediction=prediction, **options
        )
        model.compile("adam")
        model.unet.set_weights([np.zeros_like(w) for w in model.unet.get_weights()])
        return float(model.compute_loss(x, training=False))

    x = np.full((64, 16, 16, 1), 0.5, np.float32)
    assert loss("sample") == pytest.approx(0.25, rel=1e-5)
    assert loss("epsilon") == pytest.approx(1.0, rel=0.03)
    # v = sqrt(a) noise - sqrt(1 - a) image, averaged over the times
    left = NoiseSchedule().alphas_cumprod
    assert loss("v") == pytest.approx(np.mean(left + (1 - left) * 0.25), rel=0.2)


def test_masks_are_concatenated_and_shown_in_latents():
    autoencoder = build_autoencoder(
        (None, None, 1), filters=(8, 8), norm_groups=4, latent_channels=2, mid_attention=False
    )
    unet = build_diffusion_unet((None, None, 2 + 3), 2, **SMALL)
    model = DiffusionModel(unet, autoencoder, prediction="v")
    model.compile("adam", jit_compile=False)
    masks = np.random.default_rng(1).integers(0, 3, (4, 16, 16))
    before = autoencoder.get_weights()
    model.fit(images(4, 16), masks, epochs=1, verbose=0)
    for old, new in zip(before, autoencoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    drawn = model.sample(masks[:2], steps=2, seed=0, sampler=DDIM(eta=0.5))
    assert drawn.shape == (2, 16, 16, 1)
    with pytest.raises(ConfigError, match="expected 3"):
        model.sample(np.zeros((1, 16, 16, 2), np.float32), steps=2)


def test_images_alone():
    model = DiffusionModel(build_diffusion_unet((None, None, 2), **SMALL), average=None)
    model.compile("adam", jit_compile=False)
    model.fit(images(4, 10, 2), epochs=1, verbose=0)
    drawn = model.sample(steps=2, count=2, size=(9, 13), sampler="ddpm", seed=1)
    assert drawn.shape == (2, 9, 13, 2) and model.averaged is None
    with pytest.raises(ConfigError, match="expected size"):
        model.sample(steps=2)
    with pytest.raises(ConfigError, match="no condition"):
        model.sample(np.arange(2), steps=2, size=(9, 13))


def test_parts_that_do_not_fit_are_refused():
    unet = build_diffusion_unet((8, 8, 1), num_classes=4, **SMALL)
    with pytest.raises(ConfigError, match="unconditional"):
        DiffusionModel(unet, condition_dropout=0.1)
    with pytest.raises(ConfigError, match="'epsilon', 'sample' or 'v'"):
        DiffusionModel(unet, prediction="noise")
    with pytest.raises(ConfigError, match="learned variances"):
        DiffusionModel(build_diffusion_unet((8, 8, 1), 2, **SMALL))
    with pytest.raises(ConfigError, match="inputs by name"):
        DiffusionModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
    with pytest.raises(ConfigError, match="found no condition"):
        DiffusionModel(unet).sample(steps=2)
