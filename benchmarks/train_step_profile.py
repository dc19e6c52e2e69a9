"""Where the time of a training step goes: `python benchmarks/train_step_profile.py [--filters 16]`.

The step that `train` takes by default, 572², one tile, in memory, under TensorFlow's profiler; the
time within operations is summed by kind over a few steps. JSON goes to benchmarks/results, the
table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from train_step_options import BASE, RESULTS, VARIANTS, stepper

FORWARD, INPUT = "convolutions, forward", "convolutions, gradient of the input"
# What an operation's type contains: the first that fits.
KINDS = {
    "convolutions, gradient of the kernel": "Conv2DBackpropFilter",
    "batch normalization": "FusedBatchNorm",
    "optimizer": "ResourceApply|AssignSub",
    "activations": "Relu",
    "pooling": "MaxPool",
    "crops and concatenations": "Concat|Slice|Pad",
    "the watch over the weights": "L2Loss",
    "conversions": "Cast|Transpose",
}


def kind(name: str, operation: str) -> str:
    """The kind of an operation, by its name in the graph and its type."""
    if re.search("Conv2D(BackpropInput)?$", operation):  # an up-convolution's are exchanged
        return INPUT if "gradient_tape" in name else FORWARD
    return next((k for k, pattern in KINDS.items() if re.search(pattern, operation)), "the rest")


def times(filters: int, steps: int) -> tuple[Counter[str], Counter[str]]:
    """Seconds of a step by kind, and by type of operation."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    step, _ = stepper(VARIANTS[BASE], filters)
    for _ in range(3):
        step()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                step()
        space = xplane_pb2.XSpace()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space.ParseFromString(path.read_bytes())
    kinds: Counter[str] = Counter()
    types: Counter[str] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                found = re.fullmatch(r"([^:]+):_?(?:Mkl)?(?:Native)?(\w+)", name)
                if found is None:  # TensorFlow's own business, which contains the operations
                    continue
                seconds = event.duration_ps * 1e-12 / steps
                kinds[kind(found[1], found[2])] += seconds
                types[found[2]] += seconds
    return kinds, types


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    args = parser.parse_args()
    document = {}
    for filters in args.filters:
        kinds, types = times(filters, args.steps)
        total = sum(kinds.values())
        shares = {name: seconds / total for name, seconds in kinds.most_common()}
        document[filters] = {
            "seconds": total,
            "shares": shares,
            "operations": types.most_common(40),
        }
        print(f"| {filters} filters: {total:.3f} s within operations | share |\n| --- | --- |")
        for name, share in shares.items():
            print(f"| {name} | {share:.1%} |")
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "train_step_profile.json"
    path.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
