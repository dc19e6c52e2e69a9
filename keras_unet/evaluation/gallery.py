"""The images of a report: a table to sort, and under it the pictures in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from keras_unet.evaluation.descriptions import describe, show, title
from keras_unet.evaluation.html import Html, data_uri, tag
from keras_unet.evaluation.pictures import error_entries
from keras_unet.evaluation.record import Evaluation, file_name, flat
from keras_unet.evaluation.tables import Cell, columns_of_images, number_cell, sortable
from keras_unet.evaluation.thumbnails import Thumbnail


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
    size = {"width": picture.width, "height": picture.height}
    layers = (
        tag("img", src=data_uri("image/jpeg", picture.image), alt=name, **size),
        tag(
            "img",
            src=data_uri("image/png", picture.errors),
            alt="its errors",
            class_="errors",
            **size,
        ),
    )
    return tag(
        "figure",
        tag("button", layers, type="button", class_="picture", aria_pressed="false"),
        tag(
            "figcaption",
            figure_heading(evaluation, name),
            " · ",
            tag("a", "full size", href=_full_size(name)),
        ),
        id=_anchor(evaluation, name),
        data_image=name,
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
    items = []
    for color, text in error_entries(classes):
        box = tag("rect", width=30, height=12, rx=2, fill=f"rgb{color}")
        svg = tag("svg", box, viewBox="0 0 30 12", class_="swatch", aria_hidden="true")
        items.append(tag("li", svg, text))
    return tag("ul", items, class_="keys")
