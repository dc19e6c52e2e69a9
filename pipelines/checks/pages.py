"""Statistics and anomalies of a batch as HTML pages that need no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from keras_unet.evaluation import Html, Series, line_chart, page, tag
from pipelines.checks.findings import Finding, Statistics
from pipelines.checks.statistics import HISTOGRAM_BARS, Summary

CHARTS = {
    "image/mean": "mean grey value of an image",
    "image/std": "standard deviation of an image",
    "label/foreground": "share of foreground",
    "label/cells": "cells in an image",
    "label/diameter": "median cell diameter, pixels",
}

_SENTENCES = ("found", "expected", "most frequent (images)")  # columns of text, not of numbers


def anomalies_page(findings: Sequence[Finding], statistics: Statistics, note: str = "") -> str:
    """What was found, what was expected, and whether it stops the run."""
    stops = [one for one in findings if one.stops]
    verdict = f"{len(stops)} of them stop the run" if stops else "nothing stops the run"
    body = [
        tag("h1", "Data checks"),
        tag("p", f"Anomalies: {len(findings)}; {verdict}. {note}", class_="soft"),
        _cards(statistics, [("anomalies", str(len(findings))), ("stop the run", str(len(stops)))]),
        tag("h2", "Anomalies"),
    ]
    heads = ("feature", "split", "check", "found", "expected", "")
    rows = [_row(one) for one in sorted(findings, key=lambda one: not one.stops)]
    body.append(_table(heads, rows) if rows else tag("p", "None."))
    return page("Data checks", *body)


def statistics_page(statistics: Statistics, baseline: Statistics | None = None) -> str:
    """Every feature of each split, beside the last batch that passed where there is one."""
    columns = dict(statistics)
    columns |= {f"{split}, last batch": found for split, found in (baseline or {}).items()}
    names = list(dict.fromkeys(name for found in columns.values() for name in found))
    numeric = [n for n in names if any(f[n].low is not None for f in columns.values() if n in f)]
    counted = [n for n in names if any(f[n].values for f in columns.values() if n in f)]
    heads = ("feature", "split", "images", "missing", "least", "median", "mean", "std", "greatest")
    body = [
        tag("h1", "Statistics of the images"),
        tag(
            "p",
            "As StatisticsGen counted them, one value an image. The same in Facets, to browse: ",
            tag("a", "facets.html", href="facets.html"),
            " (loads its viewer from the network).",
            class_="soft",
        ),
        _cards(statistics, []),
        tag("h2", "Distributions"),
        tag("div", [_chart(n, columns) for n in CHARTS if n in numeric], class_="charts"),
        tag("h2", "Numbers"),
        _table(heads, [row for n in numeric for row in _number_rows(n, columns)]),
        tag("h2", "Values"),
        _table(
            ("feature", "split", "images", "distinct", "most frequent (images)"),
            [row for n in counted for row in _value_rows(n, columns)],
        ),
    ]
    return page("Statistics of the images", *body)


def _cards(statistics: Statistics, more: Iterable[tuple[str, str]]) -> Html:
    facts = [
        (f"images in {split}", f"{max((s.whole for s in found.values()), default=0):,}")
        for split, found in statistics.items()
    ]
    cells = [
        tag("div", tag("dt", name), tag("dd", value, class_="value"))
        for name, value in [*facts, *more]
    ]
    return tag("dl", cells, class_="cards")


def _row(one: Finding) -> Html:
    text = [one.expected, tag("div", one.why or one.advice, class_="soft")]
    named = tag("div", f"in {one.named}", class_="soft")
    return tag(
        "tr",
        tag("th", one.feature or "all", scope="row"),
        tag("td", one.split),
        tag("td", one.check),
        tag("td", [one.found, named] if one.images else one.found, class_="words"),
        tag("td", text, class_="words"),
        tag("td", "stops" if one.stops else "reported", class_="worse strong" if one.stops else ""),
    )


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    cells = [
        tag("td", text, class_="words", role="columnheader")
        if text in _SENTENCES
        else tag("th", text, scope="col")
        for text in heads
    ]
    head = tag("thead", tag("tr", cells))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")


def _number_rows(name: str, columns: Mapping[str, Mapping[str, Summary]]) -> list[Html]:
    rows: list[Html] = []
    for split, found in columns.items():
        one = found.get(name)
        if one is None or one.low is None:
            continue
        cells = [f"{one.images:,}", f"{one.missing:,}"]
        cells += [f"{v:.4g}" for v in (one.low, one.median, one.mean, one.std, one.high)]
        rows.append(
            tag(
                "tr",
                tag("th", "" if rows else name, scope="row"),
                tag("td", split),
                [tag("td", text) for text in cells],
            )
        )
    return rows


def _value_rows(name: str, columns: Mapping[str, Mapping[str, Summary]]) -> list[Html]:
    rows: list[Html] = []
    for split, found in columns.items():
        one = found.get(name)
        if one is None or not one.values:
            continue
        listed = ", ".join(f"{value or 'none'} ({count:,})" for value, count in one.values[:8])
        more = (one.distinct or 0) - 8
        rows.append(
            tag(
                "tr",
                tag("th", "" if rows else name, scope="row"),
                tag("td", split),
                tag("td", f"{one.images:,}"),
                tag("td", f"{one.distinct:,}"),
                tag("td", f"{listed} and {more:,} more" if more > 0 else listed, class_="words"),
            )
        )
    return rows


def _chart(name: str, columns: Mapping[str, Mapping[str, Summary]]) -> Html:
    """Shares of the images, all on the same bars, as steps."""
    drawn = {split: found[name] for split, found in columns.items() if found.get(name)}
    drawn = {split: one for split, one in drawn.items() if one.bars}
    low = min(one.bars[0][0] for one in drawn.values())
    high = max(one.bars[-1][1] for one in drawn.values())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = [low + (high - low) * k / HISTOGRAM_BARS for k in range(HISTOGRAM_BARS + 1)]
    x = [edge for pair in pairwise(edges) for edge in pair]
    series = [
        Series(split, x, [share for share in shares(one, edges) for _ in range(2)])
        for split, one in drawn.items()
    ]
    return line_chart(CHARTS[name], name, "share of the images", series, x_range=(low, high))


def shares(summary: Summary, edges: Sequence[float]) -> list[float]:
    """The share of the images between each two edges, from bars taken as even inside."""
    whole = sum(count for *_, count in summary.bars) or 1.0
    out = [0.0] * (len(edges) - 1)
    for low, high, count in summary.bars:
        for k, (a, b) in enumerate(pairwise(edges)):
            if high > low:
                part = max(0.0, min(b, high) - max(a, low)) / (high - low)
            else:
                part = float(a <= low < b or (k == len(out) - 1 and low == b))
            out[k] += part * count / whole
    return out
