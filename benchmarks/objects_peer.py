"""A contender of `objects.py`, in its own environment: `python objects_peer.py WHAT NAME …`.

    train NAME TRAINING FOLDER MINUTES SEED   from random weights, as its own guide trains
    predict NAME FOLDER IMAGES RESULT         one image after the other, each timed
    score IMAGES RESULT                       by StarDist's own scorer; prints JSON

NAME: stardist or cellpose; `predict` also keras_unet, which its own command line trains. TRAINING
and IMAGES are .npz files of image_000, label_000 …; RESULT gets the objects as label_000 … and
seconds. `train` writes FOLDER/training.json. Needs NumPy and the contender; nothing else is
imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLDS = [round(0.5 + 0.05 * k, 2) for k in range(10)]
Segment = Callable[[np.ndarray], np.ndarray]


def read(path: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(images [H, W], labels [H, W]) of a file; either may be missing."""
    with np.load(path, allow_pickle=False) as file:
        images, labels = (
            [file[name] for name in sorted(file.files) if name.startswith(kind)]
            for kind in ("image", "label")
        )
    return images, labels


def write(folder: Path, **said: Any) -> None:
    (folder / "training.json").write_text(json.dumps(said) + "\n")


# StarDist, by its example notebooks: 15 % of the images held out, 32 rays on a grid of 2, flips,
# turns and grey values, thresholds optimised after the training.


def train_stardist(training: str, folder: Path, minutes: float, seed: int) -> None:
    import tensorflow as tf
    from csbdeep.utils import normalize
    from stardist import fill_label_holes
    from stardist.models import Config2D, StarDist2D

    tf.keras.utils.set_random_seed(seed)
    images, labels = read(training)
    images = [normalize(image, 1, 99.8, axis=(0, 1)) for image in images]
    labels = [fill_label_holes(label) for label in labels]
    order = np.random.RandomState(42).permutation(len(images))
    held = max(1, round(0.15 * len(order)))
    parts = [
        ([images[k] for k in part], [labels[k] for k in part])
        for part in (order[:-held], order[-held:])
    ]

    class Until(tf.keras.callbacks.Callback):
        steps = 0

        def on_train_begin(self, logs: Any = None) -> None:
            self.start = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            self.model.stop_training = time.monotonic() - self.start >= 60 * minutes

    rng = np.random.default_rng(seed)

    def changed(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns, flip = rng.integers(4), rng.integers(2)
        image, label = (
            np.ascontiguousarray(np.rot90(a, turns)[:: 1 - 2 * flip]) for a in (image, label)
        )
        image = image * rng.uniform(0.6, 2) + rng.uniform(-0.2, 0.2)
        noise = 0.02 * rng.uniform(0, 1) * rng.normal(0, 1, image.shape)
        return image + noise, label

    model = StarDist2D(Config2D(n_rays=32, grid=(2, 2)), name=folder.name, basedir=folder.parent)
    model.prepare_for_training()
    until = Until()
    model.callbacks.append(until)
    model.train(*parts[0], validation_data=parts[1], augmenter=changed, seed=seed)
    used = (time.monotonic() - until.start) / 60
    model.optimize_thresholds(*parts[1])
    write(folder, minutes=used, steps=until.steps, tiles=4 * until.steps)


def load_stardist(folder: Path) -> Segment:
    from csbdeep.utils import normalize
    from stardist.models import StarDist2D

    model = StarDist2D(None, name=folder.name, basedir=folder.parent)

    def segment(image: np.ndarray) -> np.ndarray:
        return model.predict_instances(normalize(image, 1, 99.8, axis=(0, 1)))[0]

    return segment


# Cellpose: what its command line trains a new model with, but for as many epochs as there is time
# for, measured beforehand, since its learning rate follows their number.


def train_cellpose(training: str, folder: Path, minutes: float, seed: int) -> None:
    import torch
    from cellpose import dynamics, models
    from cellpose.train import train_seg

    class TimeOver(Exception):
        pass

    images, labels = read(training)
    flows = dynamics.labels_to_flows(labels, device=torch.device("cpu"))

    def train(epochs: int, limit: float) -> list[float]:
        """When each epoch began, and when the last one ended."""
        torch.manual_seed(seed)
        net = models.CellposeModel(gpu=False).net
        begins: list[float] = []
        to_training = net.train

        def epoch(mode: bool = True) -> Any:
            if mode:
                begins.append(time.monotonic())
                if begins[-1] - begins[0] > limit:
                    raise TimeOver
            return to_training(mode)

        net.train = epoch
        try:
            train_seg(
                net,
                train_data=images,
                train_labels=flows,
                channels=[0, 0],
                learning_rate=0.2,
                SGD=True,
                n_epochs=epochs,
                save_path=folder,
                model_name="model",
            )
            begins.append(time.monotonic())
        except TimeOver:
            net.save_model(folder / "models" / "model")
        return begins

    tried = np.diff(train(3, 60 * minutes))
    epochs = max(1, round(60 * minutes / tried[-2:].mean()))  # without the first, which warms up
    times = train(epochs, 60 * minutes)
    used, done = (times[-1] - times[0]) / 60, len(times) - 1
    steps = done * -(-len(images) // 8)
    write(folder, minutes=used, steps=steps, tiles=done * len(images), epochs_planned=epochs)


def load_cellpose(folder: Path) -> Segment:
    from cellpose.models import CellposeModel

    model = CellposeModel(gpu=False, pretrained_model=str(folder / "models" / "model"))
    return lambda image: model.eval(image, channels=[0, 0])[0]


def load_keras_unet(folder: Path) -> Segment:
    import keras_unet

    model = keras_unet.load_model(str(folder))
    return lambda image: keras_unet.segment(model, image)


def predict(segment: Segment, images: str, result: str) -> None:
    found, seconds, seen = {}, [], set()
    for number, image in enumerate(read(images)[0]):
        if image.shape not in seen:  # the first of a size compiles
            segment(image)
            seen.add(image.shape)
        start = time.perf_counter()
        labels = segment(image)
        seconds.append(time.perf_counter() - start)
        found[f"label_{number:03d}"] = np.asarray(labels, np.int32)
    np.savez_compressed(result, seconds=np.array(seconds), **found)


def score(images: str, result: str) -> None:
    from stardist.matching import matching_dataset

    truth, found = read(images)[1], read(result)[1]
    rows = matching_dataset(truth, found, thresh=THRESHOLDS, by_image=False, show_progress=False)
    at = dict(zip(THRESHOLDS, rows, strict=True))
    accuracy = float(np.mean([row.accuracy for row in rows]))  # TP / (TP + FP + FN)
    print(json.dumps({"f1": at[0.5].f1, "f1_75": at[0.75].f1, "mean_ap": accuracy}))


TRAIN = {"stardist": train_stardist, "cellpose": train_cellpose}
LOAD = {"stardist": load_stardist, "cellpose": load_cellpose, "keras_unet": load_keras_unet}


def main() -> None:
    what, *given = sys.argv[1:]
    if what == "train":
        name, training, folder, minutes, seed = given
        Path(folder).mkdir(parents=True, exist_ok=True)
        TRAIN[name](training, Path(folder), float(minutes), int(seed))
    elif what == "predict":
        name, folder, images, result = given
        predict(LOAD[name](Path(folder)), images, result)
    else:
        score(*given)


if __name__ == "__main__":
    main()
