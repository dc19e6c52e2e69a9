"""The training step side by side: `python benchmarks/train_step.py [--filters 16 64] [--tile 572]`.

One architecture (the paper's network), tile and batch for all, weighted cross-entropy, Adam:

- `train`'s own step with its data pipeline, in bfloat16 where the CPU has it and in float32; that
  step with the batch in memory; and the pipeline without a step;
- the Keras model as most people write it: float32, `compile` and `fit`, the batch in memory;
- PyTorch, eager and compiled, float32 and bfloat16, channels last, the batch in memory;
- keras-unet-collection, which has same padding alone and so computes more;
- the forward pass alone, as `predict` runs it, and PyTorch's, compiled, both in bfloat16.

Each turn of each contender is a process of its own, so that one's memory is its own; they take
turns, so that a busy machine is busy for all. Told are medians, the share of the machine's peak,
which a large convolution reaches in the same run, and memory. JSON and a plot of each number of
filters go to benchmarks/results.

    pip install torch==2.13.0                      # where TORCH_PYTHON points
    pip install --no-deps --target DIR keras-unet-collection==0.1.13    # KERAS_UNET_COLLECTION=DIR

What is not there is skipped, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from keras_unet import geometry
from keras_unet.models.unet import build_unet
from keras_unet.training.planning.sizes import Network, tile_cost

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OURS, PLAIN = "train", "Keras model, fit"
STEP, PIPELINE = "train's step, batch in memory", "train's pipeline, no step"
COLLECTION = "keras-unet-collection, same padding"
FORWARD, TORCH_FORWARD = "predict's forward pass", "PyTorch, compiled, bfloat16, forward pass"
# name -> (script, what it is told)
TURNS = {
    OURS: ("keras", "auto"),
    "train, float32": ("keras", "float32"),
    STEP: ("keras", "memory"),
    PIPELINE: ("keras", "pipeline"),
    PLAIN: ("keras", "plain"),
    "PyTorch, eager, float32": ("torch", "eager-float32"),
    "PyTorch, eager, bfloat16": ("torch", "eager-bfloat16"),
    "PyTorch, compiled, float32": ("torch", "compiled-float32"),
    "PyTorch, compiled, bfloat16": ("torch", "compiled-bfloat16"),
    COLLECTION: ("keras", "collection"),
    FORWARD: ("keras", "forward"),
    TORCH_FORWARD: ("torch", "compiled-bfloat16-forward"),
}
# Backward takes a convolution for the input's gradient and one for the kernel's.
PASSES = {PIPELINE: 0.0, FORWARD: 1.0, TORCH_FORWARD: 1.0}
PEAK = ("keras", "peak")


def prepare(folder: Path, settings: dict[str, Any]) -> None:
    """The weights and the batch that all start from."""
    tile, batch = settings["tile"], settings["batch"]
    keras.utils.set_random_seed(0)
    network = build_unet(filters=settings["filters"])
    arrays = {str(n): array for n, array in enumerate(network.get_weights())}
    np.savez(folder / "weights.npz", **arrays)
    rng = np.random.default_rng(0)
    shape = (batch, geometry.output_size(tile), geometry.output_size(tile))
    np.savez(
        folder / "batch.npz",
        x=rng.normal(size=(batch, tile, tile, 1)).astype(np.float32),
        y=rng.integers(0, 2, shape).astype(np.int32),
        w=rng.uniform(0.5, 10.0, shape).astype(np.float32),
    )
    (folder / "settings.json").write_text(json.dumps(settings))


def turn(folder: Path, script: str, name: str) -> dict[str, Any]:
    """One contender's turn.

    Raises:
        RuntimeError: it fails; the last line that it said.
    """
    if name == "collection" and "KERAS_UNET_COLLECTION" not in os.environ:
        raise RuntimeError("KERAS_UNET_COLLECTION is not set")
    python = os.environ.get("TORCH_PYTHON", sys.executable) if script == "torch" else sys.executable
    command = [python, str(HERE / f"train_step_{script}.py"), str(folder), name]
    command += [str(os.cpu_count())] if script == "torch" else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise RuntimeError(said[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """All contenders with one network."""
    found: dict[str, list[dict[str, Any]]] = {}
    skipped: dict[str, str] = {}
    peak: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        prepare(folder, settings)
        for number in range(rounds):
            for kind, speed in turn(folder, *PEAK)["gigaflops"].items():
                peak[kind] = max(peak.get(kind, 0.0), speed)
            for name, how in TURNS.items():
                if name in skipped:
                    continue
                try:
                    found.setdefault(name, []).append(turn(folder, *how))
                except (OSError, RuntimeError) as error:
                    skipped[name] = str(error)
                    found.pop(name, None)
            print(f"{settings['filters']} filters: round {number + 1} of {rounds}", flush=True)
    rows = {name: row(name, turns, settings, peak) for name, turns in found.items()}
    require_same(rows)
    return {"contenders": rows, "skipped": skipped, "peak_gigaflops": peak, "settings": settings}


def require_same(rows: dict[str, Any]) -> None:
    """Whether all have one network and one loss: parameters, and the loss before the first step.

    Raises:
        RuntimeError: one is another.
    """
    known = {name: one for name, one in rows.items() if one["loss"] is not None}
    exact = [one["loss"] for name, one in known.items() if name == PLAIN or "float32" in name]
    every = [one["loss"] for one in known.values()]
    for losses, share in ((exact, 1e-4), (every, 0.05)):  # bfloat16 rounds
        if max(losses) - min(losses) > share * max(losses):
            raise RuntimeError(f"not the same network or loss: {losses}")
    if len({one["parameters"] for one in known.values()}) > 1:
        raise RuntimeError("not the same network: other numbers of parameters")


def row(
    name: str, turns: list[dict[str, Any]], settings: dict[str, Any], peak: dict[str, float]
) -> dict[str, Any]:
    """A contender's numbers: the median over turns of the median step."""
    each = [float(np.median(one["seconds"])) for one in turns]
    seconds = float(np.median(each))
    form = Network(settings["filters"], 4, "valid", 1, 2)
    if name == COLLECTION:
        form = form._replace(padding="same")
    side = turns[0].get("side", settings["tile"])
    operations = PASSES.get(name, 3.0) * settings["batch"] * tile_cost(side, form).operations
    speed = operations / seconds / 1e9
    return {
        "seconds": seconds,
        "each_turn": each,
        "images_a_second": settings["batch"] / seconds,
        "gigaflops": speed,
        "share_of_peak": speed / max(peak.values()),
        "peak_mb": max(one["peak_bytes"] for one in turns) / 1e6,
        "loss": turns[0].get("loss"),
        "parameters": turns[0].get("parameters"),
        "note": turns[0].get("note"),
    }


def checks(rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What the project asked of itself: the ratio of each turn's steps, and its median."""

    def ratio(other: str, one: str) -> float:
        pairs = zip(rows[other]["each_turn"], rows[one]["each_turn"], strict=True)
        return float(np.median([a / b for a, b in pairs]))

    torch = [name for name in rows if name.startswith("PyTorch") and name not in PASSES]
    wanted = [(PLAIN, OURS, 1.5)] if PLAIN in rows else []
    if torch:
        wanted.append((min(torch, key=lambda name: rows[name]["seconds"]), OURS, 1.0))
    wanted.append((STEP, OURS, 0.95))  # the pipeline keeps up with the step
    found = []
    for other, one, least in wanted:
        got = ratio(other, one)
        what = f"{other} / {one}, time of a step"
        found.append({"what": what, "found": got, "least": least, "met": got >= least})
    return found


def show(result: dict[str, Any]) -> None:
    settings, rows = result["settings"], result["contenders"]
    peak = ", ".join(f"{kind} {speed:.0f}" for kind, speed in result["peak_gigaflops"].items())
    print(f"{settings['filters']} filters, {settings['tile']}², peak GFLOP/s: {peak}")
    for name in sorted(rows, key=lambda name: rows[name]["seconds"]):
        one = rows[name]
        print(
            f"{name:40s} {one['seconds']:8.4f} s  {one['images_a_second']:7.3f} images/s  "
            f"{one['gigaflops']:6.1f} GFLOP/s ({one['share_of_peak']:.0%})  "
            f"{one['peak_mb']:6.0f} MB  loss {one['loss']}"
        )
    for name, reason in result["skipped"].items():
        print(f"{name:40s} skipped: {reason}")
    for one in result["required"]:
        verdict = "met" if one["met"] else "NOT met"
        print(f"{one['what']}: {one['found']:.2f}, at least {one['least']:.2f}: {verdict}")


def plot(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    rows = {k: v for k, v in result["contenders"].items() if k not in PASSES}
    names = sorted(rows, key=lambda name: rows[name]["images_a_second"])
    colors = ["#0072b2" if name.startswith("train") else "#999999" for name in names]
    bars = axes.barh(names, [rows[name]["images_a_second"] for name in names], color=colors)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    settings = result["settings"]
    axes.set_xlabel(f"images a second, {settings['filters']} filters, {settings['tile']}²")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--tile", type=int, default=572)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a turn")
    parser.add_argument("--warm", type=int, default=3, help="steps before them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of JSON and plot")
    args = parser.parse_args()
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "machine": platform.machine()}
    machine |= {"python": platform.python_version(), "tensorflow": tf.__version__}
    args.output.mkdir(parents=True, exist_ok=True)
    for filters in args.filters:
        settings = {"filters": filters, "tile": args.tile, "batch": args.batch}
        settings |= {"steps": args.steps, "warm": args.warm}
        result = measure(settings, args.rounds)
        result["required"] = checks(result["contenders"])
        show(result)
        path = args.output / f"train_step_{filters}.json"
        document = {"machine": machine, "rounds": args.rounds, **result}
        path.write_text(json.dumps(document, indent=2) + "\n")
        plot(result, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
