"""The tile that is chosen, what memory it is said to take, blended seams, precision."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_networks import random_unet
from scipy.ndimage import gaussian_filter

from keras_unet.inference.ensemble import activated
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor, predict


@pytest.fixture(scope="module")
def paper():
    """The paper's depth, few filters."""
    return random_unet(4, depth=4)


def test_a_large_image_gets_the_tile_beyond_which_little_is_gained(paper):
    plan = Predictor(paper, PredictOptions(memory=10**10)).plan((20_000, 20_000))
    assert 1000 < plan.tile[0] == plan.tile[1] <= 1104
    assert plan.band_height == plan.rows.step and plan.tiles == 22 * 22
    assert plan.reason.startswith("22 × 22 tiles of 1100 × 1100 pixels, 69% of them new, about 0.")
    assert plan.reason.endswith("larger ones gain little")


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    memory=st.integers(10**6, 10**9),
    which=st.sampled_from(["none", "all", "rotations7"]),
)
def test_the_plan_keeps_to_the_memory_and_can_be_asked_for_again(paper, size, memory, which):
    options = PredictOptions(memory=memory, symmetries=which)
    plan = Predictor(paper, options).plan(size)
    if plan.bytes > memory:
        assert "the smallest there is" in plan.reason
        tiny = Predictor(paper, options.model_copy(update={"memory": 1})).plan(size)
        assert plan.tile == tiny.tile
    again = Predictor(paper, options.model_copy(update={"tile": plan.tile, "memory": 1})).plan(size)
    assert again._replace(reason="") == plan._replace(reason="")
    assert again.reason.endswith("as set")


def test_less_memory_smaller_tiles_same_result(paper):
    image = np.random.default_rng(0).normal(size=(700, 500))
    whole, scarce = (Predictor(paper, PredictOptions(memory=m)) for m in (10**9, 6 * 10**6))
    assert whole.plan(image.shape).reason.endswith("the whole image at once")
    plan = scarce.plan(image.shape)
    assert plan.tiles > 1 and plan.bytes <= 6e6 and "all that 6 MB hold" in plan.reason
    np.testing.assert_allclose(scarce(image), whole(image), atol=1e-5)


_MEASURE = """
import sys
import numpy as np
from keras_unet.inference import PredictOptions, Predictor
from keras_unet.models import build_unet
filters, tile, depth, padding = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
network = build_unet(filters=filters, depth=depth, padding=padding)
predictor = Predictor(network, PredictOptions(tile=tile, batch_size=1))
image = np.zeros((900, 600), np.uint8)
predictor(image[:8, :8])
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
predictor(image)
print(status("VmHWM") - before, predictor.plan(image.shape).bytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "case",
    [
        "16 828 4 valid",
        pytest.param("32 400 2 valid", marks=pytest.mark.slow),
        pytest.param("16 512 4 same", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_bounds_what_is_taken(case):
    found = subprocess.run(
        [sys.executable, "-c", _MEASURE, *case.split()], capture_output=True, text=True, check=True
    )
    measured, estimated = map(int, found.stdout.split())
    assert estimated / 3 < measured < 1.3 * estimated


def test_gaussian_blending_has_the_smaller_seams():
    keras.utils.set_random_seed(1)
    model = random_unet(4, depth=3, padding="same")
    image = gaussian_filter(np.random.default_rng(0).normal(size=(256, 256, 1)), (2, 2, 0))
    image = (image / image.std()).astype(np.float32)
    # Without context at its border, as these tiles: the network run once over the image as it is.
    expected = activated(model(image[None], training=False).numpy()[0])
    assert expected.std() > 0.1

    def seam(**options):
        predictor = Predictor(model, PredictOptions(tile=128, **options))
        axis = predictor.plan((256, 256)).columns
        error = (predictor(image) - expected)[..., 0]
        ends = [n * axis.step + end for n in range(axis.repeats) for end in (0, axis.tile)]
        columns = [x - 1 for x in ends if 0 < x < 256]
        return np.abs(np.diff(error, axis=1))[:, columns].mean()  # jump where a tile ends

    for overlap in (0.25, 0.5):
        assert seam(blend="gaussian", overlap=overlap) < 0.6 * seam(blend="flat", overlap=overlap)
    assert seam(blend="gaussian", overlap=0.5) < 0.005
    exact = Predictor(model, PredictOptions(tile=192))(image)
    inner = slice(48, -48)  # the border itself is mirrored there, and sees zeros here
    np.testing.assert_allclose(exact[inner, inner], expected[inner, inner], atol=1e-5)


def test_bfloat16_is_close_and_leaves_the_network_alone():
    model = random_unet(4, depth=2, normalization="batch", upsampling="bilinear")
    image = np.random.default_rng(0).normal(size=(60, 60))
    exact = predict(model, image)
    rough = predict(model, image, precision="bfloat16")
    assert rough.dtype == np.float32
    assert 1e-5 < np.abs(rough - exact).mean() < 0.02
    assert model.get_layer("down1_conv1").compute_dtype == "float32"
    np.testing.assert_array_equal(predict(model, image, precision="float32"), exact)
    auto = predict(model, image, precision="auto")
    assert any(np.array_equal(auto, one) for one in (exact, rough))
