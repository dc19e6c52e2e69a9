"""Weight maps: this package beside a distance transform of the full image for every cell.

    python benchmarks/weight_map.py            # the peer is timed in full at 1,000 cells: minutes
    python benchmarks/weight_map.py --quick    # the peer is extrapolated from a few cells, and says so

The peer is what most U-Net code does: SciPy's `distance_transform_edt` of the whole image, once a
cell, keeping the two smallest distances. Both make the border term of equation 2 of Ronneberger et
al. 2015, without separation and class weights, and must agree to 1e-4 · w0. Writes
results/weight_map.json and results/weight_map.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import matplotlib.pyplot as plt
import numpy as np
import scipy
from scipy.ndimage import distance_transform_edt

from keras_unet.weight_maps import border_weights, weight_map

RESULTS = Path(__file__).parent / "results"
W0, SIGMA = 10.0, 5.0
SIDE = 2048
CELLS = (100, 1_000, 10_000)
SIDES = (512, 1024, 2048, 4096)  # at the density of 1,000 cells on 2048²
REQUIRED = 200.0


def make_cells(count: int, side: int, seed: int = 0) -> np.ndarray:
    """int32 [side, side]: `count` discs of unequal size on a jittered grid; some nearly touch."""
    rng = np.random.default_rng(seed)
    grid = math.ceil(math.sqrt(count))
    pitch = side / grid
    labels = np.zeros((side, side), np.int32)
    for number in range(count):
        centre = (np.array(divmod(number, grid)) + rng.uniform(0.4, 0.6, 2)) * pitch
        radius = rng.uniform(0.32, 0.5) * pitch
        low = np.maximum(np.floor(centre - radius), 0).astype(int)
        high = np.minimum(np.ceil(centre + radius) + 1, side).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
        box = labels[low[0] : high[0], low[1] : high[1]]
        box[inside & (box == 0)] = number + 1
    return labels


def per_cell(labels: np.ndarray, cells: int | None = None) -> tuple[np.ndarray, float, int]:
    """The peer: (border term float32, seconds per cell, number of cells done)."""
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    done = numbers if cells is None else numbers[:: max(1, len(numbers) // cells)][:cells]
    d1 = np.full(labels.shape, np.inf)
    d2 = np.full(labels.shape, np.inf)
    start = time.perf_counter()
    for number in done:
        distance = distance_transform_edt(labels != number)
        np.minimum(d2, np.maximum(d1, distance), out=d2)
        np.minimum(d1, distance, out=d1)
    seconds = time.perf_counter() - start
    border = W0 * np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2)) * (labels == 0)
    return border.astype(np.float32), seconds / len(done), len(done)


def median(function: Callable[[], object], repeats: int) -> float:
    """Median seconds, after one call that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def by_cells(repeats: int, quick: bool) -> list[dict]:
    rows = []
    print(f"{SIDE}², border term: this package beside a full-image distance transform a cell")
    for count in CELLS:
        labels = make_cells(count, SIDE)
        found = len(np.unique(labels)) - 1
        ours = median(lambda labels=labels: border_weights(labels, W0, SIGMA), repeats)
        complete = median(lambda labels=labels: weight_map(labels), repeats)
        whole = count == 1_000 and not quick
        border, per, done = per_cell(labels, None if whole else (5 if quick else 10))
        peer = per * found
        error = None
        if done == found:
            error = float(np.abs(border - border_weights(labels, W0, SIGMA)).max())
            assert error < 1e-4 * W0, error
        row = {
            "side": SIDE,
            "cells": found,
            "border_s": ours,
            "weight_map_s": complete,
            "peer_s": peer,
            "peer_cells_timed": done,
            "peer_extrapolated": done != found,
            "ratio": peer / ours,
            "ratio_weight_map": peer / complete,
            "largest_difference": error,
        }
        rows.append(row)
        print(
            f"{found:7,} cells  border {ours:6.3f} s  whole map {complete:6.3f} s  "
            f"peer {peer:9.1f} s ({'timed in full' if done == found else f'{done} cells timed'})  "
            f"{row['ratio']:8,.0f}x (whole map {row['ratio_weight_map']:,.0f}x)"
            + ("" if error is None else f"  differ by {error:.1e}")
        )
    return rows


def by_size(repeats: int) -> list[dict]:
    rows = []
    print("constant density (1,000 cells on 2048²)")
    for side in SIDES:
        count = max(1, round(1_000 * (side / 2048) ** 2))
        labels = make_cells(count, side)
        ours = median(lambda labels=labels: border_weights(labels, W0, SIGMA), repeats)
        rows.append(
            {"side": side, "cells": count, "border_s": ours, "ns_a_pixel": ours / side**2 * 1e9}
        )
        print(
            f"{side:5d}²  {count:6,} cells  {ours:7.3f} s  {rows[-1]['ns_a_pixel']:6.1f} ns a pixel"
        )
    return rows


def plot(cells: list[dict], sizes: list[dict], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    x = [r["cells"] for r in cells]
    left.loglog(
        x, [r["peer_s"] for r in cells], "s--", color="0.5", label="a transform for each cell"
    )
    left.loglog(x, [r["border_s"] for r in cells], "o-", label="keras_unet")
    for row in cells:
        left.annotate(
            f"{row['ratio']:,.0f}×", (row["cells"], math.sqrt(row["peer_s"] * row["border_s"])),
            ha="center", va="center",
        )  # fmt: skip
    left.set(xlabel="cells on 2048²", ylabel="seconds", title="Cost does not grow with the cells")
    left.legend()
    right.loglog([r["side"] ** 2 / 1e6 for r in sizes], [r["border_s"] for r in sizes], "o-")
    first = sizes[0]
    right.loglog(
        [r["side"] ** 2 / 1e6 for r in sizes],
        [first["border_s"] * (r["side"] / first["side"]) ** 2 for r in sizes],
        ":", color="0.5", label="linear",
    )  # fmt: skip
    right.set(
        xlabel="megapixels, at one density", ylabel="seconds", title="It grows with the pixels"
    )
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="extrapolate the peer from 5 cells")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cells = by_cells(options.repeats, options.quick)
    sizes = by_size(options.repeats)
    RESULTS.mkdir(exist_ok=True)
    result = {
        "quick": options.quick,
        "repeats": options.repeats,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "by_cells": cells,
        "by_size": sizes,
    }
    (RESULTS / "weight_map.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(cells, sizes, RESULTS / "weight_map.png")
    ratio = next(r["ratio"] for r in cells if r["peer_cells_timed"] and 900 < r["cells"] < 1100)
    verdict = "reached" if ratio >= REQUIRED else "MISSED"
    print(f"at 1,000 cells {ratio:,.0f} times faster; {REQUIRED:.0f} required: {verdict}")


if __name__ == "__main__":
    main()
