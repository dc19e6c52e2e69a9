"""Report of one evaluation: `report.html`, in one file, without network; scores, charts, images."""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image
from skimage.measure import block_reduce

from keras_unet.disk import write_text
from keras_unet.evaluation.evaluation import (
    Evaluation,
    ScorePath,
    describe,
    file_name,
    flat,
    show,
    show_range,
    title,
)
from keras_unet.evaluation.html import COLORS, Html, Series, data_uri, join, line_chart, page, tag
from keras_unet.pictures import MARKS, Entry, Mark, error_entries, error_marks, to_rgb


class Thumbnail(NamedTuple):
    """A picture in two layers of one size: `image` as JPEG, `errors` as PNG, both as bytes."""

    width: int
    height: int
    image: bytes
    errors: bytes


Pictures = Mapping[str, Thumbnail]


def write_report(evaluation: Evaluation, pictures: Pictures, path: Path) -> Path:
    """Writes the page.

    Args:
        evaluation: what is shown.
        pictures: of some or all of its images, by name; the full-size ones are linked to as
            `overlays/NAME.png` beside the page.
        path: of the HTML file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, make_report(evaluation, pictures))


def make_report(evaluation: Evaluation, pictures: Pictures) -> str:
    """The page as text. Names of files, classes and models are escaped wherever they stand."""
    count = len(evaluation.images)
    return page(
        f"Evaluation of {evaluation.model}",
        tag("h1", f"Evaluation of {evaluation.model}"),
        tag("p", f"{count} image{'s' * (count != 1)}", _source(evaluation), class_="soft"),
        _cards(evaluation),
        [tag("p", note, class_="note") for note in evaluation.notes],
        [
            tag("h2", "What to look at next"),
            tag("ul", [tag("li", text) for text in evaluation.advice], class_="advice"),
        ]
        if evaluation.advice
        else None,
        tag("h2", "Scores by class"),
        by_class(evaluation),
        _further(evaluation),
        challenge_chart(evaluation),
        tag("h2", "Probabilities"),
        probability_charts(evaluation),
        tag("h2", "Model"),
        _model(evaluation),
        images_section(evaluation, pictures),
    )


def _source(evaluation: Evaluation) -> str:
    where = f" of {evaluation.data}" if evaluation.data else ""
    return f"{where} · {evaluation.created[:10]}"


def _cards(evaluation: Evaluation) -> Html:
    foreground = evaluation.classes[-1]
    wanted: list[tuple[str, ...]] = [("mean_iou",), ("mean_dice",), ("pixel_error",)]
    wanted += [("boundary_f1", foreground), ("objects", "f1"), ("objects", "seg")]
    wanted += [("isbi", "v_rand"), ("isbi", "v_info"), ("calibration_error",)]
    scores, intervals = flat(evaluation.total), flat(evaluation.intervals)
    cards = [
        tag(
            "div",
            tag("dt", title(path)),
            tag("dd", show(path, scores[path]), class_="value"),
            tag("dd", show_range(path, intervals.get(path)) or "no interval", class_="range"),
            title=describe(path).meaning,
        )
        for path in wanted
        if path in scores
    ]
    return tag("dl", cards, class_="cards")


def _further(evaluation: Evaluation) -> list[Html]:
    """All pixels; beside them objects and the challenge's scores; the confusion matrix."""
    pixels = [("pixel_error",), ("wrong_near_outline",), ("calibration_error",), ("brier",)]
    left = [tag("h2", "All pixels"), score_list(evaluation, pixels)]
    matrix = [
        tag("h2", "Confusion matrix"),
        tag("p", "Share of each true class that was taken for which; pixels below.", class_="soft"),
        confusion_table(evaluation),
    ]
    right = []
    for block, heading in (("isbi", "ISBI 2012 challenge"), ("objects", "Objects")):
        found = evaluation.total.get(block, {})
        # RQ is F1 by another name
        paths = [(block, k) for k, v in found.items() if not isinstance(v, dict) and k != "rq"]
        if paths:
            right += [tag("h2", heading), score_list(evaluation, paths)]
    wide = len(evaluation.classes) > 3  # its matrix needs the whole width
    columns = (left if wide else left + matrix, right)
    beside = tag("div", [tag("section", part) for part in columns if part], class_="columns")
    return [beside, *matrix] if wide else [beside]


def _model(evaluation: Evaluation) -> list[Html]:
    card = evaluation.card
    settings = card.get("config", {}).get("model", {})
    lines = {
        "name": evaluation.model,
        "classes": ", ".join(evaluation.classes),
        "made": card.get("created", ""),
        "network": ", ".join(f"{key} {value}" for key, value in settings.items()),
        "normalisation": str(card.get("normalization", {}).get("method", "")),
        "labels": str(card.get("labels", {}).get("kind", "")),
        "trained on": _trained_on(card),
        "versions": ", ".join(f"{k} {v}" for k, v in card.get("versions", {}).items()),
        "scored with": ", ".join(
            f"{key} {value}" for key, value in evaluation.settings.model_dump().items()
        ),
    }
    rows = [
        tag("tr", tag("th", key, scope="row"), tag("td", text))
        for key, text in lines.items()
        if text
    ]
    return [tag("details", tag("summary", "Model card in short"), tag("table", tag("tbody", rows)))]


def _trained_on(card: Mapping[str, Any]) -> str:
    data = card.get("data", {})
    return f"{data['images']} images" if "images" in data else ""


def by_class(evaluation: Evaluation) -> Html:
    """One line a class: IoU, Dice, precision, recall, boundaries, AP, each with its interval."""
    names = ["iou", "dice", "precision", "recall", "boundary_f1", "hausdorff95"]
    names += ["average_precision"]
    intervals = flat(evaluation.intervals)
    heads = [
        tag("th", describe((name, "*")).title, scope="col", title=describe((name, "*")).meaning)
        for name in names
    ]
    rows = []
    for label in evaluation.classes:
        cells = [
            _score(path, evaluation.total[path[0]][label], intervals.get(path))
            for path in ((name, label) for name in names)
        ]
        rows.append(tag("tr", tag("th", label, scope="row"), cells))
    head = tag("thead", tag("tr", tag("th", "class", scope="col"), heads))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")


def score_list(evaluation: Evaluation, paths: Sequence[ScorePath]) -> Html:
    """One line a score: its value, interval, and what it means."""
    scores, intervals = flat(evaluation.total), flat(evaluation.intervals)
    rows = [
        tag(
            "tr",
            tag("th", title(path), scope="row"),
            _score(path, scores[path], intervals.get(path)),
            tag("td", describe(path).meaning, class_="words"),
        )
        for path in paths
        if path in scores
    ]
    return tag("div", tag("table", tag("tbody", rows)), class_="scroll")


def confusion_table(evaluation: Evaluation) -> Html:
    """Pixels by true class (row) and predicted class (column), as shares of the row."""
    matrix = sum(np.asarray(counts["confusion"]) for counts in evaluation.counts.values())
    names = evaluation.classes
    rows = []
    for name, row in zip(names, np.asarray(matrix), strict=True):
        whole = max(int(row.sum()), 1)
        cells = [
            tag(
                "td",
                f"{count / whole:.1%}",
                tag("span", f"{int(count):,} px", class_="range"),
                class_=f"h{min(int(10 * count / whole), 9)}",
            )
            for count in row
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), cells))
    over = (tag("td"), tag("th", "predicted", scope="colgroup", colspan=len(names)))
    heads = [tag("th", name, scope="col") for name in names]
    head = tag("thead", tag("tr", over), tag("tr", tag("th", "true", scope="col"), heads))
    return tag("div", tag("table", head, tag("tbody", rows), class_="matrix"), class_="scroll")


def _score(path: ScorePath, value: float | None, limits: Sequence[float | None] | None) -> Html:
    text = show_range(path, limits)
    return tag("td", show(path, value), tag("span", text, class_="range") if text else None)


def probability_charts(evaluation: Evaluation) -> Html:
    """Calibration, precision and recall of pixels and, where objects are scored, of objects."""
    names = evaluation.classes[1:] if len(evaluation.classes) == 2 else evaluation.classes
    reliability = evaluation.curves["reliability"]
    curves = [
        Series(name, reliability[name]["probability"], reliability[name]["frequency"], marks=True)
        for name in names
    ]
    first = reliability[names[-1]]["pixels"]
    bars = [count / max(*first, 1) for count in first]
    error = show(("calibration_error",), evaluation.total["calibration_error"])
    charts = [
        line_chart(
            "Calibration",
            "probability that the network gives",
            "share of pixels that are it",
            curves,
            ideal=True,
            bars=bars,
            note="On the dashed line probabilities mean what they say. Grey: how many pixels of "
            f"{names[-1]} were given each probability. Calibration error {error}.",
        ),
        line_chart(
            "Precision and recall of pixels",
            "recall",
            "precision",
            [
                Series(name, curve["recall"], curve["precision"])
                for name, curve in evaluation.curves["precision_recall"].items()
                if name in names
            ],
            points=[
                (k % COLORS, recall, precision, f"{name}, as predicted")
                for k, name in enumerate(names)
                if (recall := evaluation.total["recall"][name]) is not None
                and (precision := evaluation.total["precision"][name]) is not None
            ],
            note="One point for each threshold; the dot is the prediction as it is written. "
            + "Area below: "
            + ", ".join(
                f"{name} {show(('average_precision', name), area)}"
                for name, area in evaluation.total["average_precision"].items()
                if name in names
            )
            + ".",
        ),
    ]
    if objects := evaluation.total.get("objects"):
        curve = objects["average_precision"]
        charts.append(
            line_chart(
                "Objects found, by how well",
                "IoU that a match needs",
                "TP / (TP + FP + FN)",
                [Series("objects", [float(x) for x in curve], list(curve.values()), marks=True)],
                x_range=(0.5, 1.0),
            )
        )
    return tag("div", charts, class_="charts")


def challenge_chart(evaluation: Evaluation) -> list[Html] | None:
    """The ISBI 2012 scores along the thresholds, where they were asked for."""
    curve = evaluation.curves.get("isbi")
    if not curve:
        return None
    names = {"v_rand": "V_Rand", "v_info": "V_Info", "pixel_f_score": "F-score of pixels"}
    series = [Series(text, curve["threshold"], curve[name], True) for name, text in names.items()]
    chart = line_chart(
        "ISBI 2012 scores by threshold",
        "threshold on the probability of being inside",
        "score",
        series,
        note="The challenge takes the best threshold of each, one for the whole stack.",
    )
    return [tag("h2", "Thresholds of the challenge"), tag("div", chart, class_="charts")]


def images_section(evaluation: Evaluation, pictures: Mapping[str, Thumbnail]) -> list[Html]:
    """Every image, worst mean IoU first; pictures of those that have one."""
    paths = columns_of_images(evaluation)
    # worst first, in the table as in the gallery; an undefined score is no reason to look
    ordered = sorted(
        evaluation.images,
        key=lambda name: (
            evaluation.images[name]["mean_iou"] is None,
            evaluation.images[name]["mean_iou"] or 0.0,
        ),
    )
    rows = {}
    for name in ordered:
        scores = flat(evaluation.images[name])
        link = f"#{_anchor(evaluation, name)}" if name in pictures else _full_size(name)
        rows[name] = [
            Cell(tag("a", name, href=link), name),
            *(number_cell(path, scores.get(path)) for path in paths),
        ]
    columns = [("image", "ascending")]
    columns += [
        (title(path), "descending" if describe(path).better != "higher" else "ascending")
        for path in paths
    ]
    figures = [_figure(evaluation, name, pictures[name]) for name in ordered if name in pictures]
    missing = len(ordered) - len(figures)
    hint = f" The {len(figures)} worst are shown, the other {missing} linked." if missing else ""
    switch = tag("input", type="checkbox", id="errors", checked=True)
    return [
        tag("h2", "Images, worst first"),
        tag(
            "p", f"A click on a title sorts, a click on a picture enlarges it.{hint}", class_="soft"
        ),
        sortable(columns, rows, caption="Scores of each image", gallery="gallery"),
        tag("p", tag("label", switch, "show errors", class_="switch")),
        legend(len(evaluation.classes)),
        tag("div", figures, class_="gallery", id="gallery"),
    ]


def _figure(evaluation: Evaluation, name: str, picture: Thumbnail) -> Html:
    return tag(
        "figure",
        layers(picture, name, "its errors"),
        tag(
            "figcaption",
            figure_heading(evaluation, name),
            " · ",
            tag("a", "full size", href=_full_size(name)),
        ),
        id=_anchor(evaluation, name),
        data_image=name,
    )


def layers(picture: Thumbnail, name: str, what: str) -> Html:
    """A picture that a click enlarges, with its marks, `what`, over it."""
    size = {"width": picture.width, "height": picture.height}
    return tag(
        "button",
        tag("img", src=data_uri("image/jpeg", picture.image), alt=name, **size),
        tag(
            "img",
            src=data_uri("image/png", picture.errors),
            alt=what,
            class_="errors",
            **size,
        ),
        type="button",
        class_="picture",
        aria_pressed="false",
    )


def _anchor(evaluation: Evaluation, name: str) -> str:
    return f"image-{list(evaluation.images).index(name)}"


def _full_size(name: str) -> str:
    return f"overlays/{quote(file_name(name))}.png"


def figure_heading(evaluation: Evaluation, name: str) -> Html:
    """The name of an image and its two main scores."""
    scores = evaluation.images[name]
    return tag(
        "span",
        tag("b", name),
        f" · mean IoU {show(('mean_iou',), scores['mean_iou'])}"
        f" · pixel error {show(('pixel_error',), scores['pixel_error'])}",
    )


def legend(classes: int) -> Html:
    """What the colours in pictures of errors mean."""
    return swatches(error_entries(classes))


def swatches(entries: Sequence[Entry]) -> Html:
    """A legend."""
    items = []
    for color, text in entries:
        box = tag("rect", width=30, height=12, rx=2, fill=f"rgb{color}")
        svg = tag("svg", box, viewBox="0 0 30 12", class_="swatch", aria_hidden="true")
        items.append(tag("li", svg, text))
    return tag("ul", items, class_="keys")


def thumbnail(image: np.ndarray, classes: np.ndarray, truth: np.ndarray, longest: int) -> Thumbnail:
    """Scales an image and its errors down to at most `longest` pixels a side.

    A pixel of the result stands for n × n pixels: their mean grey value, and the worst of their
    marks, so that a thin error does not vanish.

    Args:
        image: [H, W, C]. classes, truth: int [H, W], truth -1 = ignored.
    """
    return marked(image, error_marks(classes, truth), MARKS, longest)


def marked(image: np.ndarray, marks: np.ndarray, kinds: Sequence[Mark], longest: int) -> Thumbnail:
    """`thumbnail` for any marks.

    Args:
        image: [H, W, C]. marks: uint8 [H, W], 0 or one of the kinds, which are 1, 2, …
    """
    step = max(1, -(-max(marks.shape) // longest))
    base = Image.fromarray(to_rgb(image)).reduce(step)
    layer = Image.fromarray(block_reduce(marks, (step, step), np.max), mode="P")
    palette, alpha = [0, 0, 0], [0]
    for mark in kinds:
        palette += mark.color
        alpha.append(round(255 * mark.strength))
    layer.putpalette(palette)
    return Thumbnail(
        base.width,
        base.height,
        _encoded(base, format="JPEG", quality=85),
        _encoded(layer, format="PNG", transparency=bytes(alpha)),
    )


class Gallery:
    """The thumbnails of the worst images: memory is bounded whatever their number."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, str, Thumbnail]] = []
        self._added = 0

    def add(self, name: str, badness: float, picture: Thumbnail) -> None:
        """Keeps a picture, at the cost of the least bad one where there are too many."""
        self._added += 1
        entry = (badness, -self._added, name, picture)
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def pictures(self) -> dict[str, Thumbnail]:
        """By image name, worst first."""
        return {name: picture for _, _, name, picture in sorted(self._heap, reverse=True)}


def longest_side(images: int) -> int:
    """Pixels of a thumbnail's longer side, so that a page of so many stays below about 20 MB."""
    return 640 if images <= 40 else 384 if images <= 120 else 256


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


class Cell(NamedTuple):
    """What is shown, and the number it is sorted by ("" = undefined)."""

    content: Any
    value: float | str


def sortable(
    columns: Sequence[tuple[str, str]],
    rows: Mapping[str, Sequence[Cell]],
    *,
    caption: str,
    gallery: str | None = None,
) -> Html:
    """A table whose columns sort it, and the gallery below, at a click.

    Args:
        columns: title and first direction ("ascending" or "descending") of each.
        rows: by the name of the image that they belong to.
        gallery: id of the element that holds the images' pictures.
    """
    heads = [
        tag("th", tag("button", text, type="button"), scope="col", data_first=first)
        for text, first in columns
    ]
    lines = [
        tag("tr", [_cell(cell) for cell in cells], data_image=name) for name, cells in rows.items()
    ]
    table = tag(
        "table",
        tag("thead", tag("tr", heads)),
        tag("tbody", lines),
        class_="sortable",
        data_gallery=gallery,
        aria_label=caption,
    )
    return tag("div", table, class_="table", tabindex="0", role="region", aria_label=caption)


def number_cell(path: ScorePath, value: float | None) -> Cell:
    """A score in a sortable table."""
    return Cell("–" if value is None else show(path, value), "" if value is None else value)


def columns_of_images(evaluation: Evaluation) -> list[ScorePath]:
    """Scores worth a column of their own, image by image."""
    foreground = evaluation.classes[1:]
    wanted: list[ScorePath] = [("mean_iou",), ("mean_dice",), ("pixel_error",)]
    wanted += [("iou", name) for name in foreground]
    wanted += [("boundary_f1", name) for name in foreground]
    wanted += [("hausdorff95", name) for name in foreground]
    wanted += [("objects", name) for name in ("f1", "seg", "merged", "split")]
    wanted += [("isbi", name) for name in ("v_rand", "v_info", "pixel_error")]
    held = flat(evaluation.total)
    return [path for path in wanted if path in held]


def _cell(cell: Cell) -> Html:
    value = f"{cell.value:.6g}" if isinstance(cell.value, float) else cell.value
    return tag("td", join(cell.content), data_value=value)
