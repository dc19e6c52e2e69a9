"""Evaluation as it is stored, `evaluation.json`; its settings; its scores in words and tables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError
from rich.table import Table
from rich.text import Text

from keras_unet import run_layout
from keras_unet.console import TERMINAL, say
from keras_unet.disk import write_text
from keras_unet.errors import DataError
from keras_unet.models.decoding import DECODING, require_used
from keras_unet.models.model_card import ModelCard
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
    threshold: float | None = Field(
        None, ge=0, le=1, description="of predicted objects' foreground; None: as the model says"
    )
    connectivity: Literal[4, 8] | None = Field(
        None, description="of predicted objects; None: as the model"
    )
    fill_holes: bool | None = Field(None, description="of predicted objects; None: as the model")
    min_size: int | None = Field(
        None, ge=0, description="pixels: smaller predicted objects are dropped; None: as the model"
    )
    split: Literal["neck", "distance", "none"] | None = Field(
        None, description="how touching predicted objects are cut apart; None: as the model"
    )
    neck: float | None = Field(None, gt=0, le=1, description="for split; None: as the model")
    seed_distance: int | None = Field(None, ge=1, description="px, for split; None: as the model")
    isbi: bool = Field(False, description="the ISBI 2012 challenge's metrics; class 1 is inside")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the bootstrap intervals")
    resamples: int = Field(2000, ge=0, description="draws of images; 0: no intervals")
    seed: int = Field(0, ge=0, description="of these draws")

    @property
    def finding(self) -> dict[str, Any]:
        """What is stated of how predicted objects are found."""
        return self.model_dump(include=_FINDING, exclude_none=True)

    def completed(self, card: ModelCard) -> ScoreSettings:
        """With the model's own way to find objects, where it has one and nothing else is stated.

        Raises:
            ConfigError: something is stated that would change nothing.
        """
        own = {} if card.decoding is None else card.decoding.model_dump(include=_FINDING)
        if card.decoding is not None:
            require_used(self.finding, card.decoding.changed(self.finding))
        return self.model_copy(update={**own, **self.finding})


_FINDING = set(DECODING)

SHOWN = 3  # of the advice, on the console; a report has all of it
_UNSAFE = re.compile(r'^\.|[\x00-\x1f%/\\:*?"<>|]')
_LONGEST = 200  # bytes; most file systems take 255, with what is written around the name


class Evaluation(Frozen):
    """Scores over all pixels and objects of a set, and each image's own; undefined ones are None.

    total: nested by name, classes by their names. intervals: of the same form, [low, high].
    images: each image's scores. counts: what each image adds to the total (`counts.image_counts`),
    from which `compare` draws. curves: `precision_recall` and `reliability` of each class, lists of
    numbers; with the ISBI metrics `isbi`, along the thresholds. notes: on images, labels and
    intervals. advice: what to look at next, the most telling first; see `advise`. card: the
    model's.
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
    advice: tuple[str, ...] = ()
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


ScorePath = tuple[str, ...]


class Description(NamedTuple):
    """A score in words. better: "higher", "lower", or "" for a plain count or a matter of taste."""

    title: str
    better: Literal["higher", "lower", ""]
    meaning: str
    digits: int = 4
    highest: float | None = 1.0  # possible; None: there is no end. The lowest is 0 for all


HIGHER: Literal["higher"] = "higher"
LOWER: Literal["lower"] = "lower"

# by path; "*" stands for the name of a class
_DESCRIPTIONS: dict[ScorePath, Description] = {
    ("mean_iou",): Description(
        "mean IoU", HIGHER, "mean of the classes' IoUs; classes in neither are left out"
    ),
    ("mean_dice",): Description("mean Dice", HIGHER, "mean of the classes' Dice scores"),
    ("pixel_error",): Description("pixel error", LOWER, "share of wrong pixels"),
    ("pixel_accuracy",): Description("pixel accuracy", HIGHER, "share of right pixels"),
    ("iou", "*"): Description("IoU", HIGHER, "pixels in both / pixels in either"),
    ("dice", "*"): Description("Dice", HIGHER, "2 · pixels in both / sum of both areas"),
    ("precision", "*"): Description("precision", HIGHER, "predicted pixels that are right"),
    ("recall", "*"): Description("recall", HIGHER, "true pixels that were found"),
    ("boundary_f1", "*"): Description(
        "boundary F1", HIGHER, "outline pixels within the tolerance of the other outline"
    ),
    ("hausdorff95", "*"): Description(
        "HD95, px",
        LOWER,
        "95 % of outline pixels are at most so far off; mean over images",
        2,
        None,
    ),
    ("hausdorff95_undefined", "*"): Description(
        "HD95 undefined",
        "",
        "images where only truth or only the prediction has the class",
        0,
        None,
    ),
    ("average_precision", "*"): Description(
        "AP", HIGHER, "area under the precision-recall curve of pixels"
    ),
    ("wrong_near_outline",): Description(
        "wrong near outlines", "", "share of the wrong pixels that lie within the tolerance of one"
    ),
    ("calibration_error",): Description(
        "calibration error", LOWER, "mean gap of confidence and accuracy (ECE, 15 groups)"
    ),
    ("brier",): Description(
        "Brier score", LOWER, "squared error of the probabilities, 0 to 2", highest=2.0
    ),
    ("objects", "f1"): Description("object F1", HIGHER, "at IoU 0.5"),
    ("objects", "precision"): Description(
        "object precision", HIGHER, "predicted objects that match a true one at IoU 0.5"
    ),
    ("objects", "recall"): Description("object recall", HIGHER, "true objects found at IoU 0.5"),
    ("objects", "seg"): Description(
        "SEG", HIGHER, "Cell Tracking Challenge: mean Jaccard index of the true objects"
    ),
    ("objects", "pq"): Description("panoptic quality", HIGHER, "PQ = SQ · RQ"),
    ("objects", "sq"): Description("SQ", HIGHER, "mean IoU of the matched objects"),
    ("objects", "rq"): Description("RQ", HIGHER, "the same as object F1"),
    ("objects", "map_dsb2018"): Description(
        "mAP, DSB 2018", HIGHER, "TP / (TP + FP + FN), mean over IoU 0.5 … 0.95 and over images"
    ),
    ("objects", "map_pooled"): Description(
        "mAP, pooled", HIGHER, "the same of the counts of all images"
    ),
    ("objects", "average_precision", "*"): Description(
        "AP at IoU", HIGHER, "TP / (TP + FP + FN) at this IoU, pooled"
    ),
    ("objects", "true_positives"): Description("found", "", "objects matched at IoU 0.5", 0, None),
    ("objects", "false_positives"): Description(
        "false", "", "predicted objects without match", 0, None
    ),
    ("objects", "false_negatives"): Description(
        "missed", "", "true objects without match", 0, None
    ),
    ("objects", "false_area"): Description(
        "area of false ones, px", "", "their median; about, for more than 1", 0, None
    ),
    ("objects", "missed_area"): Description(
        "area of missed ones, px", "", "their median; about, for more than 1", 0, None
    ),
    ("objects", "merged"): Description(
        "merged", "", "predicted objects that hold most of two or more true ones", 0, None
    ),
    ("objects", "split"): Description(
        "split", "", "true objects that hold most of two or more predicted ones", 0, None
    ),
    ("isbi", "v_rand"): Description("V_Rand", HIGHER, "after thinning, best threshold"),
    ("isbi", "v_info"): Description("V_Info", HIGHER, "after thinning, best threshold"),
    ("isbi", "pixel_error"): Description("pixel error, 2012", LOWER, "1 − largest F-score"),
    ("isbi", "rand_error"): Description("Rand error, 2012", LOWER, "1 − largest F-score of pairs"),
    ("isbi", "warping_error"): Description(
        "warping error, 2012", LOWER, "pixels that split or merge objects, of all pixels", 6
    ),
}


def describe(path: ScorePath) -> Description:
    """The description of a score by its path in `Evaluation.total`."""
    for pattern in (path, (*path[:-1], "*")):
        if pattern in _DESCRIPTIONS:
            return _DESCRIPTIONS[pattern]
    return Description(" ".join(path), "", "", highest=None)


def title(path: ScorePath) -> str:
    """The title with the class behind it: "IoU, cell"."""
    named = describe(path).title
    return named if path in _DESCRIPTIONS else f"{named}, {path[-1]}"


def has_interval(path: ScorePath) -> bool:
    """Plain counts have none."""
    return describe(path).digits > 0


def show(path: ScorePath, value: float | None) -> str:
    """The value as people read it."""
    return "undefined" if value is None else f"{value:.{describe(path).digits}f}"


def show_range(path: ScorePath, limits: Sequence[float | None] | None) -> str:
    """An interval as people read it, "0.812 – 0.931", or nothing."""
    if not limits or limits[0] is None or limits[1] is None:
        return ""
    digits = max(describe(path).digits - 1, 2)
    return f"{limits[0]:.{digits}f} – {limits[1]:.{digits}f}"


def show_evaluation(evaluation: Evaluation) -> None:
    """Prints the scores over all pixels, one line a class, and those of objects."""
    total, intervals = evaluation.total, flat(evaluation.intervals)
    count = len(evaluation.images)
    table = Table(title=f"{count} image{'s' * (count != 1)}", title_justify="left")
    table.add_column("class")
    for name in ("IoU", "Dice", "boundary F1", "HD95, px"):
        table.add_column(name, justify="right")
    for name in total["iou"]:
        paths = [(key, name) for key in ("iou", "dice", "boundary_f1", "hausdorff95")]
        table.add_row(Text(name), *(show(path, total[path[0]][name]) for path in paths))
    means = [show((name,), total[name]) for name in ("mean_iou", "mean_dice")]
    table.add_row("mean", *means, "", "", style="bold")
    TERMINAL.print(table)

    def line(*paths: tuple[str, ...]) -> None:
        held = flat(total)
        parts = []
        for path in paths:
            span = show_range(path, intervals.get(path))
            parts.append(f"{title(path)} {show(path, held[path])}" + (f" ({span})" if span else ""))
        say(", ".join(parts))

    line(("pixel_error",), ("calibration_error",))
    if "objects" in total:
        line(*(("objects", name) for name in ("f1", "seg", "map_dsb2018", "pq")))
        found = total["objects"]
        say(f"{found['merged']} merged, {found['split']} split")
    if "isbi" in total:
        line(*(("isbi", name) for name in ("v_rand", "v_info")))
        line(*(("isbi", name) for name in ("pixel_error", "rand_error", "warping_error")))
    for note in evaluation.notes:
        say(note, "dim")
    if evaluation.advice:
        say("What to look at next:", "bold")
    for text in evaluation.advice[:SHOWN]:
        say(f"• {text}")


def show_folds(report: dict[str, Any]) -> None:
    """Prints the main scores: mean and standard deviation over folds, and pooled."""
    mean, spread, pooled = (flat(report[name]) for name in ("mean", "std", "pooled"))
    table = Table(title=f"{report['folds']} folds of {report['images']} images")
    table.title_justify = "left"
    table.add_column("score")
    for name in ("mean", "standard deviation", "pooled"):
        table.add_column(name, justify="right")
    for path in (("mean_dice",), ("mean_iou",), ("pixel_error",), ("objects", "f1")):
        if path in mean:
            given = (show(path, part.get(path)) for part in (mean, spread, pooled))
            table.add_row(Text(title(path)), *given)
    TERMINAL.print(table)
