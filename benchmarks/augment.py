"""Augmentation side by side: `python benchmarks/augment.py [--quick] [--size 572] [--rounds 12]`.

Every contender deforms a batch of 8 images and labels; they take turns in one run, so that a busy
machine is busy for all; medians and ratios to OpenCV are reported, JSON and a bar plot written to
benchmarks/results. Peers are optional: what is not installed is skipped, and said.

    pip install opencv-python-headless albumentations
    pip install --no-binary elasticdeform elasticdeform
    python tests/oracles/environments.py tfa
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import augment_peers as peers
import numpy as np
import tensorflow as tf

from keras_unet.augment import Augment, sample_seeds
from keras_unet.augment.image_bank import ImageBank

RESULTS = Path(__file__).parent / "results"
BATCH = 8
FLOOR = "OpenCV remap"
# (contender, the other, largest ratio of their medians): what the project asked of itself.
REQUIRED = [
    ("ours, elastic, tf.data", FLOOR, 0.8),
    ("ours, paper preset + weight, tf.data", FLOOR, 1.2),
    ("ours, paper preset + weight, 572 to 388, tf.data", FLOOR, 1.2),
    ("ours, elastic, tf.data", "albumentations ElasticTransform", 1 / 15),
    ("ours, elastic, tf.data", "tensorflow-addons dense_image_warp", 1 / 8),
    ("ours, elastic, tf.data", "elasticdeform, order 1", 1 / 35),
    ("ours, elastic, tf.data", "Keras RandomElasticTransform", 1 / 35),
]


def pictures(size: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth random uint8 images, labels and float32 weights."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((batch, size, size)).astype(np.float32)
    smooth = gaussian_filter(noise, (0, 3, 3))
    image = np.clip(128 + smooth * 600, 0, 255).astype(np.uint8)
    return image[..., None], (image > 128).astype(np.uint8), rng.random(image.shape, np.float32)


def bank_of(image: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> ImageBank:
    return ImageBank.from_arrays(
        list(image), list(label), None if weight is None else list(weight), 128.0, 0.02
    )


def called(layer: Augment, bank: ImageBank, batch: int = BATCH) -> Callable[[], float]:
    """Seconds of one compiled call on a batch."""
    index, seeds = tf.range(batch) % len(bank.height), sample_seeds(0, 0, tf.range(batch))

    def seconds() -> float:
        start = time.perf_counter()
        layer.sample(bank, index, seeds)[0].numpy()
        return time.perf_counter() - start

    return seconds


def piped(layer: Augment, bank: ImageBank, batches: int = 4) -> Callable[[], float]:
    """Seconds a batch from a tf.data pipeline with two parallel calls."""

    def draw(first: tf.Tensor) -> tuple:
        number = first * BATCH + tf.range(BATCH, dtype=tf.int64)
        return layer.sample(bank, number % len(bank.height), sample_seeds(0, 0, number))

    data = tf.data.Dataset.counter().map(draw, num_parallel_calls=2).prefetch(1)
    iterator = iter(data)

    def seconds() -> float:
        for _ in range(4):  # what was made ahead while others had their turn
            next(iterator)
        start = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        took = (time.perf_counter() - start) / batches
        time.sleep(0.1)  # what is made ahead now is not the next one's burden
        return took

    return seconds


def worked(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def contenders(size: int) -> tuple[dict[str, Callable[[], float]], dict[str, str], list]:
    """Name -> seconds of one batch; what was skipped and why; what to close."""
    image, label, weight = pictures(size, BATCH)
    pair, triple = bank_of(image, label), bank_of(image, label, weight)
    elastic = partial(Augment, elastic_sigma=peers.SIGMA, tile=size)
    paper = partial(Augment.from_preset, "paper", tile=size)
    makers = {
        "ours, elastic, tf.data": lambda: piped(elastic(), pair),
        "ours, elastic, one call": lambda: called(elastic(), pair),
        "ours, paper preset + weight, tf.data": lambda: piped(paper(), triple),
        "ours, paper preset + weight, one call": lambda: called(paper(), triple),
        "ours, paper preset + weight, 572 to 388, tf.data": lambda: piped(
            paper(output=size - 184), triple
        ),
        FLOOR: lambda: worked(peers.opencv(image, label)),
        "albumentations GridDistortion": lambda: worked(
            peers.albumentations(image, label, "GridDistortion")
        ),
        "albumentations ElasticTransform": lambda: worked(
            peers.albumentations(image, label, "ElasticTransform")
        ),
        "scipy map_coordinates": lambda: worked(peers.scipy(image, label)),
        "elasticdeform, order 1": lambda: worked(peers.elasticdeform(image, label, 1)),
        "elasticdeform, order 3": lambda: worked(peers.elasticdeform(image, label, 3)),
        "Keras RandomElasticTransform": lambda: worked(peers.keras_elastic(image, label)),
    }
    found, skipped, open_ = {}, {}, []
    for name, make in makers.items():
        try:
            found[name] = make()
            found[name]()
        except (ImportError, RuntimeError) as error:
            found.pop(name, None)
            skipped[name] = str(error)
    name = "tensorflow-addons dense_image_warp"
    try:
        process = peers.TensorflowAddons(size, BATCH)
        found[name] = process.seconds
        open_.append(process)
    except (ImportError, RuntimeError) as error:
        skipped[name] = str(error)
    return found, skipped, open_


def race(turns: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds an image, turn by turn; what takes over half a second a batch gets 3 turns."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds):
        for name, seconds in turns.items():
            if turn < 3 or np.median(times[name]) * BATCH < 500:
                times[name].append(seconds() * 1e3 / BATCH)
    return times


def growth(sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Milliseconds a megapixel of the paper preset, by size: linear if it stays the same."""
    rows = []
    for size in sizes:
        image, label, weight = pictures(size, 1)
        seconds = called(
            Augment.from_preset("paper", tile=size), bank_of(image, label, weight), batch=1
        )
        seconds()
        ms = float(np.median([seconds() for _ in range(9)]) * 1e3)
        rows.append({"size": size, "ms": ms, "ms_per_megapixel": ms * 1e6 / size**2})
    return rows


def plot(median: dict[str, float], path: Path) -> None:
    from matplotlib.figure import Figure

    names = sorted(median, key=median.get, reverse=True)
    figure = Figure(figsize=(8, 0.36 * len(names) + 1), dpi=150, layout="constrained")
    axes = figure.subplots()
    colors = ["#0072b2" if name.startswith("ours") else "#999999" for name in names]
    bars = axes.barh(names, [median[name] for name in names], color=colors)
    axes.bar_label(
        bars, fmt=lambda ms: f"{ms:.0f}" if ms >= 10 else f"{ms:.1f}", padding=3, fontsize=8
    )
    axes.set_xscale("log")
    axes.set_xlim(0.1)
    axes.set_xlabel("milliseconds an image (median; 572 × 572, image + label)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=572)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="3 rounds, sizes up to 2048")
    args = parser.parse_args()
    turns, skipped, open_ = contenders(args.size)
    try:
        times = race(turns, 3 if args.quick else args.rounds)
    finally:
        for process in open_:
            process.close()
    median = {name: float(np.median(values)) for name, values in times.items()}
    for name in sorted(median, key=median.get):
        ratio = f"{median[name] / median[FLOOR]:8.2f}" if FLOOR in median else ""
        print(f"{name:52s} {median[name]:9.3f} ms an image {ratio}")
    for name, reason in skipped.items():
        print(f"{name:52s} skipped: {reason}")
    checks = []
    for ours, other, limit in REQUIRED:
        if ours in median and other in median:
            ratio = median[ours] / median[other]
            checks.append({"ours": ours, "other": other, "limit": limit, "ratio": ratio})
            verdict = "met" if ratio <= limit else "NOT met"
            print(f"{ours} / {other}: {ratio:.3f}, at most {limit:.3f}: {verdict}")
    sizes = growth((512, 1024, 2048) if args.quick else (512, 1024, 2048, 4096))
    for row in sizes:
        print(f"{row['size']:5d}²: {row['ms']:8.1f} ms, {row['ms_per_megapixel']:.1f} a megapixel")
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "machine": platform.machine()}
    machine |= {"python": platform.python_version(), "tensorflow": tf.__version__}
    result = {"milliseconds": median, "skipped": skipped, "required": checks, "growth": sizes}
    result |= {"size": args.size, "batch": BATCH, "machine": machine}
    (RESULTS / "augment.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(median, RESULTS / "augment.png")


if __name__ == "__main__":
    main()
