"""What augmentation costs a training step: the full `paper` preset against tiles kept in memory.

    python benchmarks/augment_share.py [--rounds 7] [--steps 8] [--filters 16]

Both runs train the same network on the same tile size, in turns in one process; the ratio is taken
round by round. Writes benchmarks/results/augment_share.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from keras_unet.augment import Augment
from keras_unet.data import LabelRule, Normalization, make_cells
from keras_unet.data.pipeline import fill_bank, targets, tile_dataset, tile_entries
from keras_unet.data.samples import Sample
from keras_unet.losses import WeightedCrossEntropy
from keras_unet.machine import dtype_policy
from keras_unet.models import build_unet

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="steps of each run in a round")
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=2)
    arguments = parser.parse_args()

    policy, why = dtype_policy("auto")
    model = build_unet(filters=arguments.filters, normalization="batch", dtype=policy)
    model.compile("adam", WeightedCrossEntropy(), jit_compile=False)
    drawn = _tiles(arguments.batch_size)
    kept = tf.data.Dataset.from_tensors(next(iter(drawn))).repeat().prefetch(2)
    runs = {"in memory": iter(kept), "paper preset": iter(drawn)}

    def seconds(batches) -> float:
        start = time.perf_counter()
        for _ in range(arguments.steps):
            model.train_on_batch(*next(batches))
        return (time.perf_counter() - start) / arguments.steps

    for batches in runs.values():
        seconds(batches)  # compilation and the first prefetches
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds):
        order = list(runs) if number % 2 else list(runs)[::-1]
        for name in order:
            times[name].append(seconds(runs[name]))
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    report = {
        "what": f"seconds a step, batch {arguments.batch_size} of 572x572, "
        f"{arguments.filters} filters, {policy} ({why})",
        "median_s": {name: statistics.median(values) for name, values in times.items()},
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        "times_s": times,
        "cores": os.cpu_count(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "augment_share.json").write_text(json.dumps(report, indent=1) + "\n")
    print(report["what"])
    for name, value in report["median_s"].items():
        print(f"  {name:14}{value:.3f} s")
    print(f"  ratio, median of {len(ratios)} rounds: {report['ratio_median']:.3f}")


def _tiles(batch_size: int) -> tf.data.Dataset:
    rule = LabelRule(kind="instances").resolve([0, 1, 2])
    samples = []
    for seed in range(4):
        image, instances = make_cells((512, 512), seed=seed)
        samples.append(
            Sample(str(seed), image[..., None], rule.classes(instances), instances.astype(np.int32))
        )
    bank = fill_bank(samples, targets(samples, 2), Normalization())
    augment = Augment.from_preset("paper", tile=572, output=388)
    entries = tile_entries([s.image.shape[:2] for s in samples], 388)
    return tile_dataset(bank, augment, entries, batch_size=batch_size, seed=0)


if __name__ == "__main__":
    main()
