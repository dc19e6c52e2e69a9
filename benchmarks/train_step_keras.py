"""One turn of a Keras contender of `train_step.py`: `python train_step_keras.py FOLDER NAME`.

FOLDER holds settings.json, batch.npz and weights.npz. The last line of standard output is JSON:
seconds of each step, the loss before the first, parameters, and the peak of resident memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_unet import geometry
from keras_unet.augment import Augment, preset_settings
from keras_unet.augment.image_bank import ImageBank
from keras_unet.data.pipeline import tile_entries
from keras_unet.inference.ensemble import forward, in_precision
from keras_unet.machine import dtype_policy
from keras_unet.models.unet import build_unet
from keras_unet.training import build
from keras_unet.training.config import make_config

PEAK_SIDE, PEAK_CHANNELS = 128, 256


def peak_memory() -> int:
    """Bytes, the most that this process has had resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def timed(step: Callable[[], object], settings: dict[str, Any]) -> list[float]:
    """Seconds of each step after the first ones, which compile."""
    seconds = []
    for number in range(settings["warm"] + settings["steps"]):
        start = time.perf_counter()
        step()
        if number >= settings["warm"]:
            seconds.append(time.perf_counter() - start)
    return seconds


def ours(folder: Path, settings: dict[str, Any], precision: str, data: str) -> dict[str, Any]:
    """The step that `train` compiles. data: "pipeline" as `train` has it, "memory" or "alone"."""
    keras.utils.set_random_seed(0)
    tile = settings["tile"]
    config = make_config(
        {
            "data": {"images": "made-up"},
            "model": {"filters": settings["filters"], "normalization": "none"},
            "batch_size": settings["batch"],
            "precision": precision,
        }
    )
    policy, why = dtype_policy(config.precision)
    output = geometry.output_size(tile)
    rng = np.random.default_rng(0)
    shape = (4, tile + 100, tile + 100)
    images = rng.integers(0, 256, (*shape, 1)).astype(np.uint8)
    weights = rng.uniform(0.5, 10.0, shape).astype(np.float32)
    bank = ImageBank.from_arrays(list(images), list((images[..., 0] > 127) * 1), list(weights))
    augment = Augment(preset_settings("paper"), tile=tile, output=output)
    network = build.build_network(config, 1, 2, policy)
    network.set_weights(stored_weights(folder))
    entries = tile_entries([shape[1:]] * 4, output)
    ready = build.trainable(config, network, bank, augment, entries)
    if data == "alone":
        batches = iter(ready.data(0))
        # the mean of many: what was drawn ahead comes at once
        seconds = timed(lambda: next(batches)[0].numpy(), {"warm": 10, "steps": 40})
        return {"seconds": [float(np.mean(seconds))], "note": "augmented tiles, no step"}
    loss = loss_of(folder, ready.model)
    batches = iter(ready.data(0) if data == "pipeline" else in_memory(folder))
    function = ready.model.make_train_function() or ready.model.train_function
    seconds = timed(lambda: float(function(batches)["loss"]), settings)
    return {"seconds": seconds, "loss": loss, "note": f"{policy}: {why}"} | about(network)


def stored_weights(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        return [stored[name] for name in sorted(stored.files, key=int)]


def batch_of(folder: Path, side: int | None = None) -> tuple[np.ndarray, ...]:
    """(x, y, w) as stored; with `side`, cut for a same-padding network of that size."""
    with np.load(folder / "batch.npz", allow_pickle=False) as stored:
        x, y, w = stored["x"], stored["y"], stored["w"]
    if side is None:
        return x, y, w
    whole = (len(x), side, side)
    return x[:, :side, :side], np.resize(y, whole), np.resize(w, whole)


def in_memory(folder: Path, side: int | None = None) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(batch_of(folder, side)).repeat()


def loss_of(folder: Path, model: keras.Model) -> float:
    """On the stored batch."""
    x, y, w = batch_of(folder)
    loss = float(model.compute_loss(x, y, model(x, training=True), w))
    model.reset_metrics()
    return loss


def about(network: keras.Model) -> dict[str, Any]:
    return {"parameters": network.count_params()}


def plain_unet(tile: int, filters: int) -> keras.Model:
    """The paper's network as scripts have it."""

    def pair(x: Any, count: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(count, 3, activation="relu", kernel_initializer="he_normal")(x)
        return x

    inputs = x = keras.Input((tile, tile, 1))
    skips = []
    for level in range(4):
        x = pair(x, filters * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = pair(x, filters * 16)
    for level in reversed(range(4)):
        x = layers.Conv2DTranspose(filters * 2**level, 2, strides=2)(x)
        cut = (skips[level].shape[1] - x.shape[1]) // 2
        x = layers.concatenate([layers.Cropping2D(cut)(skips[level]), x])
        x = pair(x, filters * 2**level)
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))


def fitted(
    model: keras.Model, folder: Path, settings: dict[str, Any], side: int | None
) -> dict[str, Any]:
    """`compile` and `fit`, the batch in memory; a step lasts from one batch's end to the next's."""
    model.compile("adam", "sparse_categorical_crossentropy")
    ends: list[float] = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    x, y, w = batch_of(folder, side)
    loss = float(model.test_on_batch(x, y, sample_weight=w))
    steps = settings["warm"] + settings["steps"]
    data = in_memory(folder, side)
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[note])
    seconds = np.diff(ends)[settings["warm"] - 1 :].tolist()
    return {"seconds": seconds, "loss": loss} | about(model)


def forward_pass(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The graph that `predict` runs, in the fastest precision of the machine."""
    network = build_unet(filters=settings["filters"])
    network.set_weights(stored_weights(folder))
    run = forward(in_precision(network, "auto"))
    x = batch_of(folder)[0]
    return {"seconds": timed(lambda: run(x), settings)} | about(network)


def plain(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    model = plain_unet(settings["tile"], settings["filters"])
    model.set_weights(stored_weights(folder))
    return fitted(model, folder, settings, None)


def collection(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """keras-unet-collection: same padding alone, so the next smaller size that it takes."""
    sys.path.insert(0, os.environ["KERAS_UNET_COLLECTION"])
    from keras_unet_collection import models

    side = settings["tile"] // 16 * 16
    model = models.unet_2d(
        (side, side, 1), [settings["filters"] * 2**n for n in range(5)], 2, unpool=False
    )
    found = fitted(model, folder, settings, side)
    return found | {"note": f"same padding, {side}²: more to compute", "side": side, "loss": None}


def peak(settings: dict[str, Any]) -> dict[str, Any]:
    """The machine's own: seconds of a large convolution (oneDNN), of each type the least."""
    shape = (1, PEAK_SIDE, PEAK_SIDE, PEAK_CHANNELS)
    found = {}
    for kind in (tf.float32, tf.bfloat16):
        x = tf.cast(tf.random.normal(shape), kind)
        kernel = tf.cast(tf.random.normal((3, 3, PEAK_CHANNELS, PEAK_CHANNELS)), kind)
        run = tf.function(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"))
        seconds = timed(lambda r=run, x=x, k=kernel: r(x, k), settings | {"steps": 8})
        operations = 2 * 9 * PEAK_CHANNELS**2 * PEAK_SIDE**2
        found[kind.name] = operations / min(seconds) / 1e9
    return {"gigaflops": found}


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    settings = json.loads((folder / "settings.json").read_text())
    turns: dict[str, Callable[[], dict[str, Any]]] = {
        "auto": lambda: ours(folder, settings, "auto", "pipeline"),
        "float32": lambda: ours(folder, settings, "float32", "pipeline"),
        "memory": lambda: ours(folder, settings, "auto", "memory"),
        "pipeline": lambda: ours(folder, settings, "auto", "alone"),
        "forward": lambda: forward_pass(folder, settings),
        "plain": lambda: plain(folder, settings),
        "collection": lambda: collection(folder, settings),
        "peak": lambda: peak(settings),
    }
    print(json.dumps(turns[name]() | {"peak_bytes": peak_memory()}))


if __name__ == "__main__":
    main()
