"""Summary of a finished run: what came of it, where to look, and what to do next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from keras_unet.remote_path import as_path
from keras_unet.serving import versions
from pipelines.config import PipelineConfig
from pipelines.executions import Step


def summary(config: PipelineConfig, steps: Sequence[Step]) -> list[str]:
    """Lines for the terminal."""
    return list(_lines(config, {step.component: step for step in steps}, steps))


def _lines(
    config: PipelineConfig, by_name: dict[str, Step], steps: Sequence[Step]
) -> Iterator[str]:
    executed = [step for step in steps if step.state == "COMPLETE"]
    cached = [step for step in steps if step.state == "CACHED"]
    yield f"{len(executed)} steps executed, {len(cached)} cached"
    letters = _output(by_name, "ImageExampleGen", "dead_letters")
    if letters is not None and _number(letters, "bad"):
        yield (
            f"Left out  {_number(letters, 'bad')} of {_number(letters, 'images')} images: "
            f"{letters.uri}/dead_letters.jsonl"
        )
    for component, key, page, what in (
        ("DataReport", "pages", "statistics.html", "the data"),
        ("DataReport", "pages", "anomalies.html", "its anomalies"),
        ("Evaluator", "evaluation", "verdict.html", "the verdict on the model"),
        ("Evaluator", "evaluation", "report.html", "scores and errors"),
    ):
        found = _output(by_name, component, key)
        if found is not None and Path(found.uri, page).is_file():
            yield f"Look at   {found.uri}/{page} ({what})"
    runs = _output(by_name, "Trainer", "model_run")
    if runs is not None:
        yield f"Training  {_program('tensorboard')} --logdir {quote(runs.uri)}"
    masks = _output(by_name, "BulkInferrer", "masks")
    if masks is not None and _text(masks, "reason"):
        yield f"No masks: {_text(masks, 'reason')}"
    elif masks is not None:
        yield f"Masks     {masks.uri}/masks, {masks.uri}/summary.csv"
    yield from _published(config, _output(by_name, "Pusher", "pushed_model"))


def _published(config: PipelineConfig, pushed: Any | None) -> Iterator[str]:
    if pushed is None or not _number(pushed, "pushed"):
        reason = _text(pushed, "reason") if pushed is not None else ""
        yield f"Not published: {reason or 'the Pusher did not run'}"
        return
    version = as_path(_text(pushed, "pushed_destination"))
    if not version.is_dir():
        yield f"Published {version}, which is not there any more; --set cache=false makes it anew"
        return
    own = _program("keras-unet")
    newest = max(versions(str(version.parent)))
    if newest != int(version.name):
        yield f"Published {version} in an earlier run; a server takes the newest, {newest}"
        yield f"Go back   {own} rollback {quote(str(version.parent))} --to {version.name}"
    else:
        yield f"Published {version}"
    yield f"Serve it  {own} serve {quote(str(as_path(config.destination).parent))}"
    yield f"Origin    {own} lineage {quote(str(version))}"


def _program(name: str) -> str:
    """As a shell finds it: by its name, or by its path where this environment is not active."""
    here = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    active = found is not None and Path(found).resolve() == here.resolve()
    return name if active or not here.exists() else quote(str(here))


def _output(by_name: dict[str, Step], component: str, key: str) -> Any | None:
    step = by_name.get(component)
    found = step.outputs.get(key, []) if step is not None else []
    return found[0] if found else None


def _number(artifact: Any, name: str) -> int:
    place = artifact.properties if name in artifact.properties else artifact.custom_properties
    return place[name].int_value if name in place else 0


def _text(artifact: Any, name: str) -> str:
    place = artifact.properties if name in artifact.properties else artifact.custom_properties
    return place[name].string_value if name in place else ""
