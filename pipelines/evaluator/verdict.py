"""Is a model good enough? Each threshold, judged on each slice that it is over."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from keras_unet.errors import ConfigError
from keras_unet.evaluation import describe
from keras_unet.settings import Frozen
from pipelines.evaluator.policy import Threshold
from pipelines.evaluator.slices import Slice

Scores = Mapping[str, float | None]


class Finding(Frozen):
    """One limit on one slice. value, baseline: the scores; None is undefined or absent."""

    score: str
    slice: str
    images: int
    limit: str
    value: float | None
    baseline: float | None
    outcome: Literal["holds", "fails", "not judged"]
    why: str


class Verdict(Frozen):
    """`blessed` only where there is a threshold, one could be judged, and none fails."""

    blessed: bool
    message: str
    findings: tuple[Finding, ...]


def judge(
    thresholds: Sequence[Threshold],
    parts: Sequence[Slice],
    model: Mapping[str, Scores],
    baseline: Mapping[str, Scores] | None,
) -> Verdict:
    """Applies the thresholds.

    Args:
        parts: the slices; "" is among them.
        model, baseline: scores by the name of the slice; baseline None: there is no blessed model.

    Raises:
        ConfigError: see `require_scores`.
    """
    if not thresholds:
        return Verdict(
            blessed=False,
            message="not blessed: no threshold is given, so nothing says what is good enough",
            findings=(),
        )
    findings: list[Finding] = []
    require_scores(thresholds, model[""])
    for threshold in thresholds:
        over = [part for part in parts if _covers(threshold, part)]
        if not over:
            found = ", ".join(part.name for part in parts if part.name) or "none"
            findings.append(_absent(threshold, found))
        for part in over:
            before = None if baseline is None else baseline[part.name]
            findings += _findings(threshold, part, model[part.name], before)
    failed = [finding for finding in findings if finding.outcome == "fails"]
    held = sum(finding.outcome == "holds" for finding in findings)
    if failed:
        message = "not blessed: " + "; ".join(_said(finding) for finding in failed)
    elif not held:
        message = "not blessed: no threshold could be judged (slices too small, or undefined)"
    else:
        against = "the baseline model" if baseline is not None else "none (it is the first)"
        how = f"{held} of {len(findings)} conditions hold, the others could not be judged"
        how = "every condition holds" if held == len(findings) else how
        message = f"blessed: {how}; compared with {against}"
    return Verdict(blessed=bool(held) and not failed, message=message, findings=tuple(findings))


def require_scores(thresholds: Sequence[Threshold], names: Collection[str]) -> None:
    """Raises ConfigError: a threshold is on none of the scores, or on a gain of a mere count."""
    for threshold in thresholds:
        if threshold.score not in names:
            raise ConfigError(
                f"threshold on {threshold.score!r}: no such score; expected one of "
                f"{', '.join(names)}"
            )
        if threshold.min_gain is not None and not describe(_path(threshold.score)).better:
            raise ConfigError(f"min_gain on {threshold.score!r}: neither high nor low is better")
        _require_reachable(threshold)


def _require_reachable(threshold: Threshold) -> None:
    """Raises ConfigError: a limit is where the score never is, so that it says nothing."""
    known = describe(_path(threshold.score)).highest
    highest = float("inf") if known is None else known
    for limit, lowest in (("at_least", 0.0), ("at_most", 0.0), ("min_gain", -highest)):
        value = getattr(threshold, limit)
        if value is not None and not lowest <= value <= highest:
            ends = f"{lowest:g} or more" if known is None else f"{lowest:g} to {highest:g}"
            raise ConfigError(f"{limit} on {threshold.score!r} is {value:g}; expected {ends}")


def _covers(threshold: Threshold, part: Slice) -> bool:
    if threshold.slice in ("", *("group", "density")):
        return part.name.partition("=")[0] == threshold.slice
    return part.name == threshold.slice


def _absent(threshold: Threshold, found: str) -> Finding:
    return Finding(
        score=threshold.score,
        slice=threshold.slice,
        images=0,
        limit="",
        value=None,
        baseline=None,
        outcome="fails",
        why=f"there is no such slice; found {found}",
    )


def _findings(
    threshold: Threshold, part: Slice, model: Scores, baseline: Scores | None
) -> list[Finding]:
    value = model[threshold.score]
    before = None if baseline is None else baseline.get(threshold.score)

    def finding(limit: str, holds: bool | None, why: str) -> Finding:
        return Finding(
            score=threshold.score,
            slice=part.name,
            images=len(part.images),
            limit=limit,
            value=value,
            baseline=before,
            outcome="not judged" if holds is None else "holds" if holds else "fails",
            why=why,
        )

    limits = []
    if threshold.at_least is not None:
        limits.append((f"at least {threshold.at_least:g}", "at_least"))
    if threshold.at_most is not None:
        limits.append((f"at most {threshold.at_most:g}", "at_most"))
    if threshold.min_gain is not None:
        limits.append((f"gain of {threshold.min_gain:g} or more", "min_gain"))
    found = []
    for limit, kind in limits:
        if part.name and len(part.images) < threshold.min_images:
            few = f"{len(part.images)} images; judged from {threshold.min_images} on"
            found.append(finding(limit, None, few))
        elif value is None:  # a slice may have no cell at all; the whole set must have some
            found.append(finding(limit, None if part.name else False, "the score is undefined"))
        elif kind == "at_least":
            assert threshold.at_least is not None
            found.append(finding(limit, value >= threshold.at_least, ""))
        elif kind == "at_most":
            assert threshold.at_most is not None
            found.append(finding(limit, value <= threshold.at_most, ""))
        else:
            assert threshold.min_gain is not None
            found.append(
                finding(limit, *_gain(threshold.score, threshold.min_gain, value, before, baseline))
            )
    return found


def _gain(
    score: str, least: float, value: float, before: float | None, baseline: Scores | None
) -> tuple[bool | None, str]:
    """Whether the gain is reached, and what it is."""
    if baseline is None:
        return True, "there is no blessed model yet"
    if before is None:
        return None, "undefined for the baseline model"
    higher = describe(_path(score)).better == "higher"
    gain = value - before if higher else before - value
    return round(gain, 9) >= least, f"gain {gain:+.4f}"


def _path(score: str) -> tuple[str, ...]:
    """Of a score's name; the last part, a class or an IoU, may hold dots."""
    return tuple(score.split(".", 2 if score.startswith("objects.average_precision.") else 1))


def _said(finding: Finding) -> str:
    where = f" on {finding.slice}" if finding.slice else ""
    value = "undefined" if finding.value is None else f"{finding.value:.4f}"
    was = "" if finding.baseline is None else f" (baseline model {finding.baseline:.4f})"
    why = f", {finding.why}" if finding.why else ""
    wanted = finding.limit or "such a slice"
    return f"{finding.score}{where} is {value}{was}, expected {wanted}{why}"
