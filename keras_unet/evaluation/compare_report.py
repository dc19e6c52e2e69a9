"""The page of a comparison: differences with their intervals, images of both side by side."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from keras_unet.disk import write_text
from keras_unet.evaluation.comparison import Comparison, Difference
from keras_unet.evaluation.descriptions import describe, show, title
from keras_unet.evaluation.gallery import legend
from keras_unet.evaluation.html import Html, data_uri, page, tag
from keras_unet.evaluation.pictures import without_legend
from keras_unet.evaluation.record import file_name, flat
from keras_unet.evaluation.tables import Cell, number_cell, sortable
from keras_unet.evaluation.thumbnails import longest_side

MOST_PAIRS = 150  # with pictures: those with the largest differences


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
            continue  # nothing to tell
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
        file = folder / "overlays" / f"{file_name(name)}.png"
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
