"""The losses against float64 textbook formulas, under whichever Keras backend is set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import ops

from keras_unet.errors import ConfigError, DataError
from keras_unet.losses import Dice, Focal, Sum, WeightedCrossEntropy

SHAPE = (3, 5, 7)


def batch(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(classes, 2), SHAPE).astype(np.int32)
    logits = rng.normal(0, 3, (*SHAPE, classes)).astype(np.float32)
    return labels, logits, rng.uniform(0, 5, SHAPE).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64)
    if z.shape[-1] == 1:
        z = np.concatenate([np.zeros_like(z), z], -1)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def textbook(labels, logits, weight, smoothing=0.0):
    """Σ w·ce and the values themselves, float64."""
    log_p = log_softmax(logits)
    count = log_p.shape[-1]
    q = np.eye(count)[labels] * (1 - smoothing) + smoothing / count
    values = -(q * log_p).sum(-1)
    return values * weight


def number(x) -> float:
    return float(ops.convert_to_numpy(x))


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_the_formula(classes, smoothing):
    labels, logits, weight = batch(classes)
    expected = textbook(labels, logits, weight, smoothing)
    options = {"label_smoothing": smoothing}
    mean = WeightedCrossEntropy(**options)(labels, logits, weight)
    assert number(mean) == pytest.approx(expected.mean(), rel=2e-6)
    divided = WeightedCrossEntropy(**options, reduction="mean_with_sample_weight")
    assert number(divided(labels, logits, weight)) == pytest.approx(
        expected.sum() / weight.sum(dtype=np.float64), rel=2e-6
    )
    total = WeightedCrossEntropy(**options, reduction="sum")(labels, logits, weight)
    assert number(total) == pytest.approx(expected.sum(), rel=2e-6)
    each = WeightedCrossEntropy(**options, reduction=None)(labels, logits, weight)
    np.testing.assert_allclose(ops.convert_to_numpy(each), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_give_the_same_as_logits(classes):
    labels, logits, weight = batch(classes)
    p = np.exp(log_softmax(logits)).astype(np.float32)
    p = p[..., 1:] if classes == 1 else p
    for make in (WeightedCrossEntropy, Focal, Dice):
        a = make()(labels, logits, weight)
        b = make(from_logits=False)(labels, p, weight)
        assert number(a) == pytest.approx(number(b), rel=1e-4), make


def test_class_weights_multiply_the_sample_weight_and_enter_its_sum():
    labels, logits, weight = batch(3)
    v = (0.5, 2.0, 3.0)
    w = weight.astype(np.float64) * np.asarray(v)[labels]
    expected = textbook(labels, logits, w)
    mean = WeightedCrossEntropy(class_weights=v)
    assert number(mean(labels, logits, weight)) == pytest.approx(expected.mean(), rel=2e-6)
    divided = WeightedCrossEntropy(class_weights=v, reduction="mean_with_sample_weight")
    got = number(divided(labels, logits, weight))
    assert got == pytest.approx(expected.sum() / w.sum(), rel=2e-6)
    alone = np.asarray(v)[labels]
    got = number(divided(labels, logits))
    assert got == pytest.approx(textbook(labels, logits, alone).sum() / alone.sum(), rel=2e-6)


@pytest.mark.parametrize("ignored", [-1, 0, 2, 255])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_ignored_pixels_count_neither_in_sum_nor_divisor(ignored, weighted, reduction):
    labels, logits, weight = batch(3)
    if ignored not in (0, 2):
        labels[:, ::2, 1:4] = ignored
    counted = labels != ignored
    assert 0 < counted.sum() < counted.size
    w = weight.astype(np.float64) if weighted else np.ones(SHAPE)
    sum_ = textbook(np.where(counted, labels, 0), logits, w)[counted].sum()
    divisor = {
        "sum_over_batch_size": counted.sum(),
        "mean_with_sample_weight": w[counted].sum(),
        "sum": 1.0,
    }[reduction]
    loss = WeightedCrossEntropy(ignore_class=ignored, reduction=reduction)
    got = number(loss(labels, logits, weight if weighted else None))
    assert got == pytest.approx(sum_ / divisor, rel=2e-6)
    logits[~counted] = 1e4  # whatever is predicted there
    assert number(loss(labels, logits, weight if weighted else None)) == pytest.approx(got)


def test_only_ignored_pixels_give_zero():
    labels, logits, _ = batch(2)
    labels[:] = -1
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight"):
        for make in (WeightedCrossEntropy, Focal, Dice):
            assert number(make(ignore_class=-1, reduction=reduction)(labels, logits)) == 0


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_one_weight_a_sample_is_a_weight_for_its_pixels(shape, reduction):
    labels, logits, _ = batch(2)
    w = np.array([1.0, 0.0, 3.0], np.float32)
    full = np.broadcast_to(w[:, None, None], SHAPE)
    loss = WeightedCrossEntropy(reduction=reduction)
    a, b = loss(labels, logits, w.reshape(shape)), loss(labels, logits, full)
    assert number(a) == pytest.approx(number(b), rel=1e-6)


def test_targets_and_weights_may_have_a_channel():
    labels, logits, weight = batch(3)
    for make in (WeightedCrossEntropy, Focal, Dice):
        a = make(ignore_class=2)(labels, logits, weight)
        b = make(ignore_class=2)(labels[..., None].astype(np.uint8), logits, weight[..., None])
        assert number(a) == pytest.approx(number(b), rel=1e-7)


def compiled(function):
    """As a compiled graph runs it, where nothing can be raised."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    tf = pytest.importorskip("tensorflow")
    return tf.function(function)


NO_CLASS = [
    (255, "uint8", "hold 255, .*ignore_class=255"),
    (3, "int32", "hold 3, "),
    (-1, "int64", "hold -1, "),
    (2**32 + 1, "int64", "hold 4294967297"),  # as int32 it would be 1
    (2**32 - 1, "uint32", "hold 4294967295"),  # as int32 it would be -1
    (254 / 255, "float32", "hold 0.99607.*nearest"),
    (0.5, "float16", "hold 0.5, .*nearest"),
    (255.0, "float64", "hold 255, "),
    (float("nan"), "float32", "hold nan"),
]


@pytest.mark.filterwarnings("ignore:the labels hold")
@pytest.mark.parametrize("make", [WeightedCrossEntropy, Focal, Dice])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("bad", "dtype", "said"), NO_CLASS)
def test_a_label_that_is_no_class_is_an_error_and_nan_in_a_graph(make, classes, bad, dtype, said):
    if keras.backend.backend() == "jax" and np.dtype(dtype).itemsize > 4:
        pytest.skip("JAX makes 32 bits of 64 before anything can look")
    labels, logits, _ = batch(classes)
    labels = np.minimum(labels, 1).astype(dtype)
    labels[0, 0, 0] = bad
    for loss in (make(), make(ignore_class=7, reduction="sum")):
        with pytest.raises(DataError, match=f"{loss.name}: the labels {said.partition(',')[0]}"):
            loss(labels, logits)
    with pytest.raises(DataError, match=said):
        make()(labels, logits)
    with pytest.raises(DataError, match=said):  # 0 times NaN is no number either
        make()(labels, logits, np.zeros(SHAPE, np.float32))
    weighted, zero = make(reduction="mean_with_sample_weight"), np.zeros(SHAPE, np.float32)
    both = compiled(lambda *given: (make()(*given), weighted(*given, zero)))
    assert np.isnan([number(value) for value in both(labels, logits)]).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float16", "bool"])
def test_whole_numbers_of_any_type_are_classes(dtype):
    labels, logits, weight = batch(2)
    for make in (WeightedCrossEntropy, Focal, Dice):
        expected = number(make()(labels, logits, weight))
        assert number(make()(labels.astype(dtype), logits, weight)) == pytest.approx(expected)


def test_ignored_is_what_ignore_class_says_in_any_type():
    labels, logits, _ = batch(3)
    labels[:, 1] = 255
    expected = number(WeightedCrossEntropy(ignore_class=255)(labels, logits))
    for dtype in ("uint8", "float32", "int64"):
        loss = WeightedCrossEntropy(ignore_class=255)
        assert number(loss(labels.astype(dtype), logits)) == pytest.approx(expected)
    with pytest.raises(DataError, match="classes 0 to 2 and ignore_class=-1"):  # no wrapping round
        WeightedCrossEntropy(ignore_class=-1)(labels.astype("uint8"), logits)


def test_a_broken_weight_of_an_ignored_pixel_does_not_count():
    labels, logits, weight = batch(3)
    labels[0, 0] = 255
    weight[0, 0] = np.nan
    for make in (WeightedCrossEntropy, Focal, Dice):
        assert np.isfinite(number(make(ignore_class=255)(labels, logits, weight)))


def test_fit_says_which_labels_are_no_class():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends say nothing while a graph runs")
    labels, logits, _ = batch(2)
    labels[1, 2, 3] = 255
    model = small_model()
    model.compile("sgd", Sum([WeightedCrossEntropy(), Dice()]), jit_compile=False)
    with pytest.warns(UserWarning, match="labels hold 255, .*set ignore_class=255") as caught:
        history = model.fit(logits[..., :1], labels, verbose=0)
    assert len(caught) == 2  # one a loss
    assert np.isnan(history.history["loss"]).all()


def test_two_devices_give_the_loss_and_the_gradient_of_one():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("strategies are TensorFlow's")
    driver = Path(__file__).with_name("losses_on_two_devices.py")
    done = subprocess.run([sys.executable, str(driver)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:].decode()
    found = json.loads(done.stdout)
    wrong = {case: apart for case, apart in found["grid"].items() if max(apart) > 2e-6}
    assert len(found["grid"]) == 28
    assert not wrong
    for name in ("fit", "evaluate"):
        assert found["two"][name] == pytest.approx(found["one"][name], rel=1e-5)


def test_far_logits_stay_finite():
    labels = np.zeros((1, 1, 2), np.int32)
    logits = np.array([[[[-1e4, 1e4], [1e4, -1e4]]]], np.float32)
    assert number(WeightedCrossEntropy()(labels, logits)) == pytest.approx(1e4)
    one = logits[..., :1]
    assert number(WeightedCrossEntropy()(labels, one)) == pytest.approx(5e3)
    assert np.isfinite(number(Focal(0.5)(labels, logits)))


def test_focal_equals_the_formula_and_gamma_zero_is_cross_entropy():
    labels, logits, weight = batch(3)
    log_p = np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
    expected = (weight * -((1 - np.exp(log_p)) ** 2) * log_p).mean()
    assert number(Focal()(labels, logits, weight)) == pytest.approx(expected, rel=1e-5)
    a, b = Focal(gamma=0)(labels, logits, weight), WeightedCrossEntropy()(labels, logits, weight)
    assert number(a) == pytest.approx(number(b), rel=1e-6)


@pytest.mark.parametrize("over", ["batch", "sample"])
@pytest.mark.parametrize("v", [None, (0.0, 1.0, 2.0)])
def test_dice_equals_the_formula(over, v):
    labels, logits, weight = batch(3)
    labels[0] = 1  # a class that is absent from a sample
    counted = labels != 2
    w = (weight.astype(np.float64) * counted)[..., None]
    p, g = np.exp(log_softmax(logits)), np.eye(3)[labels]
    axes = (0, 1, 2) if over == "batch" else (1, 2)
    score = (2 * (w * p * g).sum(axes) + 0.5) / ((w * (p + g)).sum(axes) + 0.5)
    expected = 1 - np.average(score, axis=-1, weights=v).mean()
    loss = Dice(smooth=0.5, over=over, class_weights=v, ignore_class=2)
    assert number(loss(labels, logits, weight)) == pytest.approx(expected, rel=1e-5)


def test_dice_is_zero_for_a_perfect_prediction_and_near_one_for_the_opposite():
    labels, _, _ = batch(2)
    right = (np.eye(2)[labels] * 60 - 30).astype(np.float32)
    assert number(Dice()(labels, right)) == pytest.approx(0, abs=1e-6)
    assert number(Dice(smooth=1e-3)(labels, -right)) == pytest.approx(1, abs=1e-4)


def test_sum_adds_weighted_terms_also_nested():
    labels, logits, weight = batch(2)
    terms = [WeightedCrossEntropy(), Dice(), Focal()]
    values = [number(t(labels, logits, weight)) for t in terms]
    loss = Sum([terms[0], Sum([terms[1], terms[2]], weights=[2.0, 1.0])], weights=[1.0, 0.5])
    expected = values[0] + 0.5 * (2 * values[1] + values[2])
    assert number(loss(labels, logits, weight)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedCrossEntropy(True, (1.0, 2.0), -1, 0.1, "mean_with_sample_weight", "wce"),
        lambda: Focal(1.5, False, (1.0, 2.0), 255, "sum", "f"),
        lambda: Dice(0.5, "sample", True, (0.0, 1.0), 0, "mean", "d"),
        lambda: Sum([Sum([Dice(ignore_class=-1), Focal()], [0.5, 2.0]), Focal(3.0)], name="all"),
    ],
)
def test_config_round_trip(make):
    loss = make()
    config = keras.saving.serialize_keras_object(loss)
    assert config["registered_name"].startswith("keras_unet>")
    back = keras.saving.deserialize_keras_object(config)
    assert type(back) is type(loss)
    assert back.get_config() == loss.get_config()


def test_the_two_dice_are_registered_apart():
    from keras_unet import metrics

    loss = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Dice()))
    metric = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(metrics.Dice())
    )
    assert type(loss) is Dice
    assert type(metric) is metrics.Dice


def small_model(dtype: str | None = None, classes: int = 2) -> keras.Model:
    image = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", dtype=dtype)(image)
    return keras.Model(image, keras.layers.Conv2D(classes, 1, dtype=dtype)(x))


def test_training_step_in_bfloat16_is_finite_and_learns():
    keras.utils.set_random_seed(1)
    labels, _, weight = batch(2)
    image = labels[..., None].astype(np.float32)
    model = small_model("mixed_bfloat16")
    terms = [WeightedCrossEntropy(class_weights=(1, 2), ignore_class=-1)]
    loss = Sum([*terms, Dice(ignore_class=-1), Focal(0.5, ignore_class=-1)])
    model.compile(keras.optimizers.Adam(0.05), loss=loss)
    labels[0, 0] = -1
    first = model.evaluate(image, labels, sample_weight=weight, verbose=0)
    history = model.fit(image, labels, sample_weight=weight, epochs=40, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][-1] < 0.7 * first
    assert all(np.isfinite(w).all() for w in model.get_weights())
    predicted = model(image)
    assert keras.backend.standardize_dtype(predicted.dtype) == "bfloat16"
    value = WeightedCrossEntropy(ignore_class=-1)(labels, predicted)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"


def test_compiled_model_loads_without_custom_objects(tmp_path):
    labels, logits, weight = batch(1)
    model = small_model(classes=1)
    loss = Sum([WeightedCrossEntropy(class_weights=(1, 2), ignore_class=-1), Dice()], [1, 0.5])
    model.compile("sgd", loss=loss)
    image = logits[..., :1]
    expected = model.evaluate(image, labels, sample_weight=weight, verbose=0)
    model.save(tmp_path / "model.keras")
    back = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert back.loss.get_config() == loss.get_config()
    got = back.evaluate(image, labels, sample_weight=weight, verbose=0)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WeightedCrossEntropy(label_smoothing=1.0), r"label_smoothing .*\[0, 1\).*1.0"),
        (lambda: WeightedCrossEntropy(label_smoothing=float("nan")), "nan"),
        (lambda: WeightedCrossEntropy(class_weights=(1.0, -1.0)), r"class_weights .*-1.0"),
        (lambda: WeightedCrossEntropy(class_weights="balanced"), "balanced"),
        (lambda: WeightedCrossEntropy(class_weights=(0, 0)), "not all be 0"),
        (lambda: WeightedCrossEntropy(ignore_class=-2), "ignore_class .*-2"),
        (lambda: WeightedCrossEntropy(ignore_class=1.5), "ignore_class .*1.5"),
        (lambda: WeightedCrossEntropy(from_logits="yes"), "from_logits .*yes"),
        (lambda: Focal(gamma=-1), "gamma .*-1"),
        (lambda: Dice(smooth=0), "smooth .*0"),
        (lambda: Dice(over="image"), "over .*image"),
        (lambda: Sum([]), "at least one"),
        (lambda: Sum(["mse"]), "'mse'"),
        (lambda: Sum([Dice()], [1.0, 2.0]), "2 weights were given for 1"),
        (lambda: Sum([Dice()], [-1.0]), "-1.0"),
        (lambda: Sum([Focal(reduction=None)]), "reduction=None"),
    ],
)
def test_bad_arguments_say_what_was_received(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_bad_shapes_say_what_was_received():
    labels, logits, _ = batch(3)
    with pytest.raises(ConfigError, match="2 weights, but the prediction has 3 classes"):
        WeightedCrossEntropy(class_weights=(1, 2))(labels, logits)
    with pytest.raises(DataError, match=r"targets .*\(3, 5, 7, 3\)"):
        WeightedCrossEntropy()(np.eye(3)[labels], logits)
    with pytest.raises(DataError, match=r"predictions .*\(3, 5, 7\)"):
        Dice()(labels, logits[..., 0])
    with pytest.raises(DataError, match=r"sample_weight .*\(5, 7\)"):
        WeightedCrossEntropy()(labels, logits, np.ones((5, 7), np.float32))


@pytest.mark.parametrize("loss", [WeightedCrossEntropy, Focal, Dice])
@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_ignored_pixels_under_a_floatx_of_half(loss, floatx):
    labels = np.array([[[0, 1], [255, 1]]])
    scores = np.random.default_rng(0).normal(size=(1, 2, 2, 2)).astype("float32")
    expected = float(loss(ignore_class=255)(labels, scores))
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        assert float(loss(ignore_class=255)(labels, scores)) == pytest.approx(expected, rel=1e-5)
    finally:
        keras.config.set_floatx(before)
