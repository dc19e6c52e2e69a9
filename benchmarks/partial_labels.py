"""Few strokes or one box an image against full labels: `python benchmarks/partial_labels.py DATA`.

DATA holds `train/`, `val/` and more folders with `images/` and instance `labels/`, as
`dsb2018_fluo`. Strokes are drawn at random, 3 px wide: one in every second nucleus, and lines
across the background. A box is a square of full labels at a random place. Everything else is
ignored. Each variant trains the same network on the same number of tiles; scored is the foreground,
and objects after `--split neck --min-size 20`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import keras_unet
from keras_unet.data import LabelRule, load_samples
from keras_unet.data.partial_labels import labelled_places

RESULTS = Path(__file__).parent / "results"
IGNORED = 255
NETWORK = {"filters": 8, "padding": "same"}
LOSS = {"w0": 0.0, "class_weights": "none", "dice": 1.0}
# what is left out of the treatment of partial labels
WITHOUT = {
    "places": ("keras_unet.data.pipeline.places_of_tiles", lambda labelled, output: None),
    "nearest": ("keras_unet.data.pipeline.nearest_class", lambda classes: np.maximum(classes, 0)),
}


def strokes(objects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Classes 0 and 1 on strokes, `IGNORED` elsewhere: uint8 [H, W]."""
    drawn = np.full(objects.shape, IGNORED, np.uint8)
    for number in np.unique(objects[objects > 0]):
        if rng.random() < 0.5:
            inside = ndimage.binary_erosion(objects == number, iterations=2)
            inside = inside if inside.any() else objects == number
            places = np.argwhere(inside)
            ends = places[rng.integers(len(places), size=2)]
            drawn[line(objects.shape, ends) & (objects == number)] = 1
    background = ~ndimage.binary_dilation(objects > 0)
    for _ in range(max(3, objects.size // 6000)):
        ends = rng.integers(objects.shape, size=(4, 2))
        across = line(objects.shape, ends) & background
        pieces, count = ndimage.label(across, np.ones((3, 3)))
        if count:  # one piece of it, as a hand stops before a nucleus
            drawn[pieces == 1 + rng.integers(count)] = 0
    return drawn


def line(shape: tuple[int, ...], places: np.ndarray, width: int = 3) -> np.ndarray:
    """bool [H, W]: a line through places (y, x)."""
    canvas = Image.new("1", shape[::-1])
    path = [(int(x), int(y)) for y, x in places]
    ImageDraw.Draw(canvas).line(path, fill=1, width=width)
    return np.asarray(canvas)


def box(objects: np.ndarray, rng: np.random.Generator, share: float = 0.06) -> np.ndarray:
    """Full labels in one square that is `share` of the image: uint8 [H, W]."""
    drawn = np.full(objects.shape, IGNORED, np.uint8)
    side = round((share * objects.size) ** 0.5)
    top, left = (int(rng.integers(n - side)) for n in objects.shape)
    inside = (slice(top, top + side), slice(left, left + side))
    drawn[inside] = objects[inside] > 0
    return drawn


def write(data: Path, folder: Path, kind: str) -> float:
    """Writes a set with labels of this kind; the share of pixels that are labelled."""
    rng = np.random.default_rng(0)
    (folder / "labels").mkdir(parents=True)
    (folder / "images").symlink_to((data / "images").resolve())
    labelled = pixels = 0
    for number, sample in enumerate(load_samples(data, rule=LabelRule(kind="instances"))[0]):
        assert sample.instances is not None
        draw = {"full": lambda objects, _: (objects > 0).astype(np.uint8), "strokes": strokes}
        if kind.isdigit():  # strokes in so many images
            blank = np.full(sample.instances.shape, IGNORED, np.uint8)
            classes = strokes(sample.instances, rng) if number < int(kind) else blank
        else:
            classes = draw.get(kind, box)(sample.instances, rng)
        Image.fromarray(classes).save(folder / "labels" / f"{sample.name}.png")
        labelled += int((classes != IGNORED).sum())
        pixels += classes.size
    return labelled / pixels


@contextmanager
def left_out(names: tuple[str, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch(*WITHOUT[name]))
        yield


def trained(
    folder: Path, data: Path, sets: list[str], steps: int, tile: int, seed: int
) -> dict[str, float]:
    """Scores of a network trained on the labels in `folder`."""
    config = {
        "data": {"images": folder / "train", "validation": folder / "val", "label_ignore": IGNORED},
        "model": NETWORK,
        "loss": LOSS,
        "tile": tile,
        "batch_size": 8,
        "steps": steps,
        "steps_per_epoch": steps,
        "ema_decay": 0.99,
        "seed": seed,
        "output": folder / "runs",
        "name": str(perf_counter()),
    }
    start = perf_counter()
    run = keras_unet.train(config, verbose=0)
    found = {"minutes": round((perf_counter() - start) / 60, 2)}
    for name in sets:
        scores = keras_unet.evaluate(
            run.model,
            data / name,
            rule=LabelRule(kind="instances"),
            settings={"split": "neck", "min_size": 20, "resamples": 0},
        ).total
        found[f"{name} IoU"] = round(scores["iou"]["foreground"], 4)
        found[f"{name} F1"] = round(scores["objects"]["f1"], 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="LABELS[-PART]",
        default=["full", "strokes", "strokes-nearest", "box", "box-places"],
        help="full, strokes, box, or a number of images with strokes; and what to leave out: "
        "places or nearest",
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "partial_labels.json")
    args = parser.parse_args()
    sets = [p.name for p in sorted(args.data.iterdir()) if (p / "labels").is_dir()]
    sets.remove("train")
    found: dict[str, dict] = {}
    for variant in args.variants:
        kind, *without = variant.split("-")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            share = write(args.data / "train", folder / "train", kind)
            write(args.data / "val", folder / "val", "full")
            with left_out(tuple(without)):
                runs = [
                    trained(folder, args.data, sets, args.steps, args.tile, seed)
                    for seed in range(args.seeds)
                ]
            rule = LabelRule(num_classes=2, ignore=IGNORED)
            labels = [s.classes for s in load_samples(folder / "train", rule=rule)[0]]
        places = labelled_places([c >= 0 for c in labels if c is not None], args.tile)
        area = float(places.areas.sum() / places.whole)
        found[variant] = {"labelled": round(share, 4), "area": round(area, 3), "runs": runs}
        print(variant, json.dumps(found[variant]), flush=True)
    args.output.write_text(json.dumps({**vars(args), "found": found}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
