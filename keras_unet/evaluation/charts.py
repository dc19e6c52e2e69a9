"""Small charts as inline SVG, coloured by the page's style for light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from keras_unet.evaluation.html import Html, tag

COLORS = 6  # s0 … s5 of the style sheet
_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 44


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
