"""Settings: trees of them as TOML gives them, what each means, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


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


NESTED = "settings_explained"  # error type of a validator whose message has lines of its own


def describe(settings: type[BaseModel]) -> str:
    """Every setting with its default and meaning, one a line, for `--show-settings`."""
    lines = []
    for key, field in _fields(settings):
        default = "(must be given)" if field.is_required() else str(field.default)
        lines.append(f"{key:27} {default:15} {field.description or ''}".rstrip())
    return "\n".join(lines)


def explain(error: ValidationError, source: str, settings: type[BaseModel], listing: str) -> str:
    """Every bad setting on a line of its own, under a line that names `source`.

    Args:
        settings: that were validated. listing: the command that lists them all.
    """
    lines = problems(error, settings, listing)
    return "\n".join([f"{source}: {len(lines)} bad setting(s)", *(f"  {line}" for line in lines)])


def problems(
    error: ValidationError, settings: type[BaseModel], listing: str, prefix: str = ""
) -> list[str]:
    """A line for each bad setting; `prefix` is that of the section they are in."""
    lines = []
    for problem in error.errors():
        key = prefix + ".".join(str(part) for part in problem["loc"])
        if problem["type"] == NESTED:
            lines += problem["msg"].splitlines()
        elif problem["type"] == "extra_forbidden":
            near = _near(key.removeprefix(prefix), settings)
            meant = f"; did you mean {prefix}{near}?" if near else ""
            lines.append(f"{key}: unknown key{meant}; see `{listing}`")
        elif problem["type"] == "missing":
            lines.append(f"{key}: must be given")
        else:
            lines.append(f"{key or 'run'}: {problem['msg']}, got {problem['input']!r:.80}")
    return lines


def _fields(settings: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _near(key: str, settings: type[BaseModel]) -> str | None:
    """The setting that was probably meant: one misspelt, or one of another section."""
    known = [name for name, _ in _fields(settings)]
    elsewhere = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    return next(iter(get_close_matches(key, known, 1, 0.8) or elsewhere), None)
