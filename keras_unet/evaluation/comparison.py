"""Comparison of two evaluations of the same images, by score and by image, and its page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.table import Table
from rich.text import Text

from keras_unet import run_layout
from keras_unet.console import TERMINAL, say
from keras_unet.disk import write_text
from keras_unet.errors import ConfigError, DataError, listed
from keras_unet.evaluation.counts import Counts, interval_notes, score, score_intervals, stack
from keras_unet.evaluation.evaluation import (
    Evaluation,
    counts_as_arrays,
    describe,
    file_name,
    flat,
    plain,
    read_evaluation,
    show,
    title,
)
from keras_unet.evaluation.html import Html, data_uri, page, tag
from keras_unet.evaluation.report import Cell, legend, longest_side, number_cell, sortable
from keras_unet.pictures import without_legend
from keras_unet.remote_path import local_path
from keras_unet.settings import Frozen

MOST_PAIRS = 150  # with pictures: those with the largest differences


class Difference(Frozen):
    """One score of both: `difference` is B − A, `interval` its paired bootstrap interval.

    wins, losses: images on which B is better, or worse; ties: equal, or undefined in either. For
    a score that is neither better high nor low, all three are 0.
    """

    score: tuple[str, ...]
    a: float | None
    b: float | None
    difference: float | None
    interval: tuple[float, float] | None
    wins: int
    losses: int
    ties: int


class Comparison(Frozen):
    """Two evaluations on the images that both have. left_out: images that only one has."""

    format: int = 1
    a: str
    b: str
    model_a: str
    model_b: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    left_out: tuple[str, ...]
    differences: tuple[Difference, ...]
    images_a: dict[str, dict[str, Any]]
    images_b: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


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
        confidence, resamples, seed: of the intervals, see `counts.intervals`.

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
    a, b = read_evaluation(run_a), read_evaluation(run_b)
    names, left_out = _shared_images(a, b, str(run_a), str(run_b), common)
    _require_equal(a, b, names)
    blocks = set.intersection(*(set(e.counts[n]) for e in (a, b) for n in names))
    stacked = [_stacked(e, names, blocks) for e in (a, b)]
    wholes = [
        flat(score({k: v.sum(axis=0) for k, v in counts.items()}, a.classes)) for counts in stacked
    ]
    each = [flat(score(counts, a.classes)) for counts in stacked]
    paths = list(wholes[0])
    limits = score_intervals(
        stacked, a.classes, confidence=confidence, resamples=resamples, seed=seed
    )
    differences = []
    for path in paths:
        values = [plain(whole[path]) for whole in wholes]
        low_high = plain(limits[path]) if path in limits else (None, None)
        wins, losses, ties = _tally(each[0][path], each[1][path], describe(path).better)
        differences.append(
            Difference(
                score=path,
                a=values[0],
                b=values[1],
                difference=None if None in values else plain(values[1] - values[0]),
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
    each = [counts_as_arrays(evaluation.counts[name]) for name in names]
    return stack([{k: v for k, v in counts.items() if k in blocks} for counts in each])


def _tally(a: np.ndarray, b: np.ndarray, better: str) -> tuple[int, int, int]:
    """Images on which B is better, worse, neither."""
    if not better:
        return 0, 0, 0
    gain = (b - a) * (1 if better == "higher" else -1)
    wins, losses = int(np.sum(gain > 1e-12)), int(np.sum(gain < -1e-12))
    return wins, losses, gain.size - wins - losses


def show_comparison(comparison: Comparison) -> None:
    """Prints the scores that both have, and the difference of B from A."""
    say(f"A  {comparison.a}\nB  {comparison.b}")
    count = len(comparison.images)
    # narrow, so that 80 columns hold it: the names of scores may wrap, numbers may not
    title_ = f"{count} image{'s' * (count != 1)}"
    table = Table(title=title_, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("score", min_width=11)
    for name in ("A", "B", "B − A", "interval", "better\n/ worse"):
        table.add_column(name, justify="right", no_wrap=True)
    shown: list[tuple[str, ...]] = [
        ("mean_iou",),
        ("mean_dice",),
        ("pixel_error",),
        ("calibration_error",),
    ]
    shown += [(key, name) for key in ("iou", "boundary_f1") for name in comparison.classes[1:]]
    shown += [("objects", name) for name in ("f1", "seg", "map_dsb2018", "pq")]
    shown += [("isbi", name) for name in ("v_rand", "v_info", "warping_error")]
    for one in comparison.differences:
        if one.difference is None or one.score not in shown:
            continue
        digits = describe(one.score).digits
        low_high = one.interval or ()
        clear = one.interval is not None and (one.interval[0] > 0 or one.interval[1] < 0)
        table.add_row(
            Text(title(one.score)),
            show(one.score, one.a),
            show(one.score, one.b),
            f"{one.difference:+.{digits}f}",
            " … ".join(f"{value:+.{digits}f}" for value in low_high),
            f"{one.wins} / {one.losses}",
            style="bold" if clear else "",
        )
    TERMINAL.print(table)
    if comparison.left_out:
        say(f"left out, since only one has them: {', '.join(comparison.left_out)}")
    for note in comparison.notes:
        say(note, "dim")


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Writes the page, and the comparison as JSON beside it (`NAME.json`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_suffix(".json"), comparison.model_dump_json(indent=1) + "\n")
    return write_text(path, make_comparison(comparison))


def make_comparison(comparison: Comparison) -> str:
    """The page as text; names are escaped wherever they stand."""
    count = len(comparison.images)
    return page(
        f"{comparison.model_a} and {comparison.model_b}",
        tag("h1", f"{comparison.model_a} and {comparison.model_b}"),
        tag(
            "p",
            f"A is {comparison.a}, B is {comparison.b}: {count} image{'s' * (count != 1)}. "
            "A difference is B − A.",
            class_="soft",
        ),
        tag("p", f"Left out, since only one has them: {', '.join(comparison.left_out)}.")
        if comparison.left_out
        else None,
        _cards(comparison),
        [tag("p", note, class_="note") for note in comparison.notes],
        tag("h2", "Differences"),
        tag(
            "p",
            "An interval that does not hold 0 (in bold) is a difference that other images of this "
            "kind would most likely show too. Bars: each on its own scale, the line is 0. With "
            "this many scores, one in twenty such intervals misses its mark by chance.",
            class_="soft",
        ),
        _table(comparison),
        _images(comparison),
    )


def _cards(comparison: Comparison) -> Html:
    wanted = [("mean_iou",), ("pixel_error",), ("boundary_f1", comparison.classes[-1])]
    wanted += [("objects", "f1"), ("isbi", "v_rand")]
    found = {one.score: one for one in comparison.differences}
    cards = [
        tag(
            "div",
            tag("dt", title(path)),
            tag("dd", _signed(one, one.difference), class_=f"value {_verdict(one)}"),
            tag("dd", _range(one) or "no interval", class_="range"),
            tag("dd", f"{show(path, one.a)} → {show(path, one.b)}", class_="range"),
        )
        for path in wanted
        if (one := found.get(path))
    ]
    return tag("dl", cards, class_="cards")


def _table(comparison: Comparison) -> Html:
    names = ("score", "A", "B", "difference", "interval", "", "B better on", "worse on", "equal")
    head = tag("thead", tag("tr", [tag("th", name, scope="col") for name in names]))
    rows = []
    for one in comparison.differences:
        if (one.a or 0) == (one.b or 0) == 0 and not describe(one.score).better:
            continue  # nothing to show
        if one.score == ("objects", "rq"):  # F1 by another name
            continue
        counted = bool(describe(one.score).better)
        rows.append(
            tag(
                "tr",
                tag("th", title(one.score), scope="row", title=describe(one.score).meaning),
                tag("td", show(one.score, one.a)),
                tag("td", show(one.score, one.b)),
                tag("td", _signed(one, one.difference), class_=_verdict(one)),
                tag("td", _range(one), class_="strong" if _clear(one) else None),
                tag("td", _bar(one)),
                [
                    tag("td", number if counted else "")
                    for number in (one.wins, one.losses, one.ties)
                ],
            )
        )
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")


def _images(comparison: Comparison) -> list[Html]:
    paths: list[tuple[str, ...]] = [("mean_iou",), ("pixel_error",)]
    paths += [("iou", name) for name in comparison.classes[1:]]
    paths += [("boundary_f1", name) for name in comparison.classes[1:]]
    paths += [("objects", "f1"), ("isbi", "v_rand")]
    both = {
        name: (flat(comparison.images_a[name]), flat(comparison.images_b[name]))
        for name in comparison.images
    }
    paths = [path for path in paths if all(path in each for pair in both.values() for each in pair)]
    change = {
        name: [None if None in (a[p], b[p]) else b[p] - a[p] for p in paths]
        for name, (a, b) in both.items()
    }
    ordered = sorted(both, key=lambda name: (change[name][0] is None, change[name][0] or 0.0))
    columns = [("image", "ascending"), ("A, mean IoU", "ascending"), ("B, mean IoU", "ascending")]
    columns += [
        (f"Δ {title(p)}", "descending" if describe(p).better == "lower" else "ascending")
        for p in paths
    ]
    largest = sorted(both, key=lambda name: -abs(change[name][0] or 0.0))[:MOST_PAIRS]
    side = longest_side(2 * len(largest))
    figures, rows = [], {}
    for name in ordered:
        figure = _pair(comparison, name, side) if name in largest else None
        figures.append(figure)
        a, b = both[name]
        link = tag("a", name, href=f"#{_anchor(comparison, name)}") if figure else name
        rows[name] = [
            Cell(link, name),
            number_cell(("mean_iou",), a[("mean_iou",)]),
            number_cell(("mean_iou",), b[("mean_iou",)]),
            *(
                Cell("–", "") if value is None else Cell(f"{value:+.4f}", value)
                for value in change[name]
            ),
        ]
    shown = sum(figure is not None for figure in figures)
    hint = "" if shown else " No overlays were found beside the evaluations."
    return [
        tag("h2", "Images, those first on which B lost most"),
        tag("p", f"Pictures: A left, B right. A click on a title sorts.{hint}", class_="soft"),
        sortable(columns, rows, caption="Differences of each image", gallery="gallery"),
        legend(len(comparison.classes)),
        tag("div", figures, class_="gallery pairs", id="gallery"),
    ]


def _pair(comparison: Comparison, name: str, side: int) -> Html | None:
    pictures = []
    for label, run in (("A", comparison.a), ("B", comparison.b)):
        folder = Path(run) if Path(run).is_dir() else Path(run).parent
        file = folder / run_layout.OVERLAYS / f"{file_name(name)}.png"
        if not file.is_file():
            return None
        try:
            pictures.append(_small(file, f"{label}: {name}", side))
        except (OSError, Image.DecompressionBombError):  # damaged, or larger than Pillow opens
            return None
    a, b = (images[name]["mean_iou"] for images in (comparison.images_a, comparison.images_b))
    return tag(
        "figure",
        tag(
            "button",
            tag("span", pictures, class_="pair"),
            type="button",
            class_="picture",
            aria_pressed="false",
        ),
        tag(
            "figcaption",
            tag("b", name),
            f" · mean IoU {show(('mean_iou',), a)} → {show(('mean_iou',), b)}",
        ),
        id=_anchor(comparison, name),
        data_image=name,
    )


def _small(file: Path, text: str, longest: int) -> Html:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(file) as picture:
            drawn = without_legend(picture).convert("RGB")
            small = drawn.reduce(max(1, -(-max(drawn.size) // longest)))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85, subsampling=0)
    source = data_uri("image/jpeg", buffer.getvalue())
    return tag("img", src=source, alt=text, width=small.width, height=small.height)


def _anchor(comparison: Comparison, name: str) -> str:
    return f"image-{comparison.images.index(name)}"


def _signed(one: Difference, value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.{describe(one.score).digits}f}"


def _range(one: Difference) -> str:
    return "" if one.interval is None else " … ".join(_signed(one, v) for v in one.interval)


def _clear(one: Difference) -> bool:
    return one.interval is not None and (one.interval[0] > 0 or one.interval[1] < 0)


def _verdict(one: Difference) -> str | None:
    """The class of the style: only a clear difference is coloured."""
    better = describe(one.score).better
    if not better or not _clear(one) or one.difference is None:
        return None
    return "better strong" if (one.difference > 0) == (better == "higher") else "worse strong"


def _bar(one: Difference) -> Html | None:
    if one.interval is None or one.difference is None:
        return None
    values: Sequence[float] = (*one.interval, one.difference)
    reach = max(map(abs, values)) or 1.0
    low, high, middle = (round(60 + 54 * value / reach, 1) for value in values)
    drawn = (
        tag("line", x1=60, x2=60, y1=1, y2=15, class_="axis"),
        tag("line", x1=low, x2=high, y1=8, y2=8, class_="curve c0"),
        tag("circle", cx=middle, cy=8, r=4, class_="dot f0"),
    )
    text = f"{_signed(one, one.difference)}, {_range(one)}"
    return tag("svg", drawn, viewBox="0 0 120 16", class_="forest", role="img", aria_label=text)
