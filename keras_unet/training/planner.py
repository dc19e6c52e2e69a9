"""`plan`: settings for a data set and a machine, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import PositiveInt, TypeAdapter, ValidationError

from keras_unet.data.label_rule import Kind
from keras_unet.data.samples import load_samples
from keras_unet.training.config import TrainConfig, make_config
from keras_unet.training.facts import DataFacts, data_facts, missed
from keras_unet.training.machine import Machine, this_machine
from keras_unet.training.plan_text import plan_toml
from keras_unet.training.presets import with_preset
from keras_unet.training.rules import Choice, Rules
from keras_unet.training.splits import divide, require_classes
from keras_unet.training.trees import flat, merged, nested


class Plan(NamedTuple):
    """A configuration, what was chosen in it and why, and what that rests on."""

    config: TrainConfig
    choices: tuple[Choice, ...]
    facts: DataFacts
    machine: Machine

    def to_toml(self) -> str:
        """A complete `train.toml`: every setting with its reason, or what it means."""
        return plan_toml(self)

    def to_text(self) -> str:
        """A few lines for a person: what was chosen and why."""
        lines = [f"{c.key} = {shown(c.value)}: {c.reason}" for c in self.choices]
        return "\n".join([f"machine: {self.machine}", *lines])


def plan(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    validation: str | Path | None = None,
    validation_labels: str | Path | None = None,
    label_kind: Kind | None = None,
    minutes: float | None = None,
    settings: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Chooses the settings of a run for a labelled data set, as nnU-Net does (here for 2-D).

    What the numbers in labels mean is never guessed: `label_kind` or `settings` say it.

    Args:
        images, labels: a folder with `images/` and `labels/`, two folders, or two TIFF stacks.
        validation, validation_labels: a set to validate on; else a fifth of the images.
        label_kind: "semantic" (the default) or "instances".
        minutes: training time; 20 if neither it nor `settings["steps"]` is given.
        settings: a tree of settings that stay as they are, such as {"model": {"depth": 3}}.
        machine: to train on; None: this one.

    Raises:
        DataError: images or labels cannot be used; names every bad file.
        ConfigError: a given setting does not fit.
    """
    where = {
        "images": images,
        "labels": labels,
        "validation": validation,
        "validation_labels": validation_labels,
        "label_kind": label_kind,
    }
    given: dict[str, Any] = {"data": {k: v for k, v in where.items() if v is not None}}
    if minutes is not None:
        given["minutes"] = minutes
    return plan_tree(merged(settings or {}, given), machine)


def plan_tree(
    tree: Mapping[str, Any], machine: Machine | None = None, *, folded: bool = False
) -> Plan:
    """`plan` for a tree of given settings that names the data, as `read_tree` gives it.

    folded: for a cross-validation, which holds out images in its own way.
    """
    tree = with_preset(tree)
    # a bad setting is named before anything is read; whether a tile fits depends on the rules
    checked = make_config({key: value for key, value in tree.items() if key != "tile"})
    given = _given(tree, checked)
    data = checked.data
    samples, report = load_samples(data.images, data.labels, data.rule, need_labels=True)
    assert report.mapping is not None  # there are labels
    # what `train` would refuse is refused here
    if not folded and not isinstance(data.validation, Path):
        require_classes(*divide(samples, data, checked.seed), report.mapping.values)
    facts = data_facts(samples, report.summary, report.mapping.kind)
    machine = machine or this_machine(checked.devices)
    rules = Rules(facts, machine, given, lambda side: missed(samples, side))
    choices = tuple(rules.all())
    chosen = nested({choice.key: choice.value for choice in choices})
    config = make_config(merged(chosen, tree), "plan")
    return Plan(config, choices, facts, machine)


def _given(tree: Mapping[str, Any], checked: TrainConfig) -> dict[str, Any]:
    """The settings that are given, by their keys, as the validation made them: 16 for "16"."""
    values = dict(flat(checked.model_dump()))
    if tree.get("tile") is not None:
        try:
            values["tile"] = TypeAdapter(PositiveInt).validate_python(tree["tile"])
        except ValidationError:
            make_config(tree)  # says what is wrong with it
            raise
    return {key: values.get(key, value) for key, value in flat(tree)}


def shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
