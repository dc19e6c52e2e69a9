"""Trees of settings, as TOML gives them: joined, flattened and built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one; where both have a value, that of `above`."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = merged(under, value)
        result[key] = value
    return result


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("model.depth", 3) for {"model": {"depth": 3}}."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def nested(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """{"model": {"depth": 3}} for {"model.depth": 3}."""
    tree: dict[str, Any] = {}
    for key, value in pairs.items():
        *sections, last = key.split(".")
        inside = tree
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[last] = value
    return tree
