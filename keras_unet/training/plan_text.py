"""A plan as a `train.toml` that a person can read and change."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import BaseModel

from keras_unet.training.config import TrainConfig, to_tree

if TYPE_CHECKING:
    from keras_unet.training.planner import Plan

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
