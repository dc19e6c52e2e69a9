"""Run folder: the names of what it holds.

`keras-unet train` makes RUN with all of it; a cross-validation makes RUN/fold_0, RUN/fold_1, …,
each such a folder; `keras-unet evaluate` writes what is of an evaluation; `keras-unet diffusion
train` has a model and samples of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

# what the run was begun with
CONFIG = "config.toml"
RECORD = "run.json"  # versions, device and data of the run, and whether it is finished
PLAN = "plan.toml"  # the settings that were planned, with reasons
DATA_REPORT = "data.json"

# what it left
BEST = "best.keras"  # the model that people use
LAST = "last.keras"
HISTORY = "history.csv"  # a line an epoch
CURVES = "curves.png"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"  # while it is not finished

# an evaluation
EVALUATION = "evaluation.json"
REPORT = "report.html"
OVERLAYS = "overlays"

# a cross-validation
SPLITS = "splits.json"
CROSS_VALIDATION = "cross_validation.json"

# a diffusion run
DIFFUSION_MODEL = "model.keras"
SAMPLES = "samples"

# beside the runs
WEIGHT_MAPS = Path(".cache", "weight_maps")


def fold(number: int) -> str:
    """The folder of a fold in that of its cross-validation."""
    return f"fold_{number}"


def folds(run: Path) -> list[Path]:
    """The folders of the folds that are there, in order."""
    found = [(int(m[1]), f) for f in run.glob("fold_*") if (m := _FOLD.fullmatch(f.name))]
    return [folder for _, folder in sorted(found)]


_FOLD = re.compile(r"fold_(\d+)")
