"""HTML from Python values, everything escaped unless it was made here; charts as inline SVG."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

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
