"""The peers of `benchmarks/augment.py`: each deforms a batch of images and labels once a call.

All do the U-Net's deformation where they can: displacements from N(0, 10 px) on a 3 x 3 grid,
bicubic to every pixel, image bilinear, label nearest, mirrored borders. A peer that is not
installed raises ImportError (or says why in RuntimeError); the benchmark reports it and goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

SIGMA, POINTS = 10.0, 3
ORACLES = Path(__file__).resolve().parents[1] / "tests" / "oracles"
Work = Callable[[], object]


def opencv(image: np.ndarray, label: np.ndarray) -> Work:
    """Native code on all cores: the practical floor."""
    import cv2

    rng = np.random.default_rng(0)
    height, width = label.shape[1:]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))

    def one(b: int) -> tuple[np.ndarray, np.ndarray]:
        grid = rng.standard_normal((2, POINTS, POINTS)).astype(np.float32) * SIGMA
        dy, dx = (cv2.resize(g, (width, height), interpolation=cv2.INTER_CUBIC) for g in grid)
        dy, dx = dy + y, dx + x
        mirror = cv2.BORDER_REFLECT_101
        return (
            cv2.remap(image[b], dx, dy, cv2.INTER_LINEAR, borderMode=mirror),
            cv2.remap(label[b], dx, dy, cv2.INTER_NEAREST, borderMode=mirror),
        )

    return lambda: [one(b) for b in range(len(image))]


def albumentations(image: np.ndarray, label: np.ndarray, transform: str) -> Work:
    import albumentations as al

    if transform == "ElasticTransform":
        # Its field is white noise smoothed by sigma; alpha brings it to about 10 pixels.
        change = al.ElasticTransform(alpha=300, sigma=SIGMA, p=1.0)
    else:
        change = al.GridDistortion(num_steps=POINTS, p=1.0)
    return lambda: [change(image=i, mask=m) for i, m in zip(image[..., 0], label, strict=True)]


def elasticdeform(image: np.ndarray, label: np.ndarray, order: int) -> Work:
    import elasticdeform as ed

    def one(b: int) -> list[np.ndarray]:
        pair = [image[b, ..., 0], label[b]]
        return ed.deform_random_grid(
            pair, sigma=SIGMA, points=POINTS, order=[order, 0], mode="mirror"
        )

    return lambda: [one(b) for b in range(len(image))]


def keras_elastic(image: np.ndarray, label: np.ndarray) -> Work:
    """Keras's own layer, image and mask together (it warps them by different fields)."""
    import keras

    layer = keras.layers.RandomElasticTransform(
        factor=1.0, interpolation="bilinear", fill_mode="reflect", value_range=(0, 255), seed=0
    )
    # It fails on integer masks.
    mask = label[..., None].astype(np.float32)
    data = {"images": image.astype(np.float32), "segmentation_masks": mask}
    return lambda: [np.asarray(v) for v in layer(dict(data), training=True).values()]


def scipy(image: np.ndarray, label: np.ndarray) -> Work:
    from scipy import ndimage

    rng = np.random.default_rng(0)
    height, width = label.shape[1:]
    base = np.mgrid[:height, :width]
    coarse = np.meshgrid(*(np.linspace(0, POINTS - 1, n) for n in (height, width)), indexing="ij")

    def one(b: int) -> tuple[np.ndarray, np.ndarray]:
        grid = rng.standard_normal((2, POINTS, POINTS)) * SIGMA
        field = [ndimage.map_coordinates(g, coarse, order=3, mode="mirror") for g in grid]
        place = base + field
        return (
            ndimage.map_coordinates(image[b, ..., 0], place, order=1, mode="mirror"),
            ndimage.map_coordinates(label[b], place, order=0, mode="mirror"),
        )

    return lambda: [one(b) for b in range(len(image))]


class TensorflowAddons:
    """dense_image_warp in its own environment, a process that times one batch when told to."""

    def __init__(self, size: int, batch: int) -> None:
        sys.path.insert(0, str(ORACLES))
        from environments import how_to_make, interpreter

        python = interpreter("tfa")
        if python is None:
            raise RuntimeError(how_to_make("tfa"))
        command = [str(python), str(ORACLES / "tfa_worker.py"), "time", str(size), str(batch)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("its process did not start")

    def seconds(self) -> float:
        """The time of one batch, taken inside that process."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)
