"""Charts of a report: calibration, precision and recall, objects by IoU, the challenge's curves."""

from __future__ import annotations

from keras_unet.evaluation.charts import COLORS, Series, line_chart
from keras_unet.evaluation.descriptions import show
from keras_unet.evaluation.html import Html, tag
from keras_unet.evaluation.record import Evaluation


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
