"""Weight maps: this package beside a distance transform of the full image for every cell.

    python benchmarks/weight_map.py            # the peer is timed in full at 1,000 cells: minutes
    python benchmarks/weight_map.py --quick    # the peer is extrapolated from 5 cells, and says so

The peer is what most U-Net code does: SciPy's `distance_transform_edt` of the whole image, once a
cell, keeping the two smallest distances. Both make the border term of equation 2 of Ronneberger et
al. 2015, without separation and class weights, and must agree to 1e-4 · w0. "whole map" is
`weight_map`, with both. Seconds are medians by the clock, of runs before and after the peer; both
run on one core, so the ratio of processor times is what a busy machine leaves unchanged. Writes
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
from typing import NamedTuple

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


class Seconds(NamedTuple):
    """By the clock, and of this thread's processor time."""

    clock: float
    cpu: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.thread_time())

    @classmethod
    def since(cls, start: Seconds) -> Seconds:
        now = cls.now()
        return cls(now.clock - start.clock, now.cpu - start.cpu)

    def times(self, factor: float) -> Seconds:
        return Seconds(self.clock * factor, self.cpu * factor)


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


def per_cell(labels: np.ndarray, cells: int | None = None) -> tuple[np.ndarray, Seconds, int]:
    """The peer: (border term float32, seconds per cell, number of cells done)."""
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    done = numbers if cells is None else numbers[:: max(1, len(numbers) // cells)][:cells]
    d1 = np.full(labels.shape, np.inf)
    d2 = np.full(labels.shape, np.inf)
    start = Seconds.now()
    for number in done:
        distance = distance_transform_edt(labels != number)
        np.minimum(d2, np.maximum(d1, distance), out=d2)
        np.minimum(d1, distance, out=d1)
    seconds = Seconds.since(start)
    border = W0 * np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2)) * (labels == 0)
    return border.astype(np.float32), seconds.times(1 / len(done)), len(done)


def timed(function: Callable[[], object], repeats: int) -> list[Seconds]:
    """Each of `repeats` calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = Seconds.now()
        function()
        times.append(Seconds.since(start))
    return times


def median(times: list[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(column) for column in zip(*times, strict=True)))


def by_cells(repeats: int, quick: bool) -> list[dict]:
    rows = []
    print(f"{SIDE}², border term: this package beside a full-image distance transform a cell")
    for count in CELLS:
        labels = make_cells(count, SIDE)
        found = len(np.unique(labels)) - 1

        def ours(labels: np.ndarray = labels) -> np.ndarray:
            return border_weights(labels, W0, SIGMA)

        before = timed(ours, repeats)
        whole_map = median(timed(lambda labels=labels: weight_map(labels), repeats))
        in_full = count == 1_000 and not quick
        reference, per, done = per_cell(labels, None if in_full else (5 if quick else 10))
        border = median(before + timed(ours, repeats))
        peer = per.times(found)
        row = {
            "side": SIDE,
            "cells": found,
            "border_s": border.clock,
            "border_cpu_s": border.cpu,
            "weight_map_s": whole_map.clock,
            "weight_map_cpu_s": whole_map.cpu,
            "peer_s": peer.clock,
            "peer_cpu_s": peer.cpu,
            "peer_cells_timed": done,
            "ratio": peer.clock / border.clock,
            "ratio_cpu": peer.cpu / border.cpu,
            "ratio_weight_map": peer.clock / whole_map.clock,
            "ratio_weight_map_cpu": peer.cpu / whole_map.cpu,
        }
        note = f"extrapolated from {done} cells"
        if done == found:
            row["largest_difference"] = float(np.abs(reference - ours()).max())
            note = f"timed in full, differs by {row['largest_difference']:.1e}"
        rows.append(row)
        print(
            f"{found:7,} cells: border {border.clock:.3f} s, whole map {whole_map.clock:.3f} s, "
            f"peer {peer.clock:,.0f} s ({note}): {row['ratio']:,.0f}x faster "
            f"({row['ratio_cpu']:,.0f}x in processor time), "
            f"whole map {row['ratio_weight_map']:,.0f}x ({row['ratio_weight_map_cpu']:,.0f}x)",
            flush=True,
        )
        if row.get("largest_difference", 0.0) >= 1e-4 * W0:
            raise SystemExit("the two disagree")
    return rows


def by_size(repeats: int) -> list[dict]:
    rows = []
    print("constant density (1,000 cells on 2048²)")
    for side in SIDES:
        count = max(1, round(1_000 * (side / 2048) ** 2))
        labels = make_cells(count, side)
        border = median(timed(lambda labels=labels: border_weights(labels, W0, SIGMA), repeats))
        row = {"side": side, "cells": count, "border_s": border.clock, "border_cpu_s": border.cpu}
        row["ns_a_pixel"] = border.cpu / side**2 * 1e9
        rows.append(row)
        print(
            f"{side:5d}², {count:5,} cells: {border.clock:.3f} s, "
            f"{row['ns_a_pixel']:.0f} ns of processor time a pixel"
        )
    return rows


def plot(cells: list[dict], sizes: list[dict], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    x = [r["cells"] for r in cells]
    left.loglog(x, [r["peer_cpu_s"] for r in cells], "s--", color="0.5", label="a transform a cell")
    left.loglog(x, [r["border_cpu_s"] for r in cells], "o-", label="keras_unet")
    for row in cells:
        between = math.sqrt(row["peer_cpu_s"] * row["border_cpu_s"])
        text = f"{row['ratio_cpu']:,.0f}×"
        left.annotate(text, (row["cells"], between), ha="center", va="center")
    left.set(
        xlabel="cells on 2048²", ylabel="seconds of one core", title="Cost does not grow with cells"
    )
    left.margins(x=0.12)
    left.legend()
    right.loglog([r["side"] ** 2 / 1e6 for r in sizes], [r["border_cpu_s"] for r in sizes], "o-")
    first = sizes[0]
    right.loglog(
        [r["side"] ** 2 / 1e6 for r in sizes],
        [first["border_cpu_s"] * (r["side"] / first["side"]) ** 2 for r in sizes],
        ":", color="0.5", label="linear",
    )  # fmt: skip
    right.set(
        xlabel="megapixels, at one density",
        ylabel="seconds of one core",
        title="but with the pixels",
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
    row = cells[CELLS.index(1_000)]
    ratio = min(row["ratio"], row["ratio_cpu"])
    verdict = "reached" if ratio >= REQUIRED else "MISSED"
    print(f"at 1,000 cells {ratio:,.0f} times faster; {REQUIRED:.0f} required: {verdict}")


if __name__ == "__main__":
    main()
