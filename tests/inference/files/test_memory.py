"""Memory of a prediction does not grow with the image."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.slow

WIDTH = 6000
DRIVER = """
import resource, sys
from keras_unet.inference import predict_files
predict_files(*sys.argv[1:4])
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def tiles(height):
    """Half of it noise, so that the mask is nothing special."""
    noise = np.random.default_rng(0).integers(0, 255, (512, 512), np.uint8)
    for number in range(-(-height // 512) * -(-WIDTH // 512)):
        yield noise >> (1 + number % 4)


def write_tiff(path, height):
    tifffile.imwrite(
        path,
        tiles(height),
        shape=(height, WIDTH),
        dtype=np.uint8,
        tile=(512, 512),
        compression="zlib",
        bigtiff=True,
    )


def write_zarr(path, height):
    zarr = pytest.importorskip("zarr", minversion="3")
    array = zarr.create_array(store=str(path), shape=(height, WIDTH), chunks=(512, 512), dtype="u1")
    for top in range(0, height, 512):
        array[top : top + 512] = top % 251


@pytest.mark.parametrize("write", [write_tiff, write_zarr])
def test_memory_is_bounded_by_rows_of_tiles(tmp_path, write):
    """20,000 x 20,000 took 0.98 GB on Linux, of which TensorFlow 0.63 GB before it began."""
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    model = save_model(TrainedModel(network, make_trained().card), tmp_path / "tiny.keras")
    peaks = []
    for height in (3000, 20000):
        write(tmp_path / f"{height}.{write.__name__[6:]}", height)
        done = subprocess.run(
            [
                *(sys.executable, "-c", DRIVER, model),
                *(tmp_path / f"{height}.{write.__name__[6:]}", tmp_path / str(height)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert max(peaks) < 2e9
    assert peaks[1] - peaks[0] < 60e6  # the larger image alone has 102 MB more
