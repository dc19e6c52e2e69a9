"""Gallery of a report: a table of images to sort, and under it small pictures in the same order."""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image
from skimage.measure import block_reduce

from keras_unet.evaluation.descriptions import ScorePath, describe, show, title
from keras_unet.evaluation.html import Html, data_uri, join, tag
from keras_unet.evaluation.record import Evaluation, file_name, flat
from keras_unet.pictures import MARKS, error_entries, error_marks, to_rgb


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


class Thumbnail(NamedTuple):
    """A picture in two layers of one size: `image` as JPEG, `errors` as PNG, both as bytes."""

    width: int
    height: int
    image: bytes
    errors: bytes


def thumbnail(image: np.ndarray, classes: np.ndarray, truth: np.ndarray, longest: int) -> Thumbnail:
    """Scales an image and its errors down to at most `longest` pixels a side.

    A pixel of the result stands for n × n pixels: their mean grey value, and the worst of their
    marks, so that a thin error does not vanish.

    Args:
        image: [H, W, C]. classes, truth: int [H, W], truth -1 = ignored.
    """
    step = max(1, -(-max(truth.shape) // longest))
    base = Image.fromarray(to_rgb(image)).reduce(step)
    marks = block_reduce(error_marks(classes, truth), (step, step), np.max)
    layer = Image.fromarray(marks, mode="P")
    palette, alpha = [0, 0, 0], [0]
    for mark in MARKS:
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
