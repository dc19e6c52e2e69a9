"""Anomalies and the schema's expectations in words, with the numbers of images."""

from __future__ import annotations

from collections.abc import Iterable

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from pipelines.checks.statistics import Summary


def measure(kind: int) -> str:
    """A `DriftSkewInfo.Measurement.type`."""
    names = {1: "largest difference of a share", 2: "Jensen-Shannon divergence"}
    return names.get(kind, "distance")


def found(
    summary: Summary | None,
    feature: schema_pb2.Feature | None,
    info: anomalies_pb2.AnomalyInfo,
    text: str,
) -> str:
    """In numbers of images where the statistics know them; else in TFDV's words."""
    if summary is None:
        return "it in no image"
    if summary.missing and feature is not None and _share(summary) < feature.presence.min_fraction:
        return f"it in {_of(summary.images, summary.whole)}"
    strange = [(v, n) for v, n in summary.values if feature is None or not _allowed(v, feature)]
    if strange:
        return counted(strange, summary)
    if summary.low is not None and any("alue" in r.short_description for r in info.reason):
        return f"{summary.low:g} to {summary.high:g} ({text.rstrip('.')})"
    return text.rstrip(".")


def counted(values: Iterable[tuple[str, int]], summary: Summary) -> str:
    """Values, and how many images have each."""
    return ", ".join(f"{v or 'nothing'} in {_of(n, summary.whole)}" for v, n in values)


def _share(summary: Summary) -> float:
    return summary.images / max(summary.whole, 1)


def _of(count: int, whole: int) -> str:
    return f"{count:,} of {whole:,} images ({count / max(whole, 1):.0%})"


def _allowed(value: str, feature: schema_pb2.Feature) -> bool:
    if feature.HasField("string_domain"):
        return value in feature.string_domain.value
    if feature.HasField("int_domain"):
        domain = feature.int_domain
        low = domain.min if domain.HasField("min") else -(2**63)
        high = domain.max if domain.HasField("max") else 2**63
        return low <= int(value) <= high
    return True


def expected(feature: schema_pb2.Feature, summary: Summary | None) -> str:
    """The domain; or the presence, where that is what is wrong."""
    least = feature.presence.min_fraction
    if summary is None or _share(summary) < least:
        return "it in every image" if least == 1 else f"it in {least:.0%} or more"
    parts = []
    if feature.HasField("string_domain"):
        parts.append("one of " + ", ".join(feature.string_domain.value))
    for kind in ("int_domain", "float_domain"):
        if feature.HasField(kind):
            domain = getattr(feature, kind)
            low = f"{domain.min:g}" if domain.HasField("min") else ""
            high = f"{domain.max:g}" if domain.HasField("max") else ""
            if low and low == high:
                parts.append(low)
            elif low or high:
                other = "or more" if low else "or less"
                parts.append(f"{low} to {high}" if low and high else f"{low or high} {other}")
            if kind == "float_domain" and domain.disallow_nan:
                parts.append("a finite number")
    return ", ".join(parts) or "it as the schema says"


def typical(summary: Summary) -> str:
    """The median of numbers, the most frequent values of text."""
    if summary.median is not None:
        return f"a median of {summary.median:.4g}"
    return ", ".join(f"{v} ({n / max(summary.whole, 1):.0%})" for v, n in summary.values[:3])
