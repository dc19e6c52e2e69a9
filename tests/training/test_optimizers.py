"""Optimizers as configured, presets, and runs with every option that changes what is trained."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from keras_unet import load_model
from keras_unet.data.synthetic import write_dataset
from keras_unet.errors import ConfigError
from keras_unet.machine import dtype_policy
from keras_unet.settings import to_tree
from keras_unet.training import load_config, train
from keras_unet.training.config import TrainConfig
from keras_unet.training.step import FusedAdamW

DATA = {"images": "x"}


def optimizer(*settings, policy="float32"):
    from keras_unet.training.build import make_optimizer

    return make_optimizer(load_config(None, settings, data=DATA), policy)


def test_optimizers_are_what_the_settings_say():
    import keras

    adam = optimizer("weight_decay=0.01", "gradient_clip=12")
    assert isinstance(adam, FusedAdamW)
    assert (adam.weight_decay, adam.global_clipnorm) == (0.01, 12.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(adam))
    assert isinstance(again, FusedAdamW) and again.get_config() == adam.get_config()
    paper = optimizer("optimizer=sgd")
    assert (paper.momentum, paper.nesterov, paper.weight_decay) == (0.99, False, None)
    nesterov = optimizer("optimizer=nesterov", "momentum=0.9", "accumulate=4")
    assert (nesterov.momentum, nesterov.nesterov, nesterov.weight_decay) == (0.9, True, 1e-4)
    assert nesterov.gradient_accumulation_steps == 4
    scaled = optimizer("optimizer=sgd", policy="mixed_float16")
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    assert scaled.inner_optimizer.momentum == 0.99


@pytest.mark.parametrize(("accumulate", "xla"), [(None, False), (2, False), (None, True)])
def test_the_fused_adamw_takes_the_steps_of_keras(accumulate, xla):
    import keras
    import tensorflow as tf

    options = {"global_clipnorm": 3.0, "gradient_accumulation_steps": accumulate}
    start = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    results = []
    for made in (
        keras.optimizers.AdamW(0.1, weight_decay=0.3, **options),
        FusedAdamW(0.1, 0.3, **options),
    ):
        weights = [keras.Variable(start), keras.Variable(start[0])]
        made.build(weights)
        step = tf.function(made.apply, jit_compile=xla)
        for number in range(6):
            rng = np.random.default_rng(number)
            made.learning_rate = 0.1 / (1 + number)
            step([tf.constant(rng.normal(size=w.shape), tf.float32) for w in weights])
        results.append([np.asarray(v) for v in (*weights, *made.variables)])
        assert np.abs(results[-1][0] - start).max() > 0.1
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_small_decay_is_that_of_keras():
    """Factors 1 - rate · decay of 1e-7 are rounded to one or two steps of float32."""
    import keras

    start = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    results = []
    options = (0.001, 1e-4)
    for made in (keras.optimizers.AdamW(options[0], options[1]), FusedAdamW(*options)):
        weight = keras.Variable(start)
        made.build([weight])
        for _ in range(200):
            made.apply([np.zeros_like(start)])
        results.append(np.asarray(weight))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
    shrunk = 1.0 - np.linalg.norm(results[1]) / np.linalg.norm(start)
    assert shrunk == pytest.approx(200 * 1e-7, rel=0.1)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    import keras

    results = []
    for size, accumulate in ((4, 1), (1, 4)):
        made = optimizer("optimizer=sgd", f"accumulate={accumulate}", "learning_rate=0.1")
        weight = keras.Variable([1.0, -2.0])
        made.build([weight])
        gradients = np.float32([[1, 2], [3, -1], [0, 5], [2, 2]])
        for first in range(0, 4, size):
            made.apply([gradients[first : first + size].mean(0)])
        results.append(np.asarray(weight))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    assert np.abs(results[0] - [1.0, -2.0]).max() > 0.1


def test_the_papers_preset_fills_in_what_is_not_set():
    config = load_config(None, ["preset=paper", "model.filters=8"], data=DATA)
    assert (config.model.filters, config.model.normalization, config.model.dropout) == (
        8,
        "none",
        0.5,
    )
    assert (config.optimizer, config.momentum, config.batch_size) == ("sgd", 0.99, 1)
    assert config.schedule == "constant"
    assert TrainConfig(preset="paper", data=DATA, model=config.model) == config
    tree = to_tree(config)
    assert TrainConfig.model_validate(tree) == config
    with pytest.raises(ConfigError, match=r"preset.*'paper'.*got 'papr'"):
        load_config(None, ["preset=papr"], data=DATA)
    with pytest.raises(ConfigError, match="preset"):
        load_config(None, ["preset=[1]"], data=DATA)


def test_precision():
    assert dtype_policy("float16") == ("mixed_float16", "as set")


SMALL = [
    *("model.filters=2", "model.depth=2", "model.padding=same", "tile=32", "steps_per_epoch=2"),
    *("data.label_kind=instances", "augment=flips", "oversample=0.5"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=3, val=1, size=(64, 64), seed=0)


def run(data, tmp_path, *settings):
    where = {"images": data / "train", "validation": data / "val"}
    config = load_config(None, [*SMALL, f"output={tmp_path}", *settings], data=where)
    return train(config, Console(file=io.StringIO()))


def test_oversampling_and_heads_are_the_same_wherever_tiles_are_drawn(data, tmp_path):
    settings = ["precision=float32", "optimizer=sgd", "learning_rate=0.05", "steps=3"]
    settings += ["model.deep_supervision=true", "schedule=cosine", "warmup_steps=1"]
    results = [
        run(data, tmp_path, f"augment_on={place}", f"name={place}", *settings)
        for place in ("cpu", "accelerator")
    ]
    first, second = (r.model.network.get_weights() for r in results)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not [layer for layer in results[0].model.network.layers if "head" in layer.name]
    history = (results[0].folder / "history.csv").read_text().splitlines()
    assert len(history) == 3


def test_float16_average_and_accumulation_in_one_run(data, tmp_path):
    import keras

    settings = ["precision=float16", "ema_decay=0.9", "accumulate=2", "gradient_clip=1", "steps=4"]
    result = run(data, tmp_path, "name=all", *settings)
    assert np.isfinite(result.evaluation.total["mean_dice"])
    kept = keras.models.load_model(result.folder / "last.keras", compile=False)
    assert {layer.compute_dtype for layer in kept.layers} >= {"float16"}
    assert all(np.isfinite(w).all() for w in kept.get_weights())


@pytest.mark.slow
def test_a_resumed_run_has_the_same_average_heads_and_tiles(data, tmp_path, monkeypatch):
    from keras_unet.training import callbacks

    settings = ["ema_decay=0.8", "model.deep_supervision=true", "accumulate=2", "steps=4"]
    settings += ["model.dropout=0.2", "optimizer=nesterov", "learning_rate=0.01"]
    whole = run(data, tmp_path, "name=whole", *settings)

    real = callbacks.Budget.on_train_batch_end

    def crashes(self, batch, logs=None):
        real(self, batch, logs)
        if self.done == 3:
            raise RuntimeError("power failure")

    monkeypatch.setattr(callbacks.Budget, "on_train_batch_end", crashes)
    with pytest.raises(RuntimeError, match="power failure"):
        run(data, tmp_path, "name=parts", *settings)
    monkeypatch.undo()
    parts = train(console=Console(file=io.StringIO()), resume=tmp_path / "parts")
    kept = [load_model(r.folder / "last.keras").network.get_weights() for r in (whole, parts)]
    for a, b in zip(*kept, strict=True):
        np.testing.assert_array_equal(a, b)
    assert parts.evaluation.total == whole.evaluation.total
