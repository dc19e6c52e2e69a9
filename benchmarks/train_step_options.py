"""What else a training step costs: `python benchmarks/train_step_options.py [--filters 16]`.

One change at a time to the step that `train` takes by default on a CPU (batch normalization,
transposed convolution, bfloat16 where there is any, no XLA, all cores): how to enlarge, normalise
and crop, XLA, threads, oneDNN; then the tile and the batch, for which the time of an output pixel
counts. Each turn is a process of its own and they take turns, so that a busy machine is busy for
all. JSON goes to benchmarks/results; the table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from keras_unet import geometry

RESULTS = Path(__file__).parent / "results"
PAPER = 572


class Variant(NamedTuple):
    """One change to the default step."""

    tile: int = PAPER
    batch: int = 1
    upsampling: str = "transpose"
    normalization: str = "batch"
    precision: str = "auto"
    keras_crops: bool = False
    keras_adamw: bool = False
    xla: bool = False
    threads: tuple[int, int] = (0, 0)  # within an operation, of operations; 0: all cores
    onednn: bool = True

    @property
    def output_pixels(self) -> int:
        return self.batch * geometry.output_size(self.tile) ** 2


BASE = "as `train` has it"
VARIANTS = {
    BASE: Variant(),
    "1×1 convolution + depth-to-space": Variant(upsampling="depth_to_space"),
    "resize (bilinear) + 2×2 convolution": Variant(upsampling="bilinear"),
    "no normalization": Variant(normalization="none"),
    "Keras's batch normalization": Variant(normalization="keras"),
    "Keras's crops": Variant(keras_crops=True),
    "Keras's AdamW": Variant(keras_adamw=True),
    "group normalization": Variant(normalization="group"),
    "float32": Variant(precision="float32"),
    "XLA": Variant(xla=True),
    "one thread": Variant(threads=(1, 1)),
    "operations one after the other": Variant(threads=(0, 1)),
    "each operation on one core": Variant(threads=(1, 0)),
    "without oneDNN": Variant(onednn=False),
    "tile 252": Variant(tile=252),
    "tile 412": Variant(tile=412),
    "tile 764": Variant(tile=764),
    "batch 2": Variant(batch=2),
    "batch 4": Variant(batch=4),
}


def depth_to_space_up(x: Any, filters: int, *, name: str, dtype: Any = None, **_: Any) -> Any:
    """The same function as a 2×2 transposed convolution of stride 2: its four taps as channels."""
    import tensorflow as tf
    from keras import layers

    class DepthToSpace(layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.nn.depth_to_space(x, 2)

        def compute_output_shape(self, shape: Any) -> tuple[Any, ...]:
            batch, height, width, channels = shape
            return (batch, height and 2 * height, width and 2 * width, channels // 4)

    taps = layers.Conv2D(4 * filters, 1, dtype=dtype, name=name)(x)
    return DepthToSpace(dtype=dtype, name=f"{name}_space")(taps)


def stepper(variant: Variant, filters: int) -> tuple[Callable[[], float], str]:
    """What takes one step of a variant, the batch in memory, and gives its loss; the policy."""
    import keras
    import tensorflow as tf

    from keras_unet.augment import Augment, preset_settings
    from keras_unet.augment.image_bank import ImageBank
    from keras_unet.data.pipeline import tile_entries
    from keras_unet.machine import dtype_policy
    from keras_unet.models import blocks
    from keras_unet.training import build
    from keras_unet.training.config import make_config

    tf.config.threading.set_intra_op_parallelism_threads(variant.threads[0])
    tf.config.threading.set_inter_op_parallelism_threads(variant.threads[1])
    keras.utils.set_random_seed(0)
    upsampling, normalization = variant.upsampling, variant.normalization
    if upsampling == "depth_to_space":
        blocks.up_convolution, upsampling = depth_to_space_up, "transpose"
    if normalization == "keras":
        blocks.FusedBatchNormalization = keras.layers.BatchNormalization
        normalization = "batch"
    if variant.keras_crops:
        blocks.SlicedCropping2D = keras.layers.Cropping2D
    if variant.keras_adamw:
        build.FusedAdamW = lambda rate, decay, **options: keras.optimizers.AdamW(
            rate, weight_decay=decay, **options
        )
    config = make_config(
        {
            "data": {"images": "made-up"},
            "model": {
                "filters": filters,
                "normalization": normalization,
                "upsampling": upsampling,
            },
            "batch_size": variant.batch,
            "precision": variant.precision,
        }
    )
    policy, _ = dtype_policy(config.precision)
    output = geometry.output_size(variant.tile)
    rng = np.random.default_rng(0)
    shape = (1, variant.tile, variant.tile)
    images = rng.integers(0, 256, (*shape, 1)).astype(np.uint8)
    weights = np.ones(shape, np.float32)
    bank = ImageBank.from_arrays(list(images), list((images[..., 0] > 127) * 1), list(weights))
    augment = Augment(preset_settings("none"), tile=variant.tile, output=output)
    network = build.build_network(config, 1, 2, policy)
    entries = tile_entries([shape[1:]], output)
    model = build.trainable(config, network, bank, augment, entries).model
    model.jit_compile = variant.xla
    small = (variant.batch, output, output)
    batch = (
        rng.normal(size=(variant.batch, variant.tile, variant.tile, 1)).astype(np.float32),
        rng.integers(0, 2, small).astype(np.int32),
        rng.uniform(0.5, 10.0, small).astype(np.float32),
    )
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    function: Callable[[Any], Any] = model.make_train_function() or model.train_function
    return lambda: float(function(batches)["loss"]), policy


def turn(variant: Variant, filters: int, steps: int, warm: int) -> dict[str, Any]:
    """Seconds of each step of one variant; in a process of its own."""
    from train_step_keras import peak_memory

    step, policy = stepper(variant, filters)
    seconds = []
    for number in range(warm + steps):
        start = time.perf_counter()
        loss = step()
        if number >= warm:
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_bytes": peak_memory(), "policy": policy, "loss": loss}


def in_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One turn.

    Raises:
        RuntimeError: it fails; the last line that it said.
    """
    command = [sys.executable, __file__, "--turn", name, "--filters", str(args.filters)]
    command += ["--steps", str(args.steps), "--warm", str(args.warm)]
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": str(int(VARIANTS[name].onednn))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise RuntimeError(said[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over turns; ratios to the default, turn by turn, for one output pixel."""

    def pixel_times(name: str) -> list[float]:
        return [float(np.median(t["seconds"])) / VARIANTS[name].output_pixels for t in found[name]]

    base = pixel_times(BASE)
    made = {}
    for name, turns in found.items():
        variant, times = VARIANTS[name], pixel_times(name)
        count = min(len(base), len(times))
        made[name] = {
            "seconds": float(np.median(times)) * variant.output_pixels,
            "nanoseconds_an_output_pixel": 1e9 * float(np.median(times)),
            "to_default": float(np.median(np.divide(times[:count], base[:count]))),
            "halo": 1.0 - (geometry.output_size(variant.tile) / variant.tile) ** 2,
            "peak_mb": max(t["peak_bytes"] for t in turns) / 1e6,
            "policy": turns[0]["policy"],
            "variant": variant._asdict(),
        }
    return made


def markdown(made: dict[str, Any]) -> str:
    lines = ["| | seconds a step | time of an output pixel | halo | peak memory |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, row in made.items():
        lines.append(
            f"| {name} | {row['seconds']:.3f} | {row['to_default']:.2f} | {row['halo']:.0%} "
            f"| {row['peak_mb']:.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a turn")
    parser.add_argument("--warm", type=int, default=3, help="steps before them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="beside the default")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--turn", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(turn(VARIANTS[args.turn], args.filters, args.steps, args.warm)))
        return
    names = [name for name in VARIANTS if not args.only or name in (BASE, *args.only)]
    found: dict[str, list[dict[str, Any]]] = {}
    skipped: dict[str, str] = {}
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()}
    for number in range(args.rounds):
        for name in names:
            if name in skipped:
                continue
            try:
                found.setdefault(name, []).append(in_process(name, args))
            except RuntimeError as error:
                skipped[name] = str(error)
                found.pop(name, None)
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    made = rows(found)
    print(markdown(made))
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")
    document = {"machine": machine, "filters": args.filters, "rounds": args.rounds}
    document |= {"variants": made, "skipped": skipped}
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (args.output / f"train_step_options_{args.filters}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
