"""Findings of the validators, in words: the feature, what was found, what was expected, how often.

TFDV's messages name one value ("Unexpectedly large value: 3."); the statistics know how many
images have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import comb
from typing import Literal

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.dsl.io import fileio

from keras_unet.settings import Frozen
from pipelines.checks import words
from pipelines.checks.culprits import MOST, culprits
from pipelines.checks.settings import CheckSettings
from pipelines.checks.statistics import Summary

Check = Literal["schema", "skew", "drift"]
Statistics = Mapping[str, Mapping[str, Summary]]

ADVICE = {
    "image/channels": "colour among grey images, or the reverse: convert them",
    "image/dtype": "images of another bit depth: convert them, or list the type in data.dtypes",
    "label/values": "labels of another meaning: map them to the classes that the pipeline was "
    "told (data.label_kind, data.label_values, data.num_classes)",
    "label/diameter": "masks without a cell: a broken export; or, if so many images are empty, "
    "lower checks.min_labelled",
}
COMPARED = (
    "if the change is meant, list the feature in checks.tolerated for this run, or mend its "
    "threshold in schema.pbtxt"
)
CHANCE = 0.01  # of small sets without anything in common
AGAINST = {"skew": "the training split", "drift": "the last batch that passed"}


class Finding(Frozen):
    """One anomaly. `stops` is False where it is only reported, and `why` says why.

    `images` names the first that have it, where single images do.
    """

    check: Check
    split: str
    feature: str
    found: str
    expected: str
    advice: str = ""
    stops: bool = True
    why: str = ""
    images: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line, for people."""
        text = f"{self.split}: {self.feature}: found {self.found}; expected {self.expected}"
        return f"{text}; in {self.named}" if self.images else text

    @property
    def named(self) -> str:
        """The images' names."""
        return ", ".join([*self.images, *(["…"] if len(self.images) == MOST else [])])


def read_anomalies(uri: str) -> dict[str, anomalies_pb2.Anomalies]:
    """From an ExampleAnomalies artifact: by its folder, "Split-train" or "SplitPair-eval_train"."""
    found = {}
    for name in sorted(fileio.listdir(uri)) if fileio.exists(uri) else []:
        path = f"{uri}/{name.rstrip('/')}/SchemaDiff.pb"
        if name.startswith("Split") and fileio.exists(path):
            with fileio.open(path, "rb") as file:
                found[name.rstrip("/")] = anomalies_pb2.Anomalies.FromString(file.read())
    return found


def of_schema(
    anomalies: Mapping[str, anomalies_pb2.Anomalies],
    statistics: Statistics,
    schema: schema_pb2.Schema,
    settings: CheckSettings,
) -> list[Finding]:
    """What ExampleValidator found, split by split."""
    features = {feature.name: feature for feature in schema.feature}
    out = []
    for folder, found in anomalies.items():
        split = folder.removeprefix("Split-")
        for name, info in sorted(found.anomaly_info.items()):
            summary, feature = statistics[split].get(name), features.get(name)
            text = "; ".join(dict.fromkeys(r.description.strip() for r in info.reason))
            finding = Finding(
                check="schema",
                split=split,
                feature=name,
                found=words.found(summary, feature, info, text),
                expected=words.expected(feature, summary) if feature else "no such feature",
                advice=ADVICE.get(name, ""),
            )
            out.append(_tolerated(finding, settings))
        if found.HasField("dataset_anomaly_info"):
            text = found.dataset_anomaly_info.description.strip()
            out.append(
                Finding(check="schema", split=split, feature="", found=text, expected="images")
            )
    return out


def of_values(statistics: Statistics, settings: CheckSettings) -> list[Finding]:
    """Label values between the least and the greatest allowed that are none of the allowed."""
    name, allowed = "label/values", settings.stored
    out = []
    for split, features in statistics.items():
        summary = features.get(name)
        values = summary.values if summary else ()
        inside = [(v, n) for v, n in values if min(allowed) <= int(v) <= max(allowed)]
        strange = [(v, n) for v, n in inside if int(v) not in allowed]
        if summary and strange:
            finding = Finding(
                check="schema",
                split=split,
                feature=name,
                found=words.counted(strange, summary),
                expected="one of " + ", ".join(map(str, allowed)),
                advice=ADVICE[name],
            )
            out.append(_tolerated(finding, settings))
    return out


def with_names(
    findings: Iterable[Finding],
    folders: Mapping[str, str],
    schema: schema_pb2.Schema,
    settings: CheckSettings,
) -> list[Finding]:
    """The findings, with the images of those that stop the run and are about single images.

    Args:
        folders: of each split's records.
    """
    findings = list(findings)
    wanted: dict[str, set[str]] = {}
    for one in findings:
        if one.check == "schema" and one.stops:
            wanted.setdefault(one.split, set()).add(one.feature)
    named = {
        split: culprits(
            folders[split], [f for f in schema.feature if f.name in names], settings.stored
        )
        for split, names in wanted.items()
        if split in folders
    }

    def images(one: Finding) -> tuple[str, ...]:
        by_check = named.get(one.split, {}) if one.check == "schema" else {}
        return tuple(by_check.get(one.feature, ()))

    return [one.model_copy(update={"images": images(one)}) for one in findings]


def of_comparison(
    check: Literal["skew", "drift"],
    anomalies: Mapping[str, anomalies_pb2.Anomalies],
    statistics: Statistics,
    baseline: Statistics,
    settings: CheckSettings,
) -> list[Finding]:
    """What a DistributionValidator found; it names a pair of splits "eval_train"."""
    pairs = {f"SplitPair-{a}_{b}": (a, b) for a in statistics for b in baseline}
    out = []
    for folder, found in anomalies.items():
        split, other = pairs[folder]
        measured = {".".join(i.path.step): i.drift_measurements for i in found.drift_skew_info}
        for name, info in sorted(found.anomaly_info.items()):
            here, there = statistics[split].get(name), baseline[other].get(name)
            if here is None or there is None:
                continue  # in neither or one of the two: the schema says whether it must be there
            text = "; ".join(r.description.strip() for r in info.reason)
            expected = f"what {AGAINST[check]} has"
            if measured.get(name):
                by = measured[name][0]
                text = f"{words.typical(here)}, a distance of {by.value:.2f} "
                text += f"({words.measure(by.type)})"
                expected = f"at most {by.threshold:g} from {AGAINST[check]}, which has "
                expected += words.typical(there)
            if too_few(statistics[split], baseline[other], settings):
                if not apart(here, there):
                    continue
                text += f"; nothing in common ({here.images} against {there.images} images)"
            finding = Finding(
                check=check,
                split=split,
                feature=name,
                found=text,
                expected=expected,
                advice=COMPARED,
            )
            out.append(_tolerated(finding, settings))
    return out


def unjudged(
    check: Literal["skew", "drift"],
    pairs: Iterable[tuple[str, str]],
    statistics: Statistics,
    baseline: Statistics,
    settings: CheckSettings,
) -> list[str]:
    """A sentence for each pair of splits that are too few images to be compared."""
    return [
        f"{check.capitalize()} of {a}: {_size(statistics[a])} images against "
        f"{_size(baseline[b])} of {AGAINST[check]} are too few to judge (checks.min_images is "
        f"{settings.min_images}); it would stop the run if they had nothing in common."
        for a, b in pairs
        if too_few(statistics[a], baseline[b], settings)
    ]


def too_few(
    here: Mapping[str, Summary], there: Mapping[str, Summary], settings: CheckSettings
) -> bool:
    """Whether two sets of images differ much by chance alone."""
    return min(_size(here), _size(there)) < settings.min_images


def apart(here: Summary, there: Summary) -> bool:
    """Whether two sets of images have no value in common, of numbers not even a range, and that is
    no chance: of all ways to deal the images out to the two sets, at most `CHANCE` would do so.

    For n and m images that is 2 / C(n + m, n): 5 against 5, 3 against 12, 2 against 19.
    """
    n, m = here.images, there.images
    if not (n and m) or 2 / comb(n + m, n) > CHANCE:
        return False
    if here.low is not None and there.low is not None:
        assert here.high is not None and there.high is not None  # as there is a least
        return here.high < there.low or there.high < here.low
    return {v for v, _ in here.values}.isdisjoint(v for v, _ in there.values)


def message(findings: Iterable[Finding], pages: str) -> str | None:
    """What stops the run, one line each; None if nothing does."""
    stops = [finding for finding in findings if finding.stops]
    if not stops:
        return None
    count = "1 anomaly" if len(stops) == 1 else f"{len(stops)} anomalies"
    lines = [f"the data checks found {count}; nothing is trained on this batch."]
    lines += [f"- {finding}" for finding in stops]
    for advice in dict.fromkeys(finding.advice for finding in stops if finding.advice):
        features = dict.fromkeys(f.feature for f in stops if f.advice == advice)
        lines.append(f"{', '.join(features)}: {advice}.")
    return "\n".join([*lines, f"The pages: {pages}"])


def _tolerated(finding: Finding, settings: CheckSettings) -> Finding:
    if finding.feature not in settings.tolerated:
        return finding
    return finding.model_copy(update={"stops": False, "why": "listed in checks.tolerated"})


def _size(split: Mapping[str, Summary]) -> int:
    return max((summary.whole for summary in split.values()), default=0)
