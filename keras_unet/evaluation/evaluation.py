"""Evaluation as it is stored, `evaluation.json`, and the settings that it was made with."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from keras_unet import run_layout
from keras_unet.disk import write_text
from keras_unet.errors import DataError
from keras_unet.settings import Frozen, problems


class ScoreSettings(Frozen):
    """Choices of an evaluation; stored with it, since scores of other choices do not compare."""

    tolerance: float = Field(
        2.0, ge=0, allow_inf_nan=False, description="px: how far an outline may be off (boundary)"
    )
    objects: bool | None = Field(
        None, description="score objects; None: where the labels are instances"
    )
    object_class: str | None = Field(
        None, description="the class whose components are objects; None: all but the background"
    )
    min_size: int = Field(0, ge=0, description="pixels: smaller predicted objects are dropped")
    split: Literal["distance"] | None = Field(
        None, description="how touching predicted objects are cut apart; None: not at all"
    )
    seed_distance: int = Field(5, ge=1, description="px, for split: see `to_instances`")
    isbi: bool = Field(False, description="the ISBI 2012 challenge's metrics; class 1 is inside")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap intervals")
    resamples: int = Field(2000, ge=0, description="draws of images; 0: no intervals")
    seed: int = Field(0, ge=0, description="of these draws")


_UNSAFE = re.compile(r'^\.|[\x00-\x1f%/\\:*?"<>|]')
_LONGEST = 200  # bytes; most file systems take 255, with what is written around the name


class Evaluation(Frozen):
    """Scores over all pixels and objects of a set, and each image's own; undefined ones are None.

    total: nested by name, classes by their names. intervals: of the same form, [low, high].
    images: each image's scores. counts: what each image adds to the total (`counts.image_counts`),
    from which `compare` draws. curves: `precision_recall` and `reliability` of each class, lists of
    numbers; with the ISBI metrics `isbi`, along the thresholds. card: the model's.
    """

    format: Literal[2] = 2
    model: str
    data: str
    created: str
    classes: tuple[str, ...]
    settings: ScoreSettings
    total: dict[str, Any]
    intervals: dict[str, Any]
    images: dict[str, dict[str, Any]]
    counts: dict[str, dict[str, Any]]
    curves: dict[str, Any]
    notes: tuple[str, ...]
    card: dict[str, Any]


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Writes `folder`/evaluation.json, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_text(folder / run_layout.EVALUATION, evaluation.model_dump_json(indent=1) + "\n")


def read_evaluation(path: str | Path) -> Evaluation:
    """Reads an evaluation.

    Args:
        path: its folder (of `evaluate`, or a run), or the JSON file.

    Raises:
        DataError: there is none, or it was not written by this version.
    """
    path = Path(path)
    file = path / run_layout.EVALUATION if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{path}: holds no {run_layout.EVALUATION}; expected a run folder, or the output of "
            "keras-unet evaluate"
        )
    try:
        return Evaluation.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{file}: not an evaluation of this version ({problems(error, Evaluation)[0]}); make "
            "it anew with keras-unet evaluate"
        ) from error


def file_name(name: str) -> str:
    """A sample's name as part of a file name; never the same for two names.

    What cannot stand in a name of a file is written as %XX: page `stack:003` is `stack%3A003`. Of
    a long name the end gives way to a hash.
    """
    safe = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)
    if len(safe.encode()) <= _LONGEST:
        return safe
    start = safe.encode()[: _LONGEST - 20].decode(errors="ignore")
    return f"{start}%-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def flat(scores: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Nested scores by their path: {"iou": {"cell": 1}} -> {("iou", "cell"): 1}."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in scores.items():
        here = (*path, name)
        found |= flat(value, here) if isinstance(value, dict) else {here: value}
    return found


def nested(scores: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    found: dict[str, Any] = {}
    for path, value in scores.items():
        place = found
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return found


def plain(value: Any) -> Any:
    """Arrays and numbers as JSON holds them: rounded to 6 places, NaN as None."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(each) for each in value]
    if value is None or np.isnan(value):
        return None
    return int(value) if isinstance(value, (int, np.integer)) else round(float(value), 6)


def counts_as_lists(counts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Counts for JSON, exact: whole numbers as such, others with all their digits."""
    return {
        name: np.where(block == np.rint(block), np.rint(block), block).tolist()
        for name, block in counts.items()
    }


def counts_as_arrays(stored: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `counts_as_lists`."""
    return {name: np.asarray(block, np.float64) for name, block in stored.items()}
