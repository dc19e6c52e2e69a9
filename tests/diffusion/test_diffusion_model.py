"""`DiffusionModel`: what it is given, what it asks its network, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import diffusion
from keras_unet.diffusion import model as module
from keras_unet.errors import ConfigError


@pytest.fixture(scope="module")
def unet():
    return diffusion.build_diffusion_unet(
        (None, None, 1),
        filters=(8,),
        layers_per_block=1,
        attention=[None],
        norm_groups=4,
        num_classes=4,
        sample_size=8,
        dtype="float32",
    )


@pytest.fixture
def asked(monkeypatch):
    """The plans of the trajectories that were asked for; none of them is run."""
    plans = []

    class Recorder:
        def __init__(self, network):
            self.unet = network

        def __call__(self, plan, noise, condition, negative=None, **options):
            plans.append((plan, negative))
            return noise

    monkeypatch.setattr(module, "Trajectory", Recorder)
    return plans


def test_the_loss_of_float64_images_is_the_same_twice_and_of_whole_numbers_is_refused(unet):
    model = diffusion.DiffusionModel(unet, average=None, gamma=5.0)
    images, classes = np.linspace(-1, 1, 128).reshape(2, 8, 8, 1), np.array([0, 1])
    losses = [float(model.compute_loss(images, classes, training=False)) for _ in range(2)]
    assert losses[0] == losses[1] and np.isfinite(losses[0])
    column = model.compute_loss(images, classes, sample_weight=[[1.0], [1.0]], training=False)
    assert float(column) == losses[0]
    with pytest.raises(ConfigError, match="images of uint8; expected float"):
        model.compute_loss(np.zeros((2, 8, 8, 1), np.uint8), classes)


def test_a_sample_has_the_size_that_the_network_is_meant_for(unet, asked):
    model = diffusion.DiffusionModel(unet, average=None)
    assert model.sample(np.array([0, 1, 2]), steps=2, seed=1).shape == (3, 8, 8, 1)
    with pytest.warns(UserWarning, match="leads away from class 0"):
        model.sample(np.array([0, 1]), steps=2, seed=1, guidance=2.0)


def test_a_named_sampler_does_not_clip_latents(unet, asked):
    autoencoder = diffusion.build_autoencoder(
        (16, 16, 1), filters=(8, 8), layers_per_block=1, latent_channels=1, norm_groups=4
    )
    for part, bound in ((None, 1.0), (autoencoder, None)):
        model = diffusion.DiffusionModel(unet, part, average=None)
        model.sample(np.array([0]), steps=2, seed=1, sampler="ddpm")
        assert asked[-1][0].kind.clipping.bound == bound
