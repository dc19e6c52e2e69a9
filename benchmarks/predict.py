"""Prediction side by side: `python benchmarks/predict.py [--quick] [--size 1200] [--rounds 3]`.

One image is segmented by each contender in turn, so that a busy machine is busy for all. What a
valid-padding network gives has no equivalent in MONAI, so its `sliding_window_inference` runs
against the same-padding network, with the same weights, window and overlap. Memory: the peak of a
process that predicts band by band, against the image's size. JSON and a plot go to
benchmarks/results.

MONAI needs an interpreter that has it: `pip install monai torch==2.13.0` there, and
`TORCH_PYTHON=/path/to/python`; without one it is skipped, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from keras_unet.inference.ensemble import forward
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor
from keras_unet.inference.tiles import mirrored
from keras_unet.models.unet import build_unet

RESULTS = Path(__file__).parent / "results"
FILTERS, DEPTH, ROI, OVERLAP = 16, 4, 512, 0.25
NETWORK = "the network alone, as many input pixels"
OURS = "predict"
MONAI = "MONAI sliding_window_inference, same padding"
BLENDED = "predict, same padding, gaussian"
# (contender, the other, largest ratio of their times): what the project asked of itself.
REQUIRED = [
    (OURS, NETWORK, 1.1),
    (OURS, "a plain loop over 572² tiles", 1.0),
    (BLENDED, MONAI, 1.0),
]


def timed(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def alone(predictor: Predictor, network: object, size: int) -> Callable[[], object]:
    """The compiled network on as many tiles as `predict` computes, nothing else."""
    plan = predictor.plan((size, size))
    run = forward(network)
    tile = np.random.default_rng(0).normal(size=(1, *plan.tile, 1)).astype(np.float32)

    def work() -> None:
        for _ in range(plan.tiles):
            run(tile)

    return work


def plain_loop(network: object, image: np.ndarray) -> Callable[[], object]:
    """What a script would do: mirror, cut 572² tiles, call the Keras model, paste 388²."""

    def work() -> np.ndarray:
        size = len(image)
        steps = range(0, size, 388)
        index = mirrored(-92, steps[-1] + 388 + 92, size)
        padded = image[np.ix_(index, index)].astype(np.float32)
        out = np.empty((steps[-1] + 388, steps[-1] + 388, 2), np.float32)
        for y in steps:
            for x in steps:
                tile = padded[None, y : y + 572, x : x + 572, None]
                logits = network.predict_on_batch(tile)
                out[y : y + 388, x : x + 388] = tf.nn.softmax(logits[0])
        return out[:size, :size]

    return work


class Monai:
    """The peer in its own process; `seconds()` is one prediction."""

    def __init__(self, network: object, image: np.ndarray) -> None:
        python = os.environ.get("TORCH_PYTHON", sys.executable)
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        arrays = {str(n): array for n, array in enumerate(network.get_weights())}
        np.savez(folder / "weights.npz", **arrays)
        np.save(folder / "image.npy", image.astype(np.float32))
        script = Path(__file__).with_name("predict_peer.py")
        options = (folder, FILTERS, DEPTH, ROI, OVERLAP, os.cpu_count())
        self._process = subprocess.Popen(
            [python, str(script), *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout.readline().strip() != "ready":
            lines = self._process.stderr.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else "did not start")

    def seconds(self) -> float:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> np.ndarray:
        """Ends the process and returns its last result [H, W, K]."""
        self._process.stdin.close()
        self._process.wait()
        found = np.load(self._folder.name + "/probabilities.npy", allow_pickle=False)
        self._folder.cleanup()
        return found


_MEMORY = """
import sys
import numpy as np
from keras_unet.inference import PredictOptions, Predictor
from keras_unet.models import build_unet

class Blank:
    dtype = np.dtype(np.uint8)
    def __init__(self, size):
        self.shape = (size, size, 1)
    def read(self, rows, columns):
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start, 1), np.uint8)

predictor = Predictor(build_unet(filters=2, depth=2), PredictOptions(tile=572, memory=10**9))
predictor(np.zeros((8, 8), np.uint8))
def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
before = status("VmRSS")
for band in predictor.bands(Blank(int(sys.argv[1]))):
    pass
print(status("VmHWM") - before)
"""


def memory(sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Peak bytes that streaming an image of size² takes beside the loaded process."""
    rows = []
    for size in sizes:
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(size)], capture_output=True, text=True, check=True
        )
        taken = int(done.stdout.split()[-1])
        result = size * size * 2 * 4  # what the whole image's probabilities would take
        rows.append({"size": size, "peak_mb": taken / 1e6, "whole_result_mb": result / 1e6})
    return rows


def plot(speed: dict[str, float], rows: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = sorted(speed, key=speed.get)
    colors = ["#0072b2" if name.startswith("predict") else "#999999" for name in names]
    bars = left.barh(names, [speed[name] for name in names], color=colors)
    left.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    left.set_xlabel("megapixels of output a second (median)")
    right.plot([r["size"] for r in rows], [r["peak_mb"] for r in rows], "o-", color="#0072b2")
    whole = [r["whole_result_mb"] for r in rows]
    right.plot([r["size"] for r in rows], whole, "--", color="#999999")
    right.legend(["peak, band by band", "the whole result alone"], fontsize=8, frameon=False)
    right.set(xlabel="image side, pixels", ylabel="MB", yscale="log")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round at 800², small memory runs")
    args = parser.parse_args()
    size, rounds = (800, 1) if args.quick else (args.size, args.rounds)
    image = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    valid = build_unet(filters=FILTERS, depth=DEPTH)
    same = build_unet(filters=FILTERS, depth=DEPTH, padding="same")
    exact = Predictor(valid)
    rough = Predictor(valid, PredictOptions(precision="bfloat16"))
    blended = Predictor(same, PredictOptions(tile=ROI, blend="gaussian", overlap=OVERLAP))
    turns = {
        NETWORK: timed(alone(exact, valid, size)),
        OURS: timed(lambda: exact(image)),
        "predict, bfloat16": timed(lambda: rough(image)),
        "a plain loop over 572² tiles": timed(plain_loop(valid, image)),
        BLENDED: timed(lambda: blended(image)),
        "predict, same padding, exact": timed(lambda: Predictor(same)(image)),
    }
    skipped, peer, agreement = {}, None, None
    try:
        peer = Monai(same, image)
        turns[MONAI] = peer.seconds
    except (OSError, RuntimeError) as error:
        skipped[MONAI] = str(error)
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, seconds in turns.items():
            took = seconds()
            if turn:  # the first compiles
                times[name].append(took)
    if peer is not None:
        agreement = float(np.abs(peer.close() - blended(image)).mean())
        print(f"mean difference of {BLENDED} and MONAI: {agreement:.2g}")
    difference = np.abs(exact(image) - rough(image))
    bfloat16 = {"max": float(difference.max()), "mean": float(difference.mean())}
    print(f"{exact.plan(image.shape).reason}")
    median = {name: float(np.median(values)) for name, values in times.items()}
    speed = {name: size * size / 1e6 / seconds for name, seconds in median.items()}
    for name in sorted(speed, key=speed.get, reverse=True):
        print(f"{name:50s} {speed[name]:7.3f} MPixel/s of output")
    for name, reason in skipped.items():
        print(f"{name:50s} skipped: {reason}")
    checks = []
    for ours, other, limit in REQUIRED:
        if other in median:
            # Both of one turn were as hindered as each other: the ratio of each turn.
            pairs = zip(times[ours], times[other], strict=True)
            ratio = float(np.median([a / b for a, b in pairs]))
            checks.append({"ours": ours, "other": other, "limit": limit, "ratio": ratio})
            verdict = "met" if ratio <= limit else "NOT met"
            print(f"{ours} / {other}: {ratio:.3f} of the time, at most {limit:.2f}: {verdict}")
    rows = memory((500, 1000, 2000) if args.quick else (1000, 2000, 4000, 8000))
    for row in rows:
        print(f"{row['size']:5d}²: peak {row['peak_mb']:.0f} MB beside the loaded process")
    ratio = rows[-1]["peak_mb"] / rows[-2]["peak_mb"]
    verdict = "met" if ratio <= 2.2 else "NOT met"
    print(f"memory at twice the side: {ratio:.2f}, at most 2.2 (a row, not an area): {verdict}")
    checks.append({"ours": "memory", "other": "half the side", "limit": 2.2, "ratio": ratio})
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "machine": platform.machine()}
    machine |= {"python": platform.python_version(), "tensorflow": tf.__version__}
    result = {"seconds": median, "megapixels_a_second": speed, "skipped": skipped}
    result |= {"required": checks, "memory": rows, "bfloat16_difference": bfloat16}
    result |= {"monai_difference": agreement, "tiles": exact.plan(image.shape).reason}
    result |= {"size": size, "filters": FILTERS, "depth": DEPTH, "machine": machine}
    (RESULTS / "predict.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(speed, rows, RESULTS / "predict.png")


if __name__ == "__main__":
    main()
