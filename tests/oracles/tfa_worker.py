"""Runs inside the tensorflow-addons environment; no import of this project.

python tfa_worker.py parity IN.npz OUT.npz    warps what it is given, writes the results
python tfa_worker.py time SIZE BATCH          reads a line, times one batch, prints the seconds
"""

from __future__ import annotations

import os
import sys
import time
import warnings

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_addons as tfa  # noqa: E402


def parity(source: str, target: str) -> None:
    data = np.load(source, allow_pickle=False)
    warped = tfa.image.dense_image_warp(data["image"], data["flow"])
    turned = tfa.image.rotate(data["image"], data["angles"], "bilinear")
    np.savez(target, warped=warped.numpy(), turned=turned.numpy())


def timed(size: int, batch: int) -> None:
    """The U-Net's deformation as one would write it with tensorflow-addons: image and label."""
    rng = np.random.default_rng(0)
    image = tf.constant(rng.random((batch, size, size, 1), np.float32))
    label = tf.round(image)

    @tf.function
    def deform(image, label):
        grid = tf.random.normal((batch, 3, 3, 2)) * 10.0
        flow = tf.image.resize(grid, (size, size), method="bicubic")
        warped = tfa.image.dense_image_warp(image, flow)
        # It has no nearest neighbour: the label is warped too and rounded.
        return warped, tf.round(tfa.image.dense_image_warp(label, flow))

    for _ in range(3):
        deform(image, label)
    print("ready", flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        start = time.perf_counter()
        deform(image, label)[1].numpy()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "parity":
        parity(*sys.argv[2:4])
    else:
        timed(*(int(value) for value in sys.argv[2:4]))
