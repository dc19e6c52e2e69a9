"""The page of one evaluation: `report.html`, in one file, without network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_unet.disk import write_text
from keras_unet.evaluation.advice import advise
from keras_unet.evaluation.descriptions import describe, show, show_range, title
from keras_unet.evaluation.gallery import images_section
from keras_unet.evaluation.html import Html, page, tag
from keras_unet.evaluation.probability_charts import challenge_chart, probability_charts
from keras_unet.evaluation.record import Evaluation, flat
from keras_unet.evaluation.tables import by_class, confusion_table, score_list
from keras_unet.evaluation.thumbnails import Thumbnail

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
    advice = advise(evaluation)
    return page(
        f"Evaluation of {evaluation.model}",
        tag("h1", f"Evaluation of {evaluation.model}"),
        tag("p", f"{count} image{'s' * (count != 1)}", _source(evaluation), class_="soft"),
        _cards(evaluation),
        [tag("p", note, class_="note") for note in evaluation.notes],
        [
            tag("h2", "What to look at next"),
            tag("ul", [tag("li", text) for text in advice], class_="advice"),
        ]
        if advice
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
