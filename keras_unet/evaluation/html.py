"""HTML of reports: tags, pages and line charts, and the gallery, a table of images to sort.

Everything is escaped unless it was made here; charts are inline SVG.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image
from skimage.measure import block_reduce

from keras_unet.evaluation.descriptions import ScorePath, describe, show, title
from keras_unet.evaluation.record import Evaluation, file_name, flat
from keras_unet.pictures import MARKS, error_entries, error_marks, to_rgb

_VOID = {"img", "input", "meta"}
COLORS = 6  # s0 … s5 of the style sheet
_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 44


class Html(str):
    """Markup: put into a page as it is."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Text and attributes are escaped; None and False leave an attribute out.

    `class_` stands for class, and other underscores for hyphens: `aria_label`.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in _VOID else f"{start}{join(*children)}</{name}>")


def join(*children: Any) -> Html:
    """One after the other; lists and tuples are opened, None is nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(escape(str(child)))
    return Html("".join(parts))


def data_uri(kind: str, content: bytes) -> str:
    """Bytes of a media type as an address that needs no network."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page(title: str, *body: Any) -> str:
    """A whole page in one file: no script, style or address but its own can be used in it.

    The content security policy allows this style and this script by their hashes, and pictures
    only as data: even a name that escaped the escaping could neither run nor load anything.
    """
    style, script = (asset(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    head = (
        Html('<meta charset="utf-8">'),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(style)),
    )
    main = tag("main", *body)
    whole = tag(
        "html", tag("head", head), tag("body", main, tag("script", Html(script))), lang="en"
    )
    return f"<!doctype html>\n{whole}\n"


def asset(name: str) -> str:
    """The text of a file in `assets`."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Series(NamedTuple):
    """A curve: values along x, None where undefined; `marks` draws a dot at each point."""

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    marks: bool = False


def line_chart(
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    *,
    ideal: bool = False,
    bars: Sequence[float] = (),
    points: Sequence[tuple[int, float, float, str]] = (),
    x_range: tuple[float, float] = (0.0, 1.0),
    note: str = "",
) -> Html:
    """A figure with curves over [0, 1] upwards, and a legend where there are several.

    Args:
        ideal: draws the diagonal.
        bars: heights in [0, 1] of equally wide bars in the background.
        points: (series, x, y, text) of single points, the text as a tooltip.
        note: a sentence below.
    """

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - x_range[0]) / (x_range[1] - x_range[0])
        return (
            round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_TOP + (1 - y) * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    drawn = []
    for k in range(5):
        x, y = x_range[0] + k / 4 * (x_range[1] - x_range[0]), k / 4
        (left, at), (right, _) = place(x_range[0], y), place(x_range[1], y)
        drawn.append(tag("line", x1=left, x2=right, y1=at, y2=at, class_="grid"))
        drawn.append(tag("text", f"{y:g}", x=left - 6, y=at + 4, text_anchor="end"))
        down = place(x, 0)
        drawn.append(tag("text", f"{x:.3g}", x=down[0], y=down[1] + 16, text_anchor="middle"))
    for k, height in enumerate(bars):
        left, right = (x_range[0] + (k + e) / len(bars) for e in (0.08, 0.92))
        (x1, y1), (x2, y2) = place(left, height), place(right, 0)
        size = {"width": round(x2 - x1, 1), "height": round(y2 - y1, 1)}
        drawn.append(tag("rect", x=x1, y=y1, class_="bar", **size))
    if ideal:
        (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
        drawn.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="ideal"))
    for k, one in enumerate(series):
        spots = [
            place(x, y)
            for x, y in zip(one.x, one.y, strict=True)
            if x is not None and y is not None
        ]
        color = k % COLORS
        path = " ".join(f"{x},{y}" for x, y in spots)
        drawn.append(tag("polyline", points=path, class_=f"curve c{color} d{color}"))
        if one.marks:
            drawn += [tag("circle", cx=x, cy=y, r=3.2, class_=f"dot f{color}") for x, y in spots]
    for k, x, y, text in points:
        cx, cy = place(x, y)
        drawn.append(
            tag("g", tag("title", text), tag("circle", cx=cx, cy=cy, r=5.5, class_=f"dot f{k}"))
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    drawn.append(tag("text", x_title, x=middle[0], y=_HEIGHT - 8, text_anchor="middle"))
    turned = f"rotate(-90 13 {middle[1]})"
    drawn.append(tag("text", y_title, x=13, y=middle[1], text_anchor="middle", transform=turned))
    svg = tag(
        "svg",
        drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}: {y_title} over {x_title}",
    )
    return tag(
        "figure",
        tag("h3", title),
        svg,
        _keys([one.name for one in series]) if len(series) > 1 else None,
        tag("figcaption", note, class_="note") if note else None,
    )


def _keys(names: Sequence[str]) -> Html:
    items = []
    for k, name in enumerate(names):
        color = k % COLORS
        stroke = tag("line", x1=0, x2=30, y1=6, y2=6, class_=f"curve c{color} d{color}")
        items.append(tag("li", tag("svg", stroke, viewBox="0 0 30 12", aria_hidden="true"), name))
    return tag("ul", items, class_="keys")


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
