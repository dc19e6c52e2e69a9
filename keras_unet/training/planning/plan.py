"""Plan of a run: settings for a data set and a machine, each with its reason; text and TOML."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from pydantic import BaseModel, PositiveInt, TypeAdapter, ValidationError

from keras_unet.data.check import Loaded, load_samples
from keras_unet.data.class_names import find_class_names
from keras_unet.data.label_rule import LabelKind
from keras_unet.machine import Machine, this_machine
from keras_unet.settings import flat, merged, nested, to_tree
from keras_unet.training.ancestor import read_ancestor
from keras_unet.training.config import DataConfig, TrainConfig, make_config, with_preset
from keras_unet.training.planning.data_facts import DataFacts, data_facts, missed
from keras_unet.training.planning.rules import Choice, Rules
from keras_unet.training.splits import divide, require_classes


class Plan(NamedTuple):
    """A configuration, what was chosen in it and why, and what that rests on."""

    config: TrainConfig
    choices: tuple[Choice, ...]
    facts: DataFacts
    machine: Machine
    loaded: Loaded | None = None  # the data that was looked at, for `train`

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
    label_kind: LabelKind | None = None,
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
        DataError: there is no model at `settings["init"]`.
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
    ancestor = None if checked.init is None else read_ancestor(checked.init).ancestor
    rules = Rules(facts, machine, given, lambda side: missed(samples, side), ancestor)
    choices = (*_named(given, data, report.mapping.num_classes), *rules.all())
    chosen = nested({choice.key: choice.value for choice in choices})
    config = make_config(merged(chosen, tree), "plan")
    return Plan(config, choices, facts, machine, Loaded(samples, report))


def _named(given: Mapping[str, Any], data: DataConfig, count: int) -> list[Choice]:
    """The class names of a file beside the data, if it is there and none are given."""
    key = "data.class_names"
    found = None if key in given else find_class_names(data.images, data.labels, count=count)
    return [] if found is None else [Choice(key, [*found.names], f"from {found.path} [data]")]


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


WIDTH = 96


def plan_toml(plan: Plan) -> str:
    """Every setting in the order of `--show-settings`, above it why it is so or what it means."""
    reasons = {choice.key: choice.reason for choice in plan.choices}
    facts = plan.facts
    head = [
        "A plan for `keras-unet train --config`. Above each setting: why it was chosen, or",
        "else what it means. Change what you know better.",
        f"Data: {facts.images} images of {facts.short}×{facts.long} px (medians), "
        f"{facts.channels} channel(s), {facts.kind} labels, {facts.classes} classes "
        f"({', '.join(f'{share:.1%}' for share in facts.fractions)}).",
    ]
    if facts.diameter is not None:
        head.append(
            f"Objects: {facts.objects} looked at, {facts.diameter:g} px across (median), "
            f"95 % below {facts.large:g} px, {facts.close:.0%} within 5 px of another."
        )
    head.append(f"Machine: {plan.machine}.")
    lines = _comment(head)
    tree = to_tree(plan.config)
    for part in (False, True):  # TOML: plain values first, sections after them
        lines += _section(TrainConfig, tree, reasons, "", sections=part)
    return "\n".join(lines) + "\n"


def _section(
    kind: type[BaseModel],
    tree: Mapping[str, Any],
    reasons: Mapping[str, str],
    prefix: str,
    sections: bool,
) -> list[str]:
    lines: list[str] = []
    for name, field in kind.model_fields.items():
        inner, value = field.annotation, tree.get(name)
        section = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
        is_table = section is not None or isinstance(value, Mapping)
        if is_table != sections:
            continue
        if section is not None:
            lines += ["", f"[{prefix}{name}]"]
            for part in (False, True):
                inside = f"{prefix}{name}."
                lines += _section(section, value or {}, reasons, inside, sections=part)
            continue
        if is_table:  # options by name
            lines += ["", *_comment([field.description or ""]), f"[{prefix}{name}]"]
            for key, option in (value or {}).items():
                if reason := reasons.get(f"{prefix}{name}.{key}"):
                    lines += _comment([reason])
                lines.append(tomli_w.dumps({key: option}).rstrip())
            continue
        lines += ["", *_comment([reasons.get(prefix + name) or field.description or ""])]
        absent = value is None
        lines.append(f"# {name} =" if absent else tomli_w.dumps({name: value}).rstrip())
    return lines


def _comment(texts: list[str]) -> list[str]:
    return [f"# {line}" for text in texts for line in textwrap.wrap(text, WIDTH - 2)]
