"""tensorflow-addons itself, in an environment of its own, warps and rotates as we do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_unet.augment import Augment, dense_warp, grid_displacement

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracles"))
from environments import how_to_make, interpreter

ORACLES = Path(__file__).resolve().parents[1] / "oracles"


@pytest.mark.slow
def test_dense_image_warp_and_rotate_agree(tmp_path):
    python = interpreter("tfa")
    if python is None:
        pytest.skip(how_to_make("tfa"))
    rng = np.random.default_rng(0)
    size, margin = (64, 72), 16
    image = rng.random((3, *size, 2), np.float32)
    grid = rng.normal(0, 4, (3, 3, 3, 2)).clip(-margin, margin)
    displacement = grid_displacement(grid, size).numpy()
    angles = np.array([0.3, -1.2, 2.0], np.float32)
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    # tensorflow-addons reads image[i - flow]: the other sign.
    np.savez(source, image=image, flow=-displacement, angles=angles)
    worker = [str(python), str(ORACLES / "tfa_worker.py"), "parity", str(source), str(target)]
    subprocess.run(worker, check=True, timeout=300)
    oracle = np.load(target, allow_pickle=False)

    inner = (slice(None), slice(margin, -margin), slice(margin, -margin))
    ours = dense_warp(image, displacement).numpy()
    np.testing.assert_allclose(ours[inner], oracle["warped"][inner], atol=1e-4)

    # Rotation: compare where the source lies inside the picture (outside, it fills with zeros).
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    dy, dx = y - (size[0] - 1) / 2, x - (size[1] - 1) / 2
    for b, angle in enumerate(angles):
        degrees = float(np.degrees(angle))
        turned = Augment(rotate=(degrees, degrees))(image[b : b + 1]).numpy()[0]
        source_y = np.cos(angle) * dy + np.sin(angle) * dx + (size[0] - 1) / 2
        source_x = np.cos(angle) * dx - np.sin(angle) * dy + (size[1] - 1) / 2
        inside = (source_y > 0.1) & (source_y < size[0] - 1.1)
        inside &= (source_x > 0.1) & (source_x < size[1] - 1.1)
        assert inside.mean() > 0.4
        np.testing.assert_allclose(turned[inside], oracle["turned"][b][inside], atol=2e-4)
