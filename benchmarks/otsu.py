"""Otsu's threshold against the labels' foreground: `python benchmarks/otsu.py DATA [EVALUATION …]`.

DATA is the folder that has `dsb2018_fluo` and `dsb2018_rgb`. The IoU comes in both kinds: pooled
over all pixels of a set, as `keras-unet evaluate` gives it, and as the mean of the images' own. An
EVALUATION, an output of `evaluate`, gets both too, so that like is set beside like.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from skimage.color import rgb2gray
from skimage.filters import threshold_otsu

from keras_unet.data.images import read_image, read_labels
from keras_unet.data.pairs import find_pairs
from keras_unet.evaluation.evaluation import read_evaluation

RESULT = Path(__file__).parent / "results" / "otsu.json"
SETS = {"dsb2018_fluo/val": False, "dsb2018_fluo/val520": False, "dsb2018_rgb/val": True}  # dark?


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("evaluations", type=Path, nargs="*")
    args = parser.parse_args()
    found = {name: otsu(args.data / name, dark) for name, dark in SETS.items()}
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for folder in args.evaluations:
        evaluation = read_evaluation(folder)
        name = evaluation.classes[-1]
        each = [scores["iou"][name] for scores in evaluation.images.values()]
        pooled = evaluation.total["iou"][name]
        found[str(folder)] = {"pooled": pooled, "mean": float(np.nanmean(np.array(each, float)))}
    for name, one in found.items():
        print(f"{name}: pooled {one['pooled']:.3f}, mean over images {one['mean']:.3f}")


def otsu(folder: Path, dark: bool) -> dict[str, float]:
    """IoU of what is brighter than Otsu's threshold, or not brighter."""
    counts = []
    for pair in find_pairs(folder):
        image, labels = read_image(pair.image), read_labels(pair.label)
        grey = rgb2gray(image) if image.shape[-1] == 3 else image[..., 0]
        above = grey > threshold_otsu(grey)
        seen, truth = above != dark, labels > 0
        counts.append([(seen & truth).sum(), (seen | truth).sum()])
    both, either = np.array(counts).T
    pooled, mean = both.sum() / either.sum(), np.mean(both / either)
    return {"pooled": round(float(pooled), 4), "mean": round(float(mean), 4)}


if __name__ == "__main__":
    main()
