"""`compare`: two evaluations of the same images, score by score and image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_unet.data.report import listed
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import record
from keras_unet.evaluation.compare_report import write_comparison
from keras_unet.evaluation.comparison import Comparison, Difference
from keras_unet.evaluation.counts import Counts, resampled, score, stack
from keras_unet.evaluation.descriptions import describe, has_interval
from keras_unet.evaluation.intervals import interval_notes, intervals
from keras_unet.evaluation.record import Evaluation
from keras_unet.remote_path import local_path


def compare(
    run_a: str | Path,
    run_b: str | Path,
    *,
    output: str | Path | None = None,
    common: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares two evaluations image by image.

    Both scores of a difference are taken over the same images, and so are both in every bootstrap
    draw: what makes an image hard for both cancels out, so that the interval of the difference is
    narrower than the two scores' own.

    Args:
        run_a, run_b: folders with an `evaluation.json`, of `evaluate` or of a run; or that file.
        output: an HTML page to write; the JSON goes beside it. Its pictures are the runs' overlays.
        common: compare on the images that both have; otherwise other images are an error.
        confidence, resamples, seed: of the intervals, see `intervals.intervals`.

    Raises:
        DataError: an evaluation is absent or of another version; images, labels, classes or
            settings differ (the message names what).
        ConfigError: output is a folder or ends in .json; confidence or resamples is out of range.
    """
    if not (0 < confidence < 1 and resamples >= 0):
        raise ConfigError(
            "confidence must be between 0 and 1 and resamples 0 or more, got "
            f"{confidence} and {resamples}"
        )
    if output is not None and (Path(output).is_dir() or Path(output).suffix == ".json"):
        raise ConfigError(f"{output}: expected the HTML page to write, such as compare.html")
    a, b = record.read_evaluation(run_a), record.read_evaluation(run_b)
    names, left_out = _shared_images(a, b, str(run_a), str(run_b), common)
    _require_equal(a, b, names)
    blocks = set.intersection(*(set(e.counts[n]) for e in (a, b) for n in names))
    stacked = [_stacked(e, names, blocks) for e in (a, b)]
    wholes = [
        record.flat(score({k: v.sum(axis=0) for k, v in counts.items()}, a.classes))
        for counts in stacked
    ]
    each = [record.flat(score(counts, a.classes)) for counts in stacked]
    paths = list(wholes[0])
    limits = _paired_intervals(stacked, a.classes, confidence, resamples, seed)
    differences = []
    for path in paths:
        values = [record.plain(whole[path]) for whole in wholes]
        low_high = limits.get(path, (None, None))
        wins, losses, ties = _tally(each[0][path], each[1][path], describe(path).better)
        differences.append(
            Difference(
                score=path,
                a=values[0],
                b=values[1],
                difference=None if None in values else record.plain(values[1] - values[0]),
                interval=None if None in low_high else low_high,
                wins=wins,
                losses=losses,
                ties=ties,
            )
        )
    comparison = Comparison(
        a=str(run_a),
        b=str(run_b),
        model_a=a.model,
        model_b=b.model,
        classes=a.classes,
        images=tuple(names),
        left_out=tuple(left_out),
        differences=tuple(differences),
        images_a={name: a.images[name] for name in names},
        images_b={name: b.images[name] for name in names},
        notes=interval_notes(len(names), confidence, resamples, seed),
    )
    if output is not None:
        write_comparison(comparison, local_path(output))
    return comparison


def _shared_images(
    a: Evaluation, b: Evaluation, name_a: str, name_b: str, common: bool
) -> tuple[list[str], list[str]]:
    only_a = [name for name in a.images if name not in b.images]
    only_b = [name for name in b.images if name not in a.images]
    shared = [name for name in a.images if name in b.images]
    if not shared:
        raise DataError(
            f"{name_a} and {name_b} have no image in common; found {listed(only_a)} and "
            f"{listed(only_b)}"
        )
    if (only_a or only_b) and not common:
        parts = [
            f"only {name} has {listed(names)}"
            for name, names in ((name_a, only_a), (name_b, only_b))
            if names
        ]
        raise DataError(
            f"the images differ: {'; '.join(parts)}; evaluate both on the same images, or compare "
            f"on the {len(shared)} that both have (--common)"
        )
    return shared, only_a + only_b


def _require_equal(a: Evaluation, b: Evaluation, names: Sequence[str]) -> None:
    if a.classes != b.classes:
        raise DataError(f"the classes differ: {listed(a.classes)} and {listed(b.classes)}")
    for setting in ("tolerance", "object_class"):
        values = [getattr(e.settings, setting) for e in (a, b)]
        if values[0] != values[1]:
            raise DataError(
                f"both were scored with another {setting}: {values[0]} and {values[1]}; "
                "evaluate one of them anew"
            )
    changed = []
    for name in names:
        pixels = [np.sum(e.counts[name]["confusion"], axis=1).tolist() for e in (a, b)]
        objects = [np.asarray(e.counts[name].get("objects", [np.nan]))[0] for e in (a, b)]
        if pixels[0] != pixels[1] or (objects[0] != objects[1] and not np.isnan(objects).any()):
            changed.append(name)
    if changed:
        raise DataError(
            f"the labels of {listed(changed)} differ between the two evaluations (other numbers of "
            "pixels of each class, or of objects): evaluate both on the same labels"
        )


def _stacked(evaluation: Evaluation, names: Sequence[str], blocks: set[str]) -> Counts:
    each = [record.counts_as_arrays(evaluation.counts[name]) for name in names]
    return stack([{k: v for k, v in counts.items() if k in blocks} for counts in each])


def _paired_intervals(
    stacked: Sequence[Counts],
    classes: Sequence[str],
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[tuple[str, ...], list[float | None]]:
    paths = [path for path in record.flat(score(stacked[0], classes)) if has_interval(path)]

    def difference(drawn: np.ndarray) -> np.ndarray:
        a, b = (
            record.flat(score({k: resampled(v, drawn) for k, v in counts.items()}, classes))
            for counts in stacked
        )
        return np.stack([b[path] - a[path] for path in paths])

    found = intervals(
        difference,
        len(stacked[0]["confusion"]),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return dict(zip(paths, record.plain(found), strict=True))


def _tally(a: np.ndarray, b: np.ndarray, better: str) -> tuple[int, int, int]:
    """Images on which B is better, worse, neither."""
    if not better:
        return 0, 0, 0
    gain = (b - a) * (1 if better == "higher" else -1)
    wins, losses = int(np.sum(gain > 1e-12)), int(np.sum(gain < -1e-12))
    return wins, losses, gain.size - wins - losses
