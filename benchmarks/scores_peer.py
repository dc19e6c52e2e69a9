"""The U-Net as most tutorials have it, trained and scored: `python scores_peer.py TRAIN VAL OUT`.

After the widely copied Keras script (zhixuhao/unet): same padding, 64 filters, dropout, images
resized to 256², divided by 255, Keras's ImageDataGenerator (rotation, shift, shear, zoom, flip),
unweighted cross-entropy, Adam at 1e-4, batch 2. `minutes` bounds it, or `steps`; the weights with
the best validation accuracy are kept, as `train` keeps its best. Predictions are resized to the
images and scored by `keras_unet.evaluation`: OUT/evaluation.json.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from rich.console import Console

from keras_unet.data import LabelRule, Normalization, load_samples
from keras_unet.data.samples import Sample
from keras_unet.evaluation.evaluation import ScoreSettings
from keras_unet.evaluation.scoring import Scorer
from keras_unet.models.model_card import ModelCard
from keras_unet.run_layout import EVALUATION

SIDE, BATCH, FILTERS = 256, 2, 64
DRAWN = {
    "rotation_range": 0.2,  # degrees, as in that script
    "width_shift_range": 0.05,
    "height_shift_range": 0.05,
    "shear_range": 0.05,
    "zoom_range": 0.05,
    "horizontal_flip": True,
    "fill_mode": "nearest",
}


def network(channels: int) -> keras.Model:
    def pair(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = convolution(x, filters, 3)
        return x

    def convolution(x: Any, filters: int, kernel: int) -> Any:
        return layers.Conv2D(
            filters, kernel, padding="same", activation="relu", kernel_initializer="he_normal"
        )(x)

    inputs = x = keras.Input((SIDE, SIDE, channels))
    skips = []
    for level in range(4):
        x = pair(x, FILTERS * 2**level)
        x = layers.Dropout(0.5)(x) if level == 3 else x
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.5)(pair(x, FILTERS * 16))
    for level in reversed(range(4)):
        x = convolution(layers.UpSampling2D()(x), FILTERS * 2**level, 2)
        x = pair(layers.concatenate([skips[level], x]), FILTERS * 2**level)
    x = convolution(x, 2, 3)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, C] to float32 [height, width, C]."""
    return tf.image.resize(array.astype(np.float32), (height, width)).numpy()


def arrays(samples: list[Sample], top: float) -> tuple[np.ndarray, np.ndarray]:
    x = np.stack([resized(s.image, SIDE, SIDE) / top for s in samples])
    y = np.stack([resized((s.classes == 1)[..., None], SIDE, SIDE) > 0.5 for s in samples])
    return x, y.astype(np.float32)


def batches(x: np.ndarray, y: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Drawn as that script does: two generators with one seed."""
    make = tf.keras.preprocessing.image.ImageDataGenerator
    flows = [make(**DRAWN).flow(each, batch_size=BATCH, seed=seed) for each in (x, y)]
    while True:
        images, masks = (next(flow) for flow in flows)
        yield images, (masks > 0.5).astype(np.float32)


class Until(keras.callbacks.Callback):
    """Ends the training after so many minutes; counts steps."""

    def __init__(self, minutes: float | None) -> None:
        super().__init__()
        self._start, self._minutes, self.steps = time.monotonic(), minutes, 0

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self._start) / 60

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        if self._minutes is not None and self.minutes >= self._minutes:
            self.model.stop_training = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--instances", action="store_true", help="labels number objects")
    parser.add_argument("--isbi", action="store_true", help="the challenge's metrics too")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    rule = LabelRule(kind="instances" if args.instances else "semantic")
    training, report = load_samples(args.train, rule=rule, need_labels=True)
    assert report.mapping is not None
    held_out, _ = load_samples(args.validation, rule=report.mapping.as_rule(), need_labels=True)
    top = 255.0 if training[0].image.dtype == np.uint8 else 65535.0
    x, y = arrays(training, top)
    model = network(x.shape[-1])
    model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", metrics=["accuracy"])
    args.output.mkdir(parents=True, exist_ok=True)
    best = args.output / "best.weights.h5"
    until = Until(args.minutes)
    keep = keras.callbacks.ModelCheckpoint(
        str(best), monitor="val_accuracy", save_best_only=True, save_weights_only=True
    )
    steps = args.steps or 10**6
    model.fit(
        batches(x, y, args.seed),
        steps_per_epoch=min(50, steps),
        epochs=-(-steps // 50),
        validation_data=arrays(held_out, top),
        validation_batch_size=BATCH,
        callbacks=[until, keep],
        verbose=2,
    )
    print(f"{until.steps} steps in {until.minutes:.1f} minutes")
    model.load_weights(best)
    card = ModelCard(
        name="plain U-Net",
        classes=("background", "foreground"),
        normalization=Normalization.fit("range", [s.image for s in training]),
        labels=report.mapping,
        image_dtype=str(training[0].image.dtype),
        created="",
        versions={"keras": keras.__version__},
        config={"steps": until.steps, "minutes": until.minutes, "seed": args.seed},
        data={},
        metrics={},
    )
    settings = ScoreSettings(isbi=args.isbi)
    scorer = Scorer([card], settings, len(held_out), args.output, str(args.validation))
    for sample in held_out:
        small = resized(sample.image, SIDE, SIDE)[None] / top
        scorer.add(sample, resized(model.predict(small, verbose=0)[0], *sample.image.shape[:2]))
    total = scorer.finish().total
    Console().print({k: v for k, v in total.items() if not isinstance(v, dict)})
    print(f"Scores: {args.output / EVALUATION}")


if __name__ == "__main__":
    main()
