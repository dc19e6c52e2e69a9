"""Metrics over uneven batches against NumPy, under whichever Keras backend is set."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import ops

from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.losses import WeightedCrossEntropy
from keras_unet.metrics import Dice, IoU, MeanIoU, PixelAccuracy, PixelError


def batches(classes: int, seed: int = 0):
    """Batches of unequal size and unequal difficulty, so that a mean of batch scores is wrong."""
    rng = np.random.default_rng(seed)
    for shape, noise in (((4, 6, 5), 0.3), ((1, 3, 9), 4.0), ((2, 8, 2), 1.0)):
        labels = rng.integers(0, max(classes, 2), shape).astype(np.int32)
        hot = np.eye(max(classes, 2))[labels]
        logits = (hot - 0.5) * 2 if classes > 1 else (hot[..., 1:] - 0.5) * 2
        logits = (logits + rng.normal(0, noise, logits.shape)).astype(np.float32)
        yield labels, logits


def predicted(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(-1) if logits.shape[-1] > 1 else (logits[..., 0] > 0).astype(int)


def number(metric) -> float:
    return float(ops.convert_to_numpy(metric.result()))


def every_metric(classes: int, **options) -> dict[str, keras.metrics.Metric]:
    metrics = {
        "pixel_accuracy": PixelAccuracy(**options),
        "pixel_error": PixelError(**options),
        "mean_iou": MeanIoU(**options),
        "mean_dice": Dice(**options),
    }
    for k in range(max(classes, 2)):
        metrics[f"iou{k}"] = IoU(k, **options)
        metrics[f"dice{k}"] = Dice(k, **options)
    return metrics


def flat(values: dict) -> dict[str, float]:
    result = {k: v for k, v in values.items() if not isinstance(v, list)}
    for name in ("iou", "dice"):
        result |= {f"{name}{k}": v for k, v in enumerate(values[name])}
    return result


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("ignored", [None, -1, 1])
def test_accumulates_over_uneven_batches(classes, ignored):
    options = {"ignore_class": ignored}
    metrics = every_metric(classes, **options)
    total = 0
    for labels, logits in batches(classes):
        if ignored == -1:
            labels[:, 0] = -1
        total = total + confusion_matrix(labels, predicted(logits), max(classes, 2), ignored)
        for metric in metrics.values():
            metric.update_state(labels, logits)
    for name, expected in flat(scores(total)).items():
        assert number(metrics[name]) == pytest.approx(expected, rel=1e-6), name
    metrics["mean_iou"].reset_state()
    labels, logits = next(batches(classes))
    metrics["mean_iou"].update_state(labels, logits)
    fresh = scores(confusion_matrix(labels, predicted(logits), max(classes, 2), ignored))
    assert number(metrics["mean_iou"]) == pytest.approx(fresh["mean_iou"], rel=1e-6)


@pytest.mark.parametrize("shape", ["pixel", "channel", "sample"])
def test_sample_weight_is_honoured(shape):
    rng = np.random.default_rng(1)
    metrics = every_metric(3, ignore_class=2)
    total = np.zeros((3, 3))
    for labels, logits in batches(3):
        weight = rng.uniform(0, 3, labels.shape).astype(np.float32)
        if shape == "sample":
            weight = weight[:, :1, :1]
        given = {"pixel": weight, "channel": weight[..., None], "sample": weight[:, 0, 0]}[shape]
        for metric in metrics.values():
            metric.update_state(labels, logits, given)
        w = np.broadcast_to(weight, labels.shape) * (labels != 2)
        np.add.at(total, (labels, predicted(logits)), w)
    for name, expected in flat(scores(total)).items():
        assert number(metrics[name]) == pytest.approx(expected, rel=1e-5), name


def test_an_absent_class_is_left_out_but_a_false_one_counts():
    labels = np.array([[[0, 0, 1, 1]]])
    logits = np.eye(4)[[[[0, 0, 1, 2]]]].astype(np.float32)  # class 2 is predicted, 3 is nowhere
    mean, absent, false = MeanIoU(), IoU(3), IoU(2)
    for metric in (mean, absent, false):
        metric.update_state(labels, logits)
    assert number(mean) == pytest.approx((1 + 0.5 + 0) / 3)
    assert np.isnan(number(absent))
    assert number(false) == 0


def test_nothing_counted_is_nan():
    for metric in (MeanIoU(), PixelError(num_classes=2)):
        assert np.isnan(number(metric))
    metric = PixelAccuracy(ignore_class=0)
    metric.update_state(np.zeros((1, 2, 2), int), np.zeros((1, 2, 2, 2), np.float32))
    assert np.isnan(number(metric))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    ("bad", "dtype"),
    [(255, "uint8"), (-1, "int32"), (254 / 255, "float32"), (0.5, "float32"), (np.nan, "float32")],
)
def test_a_label_that_is_no_class_is_an_error_and_nan_in_fit(classes, bad, dtype):
    labels, logits = next(batches(classes))
    labels = np.minimum(labels, 1).astype(dtype)
    labels[0, 0, 0] = bad
    for metric in every_metric(classes).values():
        with pytest.raises(DataError, match=f"{metric.name}: the labels hold {bad:.5g}"[:-1]):
            metric.update_state(labels, logits)
        with pytest.raises(DataError, match="the labels hold"):
            metric.update_state(labels, logits, np.zeros(labels.shape, np.float32))


def test_in_fit_a_label_that_is_no_class_makes_every_metric_nan_and_is_said():
    labels, logits = next(batches(2))
    labels[0, 0, 0] = 255
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
    model.compile(
        "sgd",
        loss=lambda truth, given: ops.mean(given),
        metrics=[PixelError(), MeanIoU(), Dice(1)],
        weighted_metrics=[PixelAccuracy()],
        jit_compile=True,
    )
    weight = np.ones(labels.shape, np.float32)
    with pytest.warns(UserWarning, match="metrics are NaN, since a label was neither"):
        seen = model.fit(logits, labels, sample_weight=weight, batch_size=2, epochs=2, verbose=0)
    del seen.history["loss"]
    assert len(seen.history) == 4
    assert all(np.isnan(values).all() for values in seen.history.values())
    labels[0, 0, 0] = 0  # the next epoch begins anew
    scores = model.evaluate(logits, labels, sample_weight=weight, verbose=0)
    assert np.isfinite(scores).all()


def test_callbacks_in_mode_auto_know_what_is_better():
    up = [PixelAccuracy(), IoU(1), IoU(0, name="cells"), MeanIoU(), Dice(), Dice(2)]
    down = [PixelError(), PixelError(name="wrong")]
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 1)])
    model.compile("sgd", WeightedCrossEntropy(), metrics=[*up, *down])
    x, y = np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1])[:, None, None] * np.ones((4, 4))
    watches = [keras.callbacks.EarlyStopping(monitor=f"val_{m.name}") for m in (*up, *down)]
    model.fit(x, y, validation_data=(x, y), callbacks=watches, verbose=0)
    for metric, watch in zip((*up, *down), watches, strict=True):
        better, worse = (0.9, 0.1) if metric in up else (0.1, 0.9)
        assert bool(watch._is_improvement(better, worse)), metric.name
        assert not bool(watch._is_improvement(worse, better)), metric.name


def test_one_channel_is_thresholded_by_kind():
    labels = np.array([[[1, 0]]])
    values = np.array([[[[0.4], [0.6]]]], np.float32)
    logits, probabilities = PixelAccuracy(), PixelAccuracy(from_logits=False)
    logits.update_state(labels, values)
    probabilities.update_state(labels, values)
    assert number(logits) == 0.5
    assert number(probabilities) == 0


def test_counts_stay_right_beyond_what_a_float32_can_count_one_by_one():
    side = 4160  # 17.3 million pixels, more than 2^24
    labels = np.zeros((1, side, side), np.uint8)
    logits = np.zeros((1, side, side, 1), np.float32)
    logits[0, : side // 2] = 1.0
    metric = PixelAccuracy()
    for _ in range(2):
        metric.update_state(labels, logits - 0.5)
    assert number(metric) == pytest.approx(0.5, rel=1e-6)
    matrix = ops.convert_to_numpy(metric.variables[0])
    np.testing.assert_allclose(matrix[0], [side**2, side**2], rtol=1e-6)


def test_bfloat16_predictions_are_counted_in_float32():
    labels = np.ones((1, 64, 64), np.int32)
    logits = ops.cast(np.ones((1, 64, 64, 1)), "bfloat16")
    metric = PixelAccuracy()
    metric.update_state(labels, logits)
    assert number(metric) == 1
    assert float(ops.convert_to_numpy(metric.variables[0])[1, 1]) == 64 * 64


def test_in_compile_fit_evaluate_and_load(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 8, 8, 1)).astype(np.float32)
    labels = (image[..., 0] > 0).astype(np.int32)
    weight = rng.uniform(0, 2, labels.shape).astype(np.float32)
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same")(inputs))
    model.compile(
        "adam",
        loss=WeightedCrossEntropy(),
        metrics=[PixelError(), IoU(class_id=1), Dice(class_id=1), MeanIoU()],
        weighted_metrics=[PixelAccuracy()],
    )
    model.fit(image, labels, sample_weight=weight, batch_size=2, epochs=2, verbose=0)
    kept = {"batch_size": 2, "sample_weight": weight, "verbose": 0, "return_dict": True}
    got = model.evaluate(image, labels, **kept)  # batches of 2, 2 and 1
    chosen = np.asarray(model.predict(image, verbose=0)).argmax(-1)
    expected = scores(confusion_matrix(labels, chosen, 2))
    assert got["pixel_error"] == pytest.approx(expected["pixel_error"], rel=1e-5)
    assert got["iou_1"] == pytest.approx(expected["iou"][1], rel=1e-5)
    assert got["dice_1"] == pytest.approx(expected["dice"][1], rel=1e-5)
    assert got["mean_iou"] == pytest.approx(expected["mean_iou"], rel=1e-5)
    weighted = (weight * (chosen == labels)).sum() / weight.sum()
    assert got["pixel_accuracy"] == pytest.approx(weighted, rel=1e-5)
    model.save(tmp_path / "model.keras")
    back = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    again = back.evaluate(image, labels, **kept)
    assert again == pytest.approx(got, rel=1e-6)


@pytest.mark.parametrize(
    "metric",
    [PixelAccuracy(num_classes=2), PixelError(ignore_class=-1), IoU(2), MeanIoU(), Dice(1)],
)
def test_config_round_trip(metric):
    config = keras.saving.serialize_keras_object(metric)
    assert config["registered_name"].startswith("keras_unet>")
    back = keras.saving.deserialize_keras_object(config)
    assert type(back) is type(metric)
    assert back.get_config() == metric.get_config()


def test_bad_arguments_say_what_was_received():
    for call, message in (
        (lambda: PixelError(num_classes=1), "num_classes .*1"),
        (lambda: MeanIoU(ignore_class=-7), "ignore_class .*-7"),
        (lambda: IoU(class_id=-1), "class_id .*-1"),
        (lambda: IoU(class_id=3, num_classes=3), "class_id 3 .*3 classes"),
        (lambda: MeanIoU(class_id=1), "IoU"),
        (lambda: MeanIoU(2), "name of a metric must be a text, got 2.* num_classes="),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    labels, logits = next(batches(3))
    with pytest.raises(DataError, match=r"counts 2 classes.*has 3"):
        PixelError(num_classes=2).update_state(labels, logits)
    with pytest.raises(DataError, match=r"expected targets .*\(4, 6, 5, 3\)"):
        PixelError().update_state(np.eye(3)[labels], logits)
    metric = IoU(5)
    metric.update_state(labels, logits)
    with pytest.raises(ConfigError, match="class_id 5 is not among 3"):
        metric.result()
