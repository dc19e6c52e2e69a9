"""Pages of an evaluation: slices and verdict, beside the library's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keras_unet.evaluation import Html, page, tag
from pipelines.evaluator.slices import Slice
from pipelines.evaluator.verdict import Scores, Verdict

SHOWN = ("mean_iou", "mean_dice", "pixel_error", "objects.f1", "objects.seg")


def verdict_page(
    verdict: Verdict,
    parts: Sequence[Slice],
    model: Mapping[str, Scores],
    baseline: Mapping[str, Scores] | None,
) -> str:
    """HTML: whether the model is blessed and why, then scores by slice. Arguments as of `judge`."""
    conditions = [
        (
            *(f.score, f.slice or "all", f.images, f.limit),
            *(_number(f.value), _number(f.baseline), f.outcome, f.why),
        )
        for f in verdict.findings
    ]
    names = list(dict.fromkeys([*SHOWN, *(finding.score for finding in verdict.findings)]))
    names = [name for name in names if name in model[""]]
    rows = []
    for part in parts:
        row: list[object] = [part.name or "all", part.limits, len(part.images)]
        for name in names:
            row.append(_number(model[part.name][name]))
            if baseline is not None:
                row.append(_number(baseline[part.name].get(name)))
        rows.append(row)
    heads = ["slice", "", "images"]
    for name in names:
        heads += [name] if baseline is None else [name, "before"]
    return page(
        "Evaluation",
        tag("h1", "Blessed" if verdict.blessed else "Not blessed"),
        tag("p", verdict.message),
        tag("h2", "Conditions"),
        _table(
            ["score", "slice", "images", "limit", "value", "baseline", "outcome", "why"],
            conditions,
        ),
        tag("h2", "Scores by slice"),
        _table(heads, rows),
        tag("p", "Pictures, intervals and all scores: report.html in this folder."),
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    head = tag("tr", [tag("th", text, scope="col") for text in heads])
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in rows]
    return tag("table", tag("thead", head), tag("tbody", body))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
