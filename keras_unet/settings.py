"""Settings: their base class, the trees they are read from, and what is wrong with one.

A tree is what TOML gives, {"model": {"depth": 3}}; flat, its keys are dotted: {"model.depth": 3}.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from keras_unet.disk import read_text
from keras_unet.errors import ConfigError
from keras_unet.remote_path import local_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NESTED = "settings_explained"  # error type of a validator whose message has lines of its own
Made = TypeVar("Made", bound=BaseModel)

# A shell's and TOML's 7 may be a name.
AnyText = Annotated[str, Field(coerce_numbers_to_str=True)]
AnyPath = Annotated[
    Path,
    BeforeValidator(lambda v: str(v) if isinstance(v, (int, float)) else v),
    AfterValidator(local_path),
]


class Frozen(BaseModel):
    """Base of what is validated once and stays as it is; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(Frozen):
    """Base of what a person chooses: the defaults are validated too, and numbers are finite."""

    model_config = ConfigDict(validate_default=True, allow_inf_nan=False)


def validated(
    kind: type[Made], values: Mapping[str, Any], source: str = "", listing: str = ""
) -> Made:
    """A `kind` made of a tree of values.

    Args:
        kind: of the settings.
        values: given ones.
        source: where they are from, for the message.
        listing: the command that lists all settings of this kind.

    Raises:
        ConfigError: names every bad setting, what was found and what was expected; for an unknown
            one, what was probably meant.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, kind, source, listing)) from error


def explain(
    error: ValidationError, kind: type[BaseModel], source: str = "", listing: str = ""
) -> str:
    """The message of `validated`: with a listing, a line for each bad setting."""
    lines = problems(error, kind, listing)
    if listing:
        return "\n  ".join([f"{source}: {len(lines)} bad setting(s)", *lines])
    return f"{source}: {'; '.join(lines)}" if source else "; ".join(lines)


def problems(
    error: ValidationError, kind: type[BaseModel], listing: str = "", prefix: str = ""
) -> list[str]:
    """A text for each bad setting; `prefix` is that of the section they are in.

    What was given is not shown of a field with `repr=False`: a secret.
    """
    lines = []
    hidden = {name for name, field in _fields(kind) if not field.repr}
    for problem in error.errors():
        path = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == NESTED:
            lines += message.splitlines()
        elif problem["type"] == "extra_forbidden":
            meant = did_you_mean(path, [name for name, _ in _fields(kind)], prefix)
            known = f"; expected one of {', '.join(kind.model_fields)}"
            lines.append(
                f"{prefix}{path}: unknown key{meant}; see `{listing}`"
                if listing
                else f"{prefix}{path}: unknown{known}{meant}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{prefix}{path}: must be given")
        elif not path:  # what several settings are together
            lines.append(prefix + message)
        elif path in hidden or "did you mean" in message:  # which names what was given
            lines.append(f"{prefix}{path}: {message}")
        else:
            lines.append(f"{prefix}{path}: {message}, got {problem['input']!r:.80}")
    return list(dict.fromkeys(lines))


def nested_error(
    error: ValidationError, kind: type[BaseModel], listing: str, prefix: str
) -> PydanticCustomError:
    """What a validator raises whose own value is settings of another kind, under `prefix`."""
    lines = problems(error, kind, listing, prefix)
    return PydanticCustomError(NESTED, "{lines}", {"lines": "\n".join(lines)})


def describe(kind: type[BaseModel]) -> str:
    """Every setting with its default and meaning, one a line, for `--show-settings`."""
    lines = []
    for key, field in _fields(kind):
        default = "(must be given)" if field.is_required() else str(field.default)
        lines.append(f"{key:27} {default:15} {field.description or ''}".rstrip())
    return "\n".join(lines)


def read_tree(
    path: str | Path | None = None,
    settings: Iterable[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The tree of a TOML file, then `data`, its section of that name, then texts of `--set`.

    Raises:
        ConfigError: the file cannot be read, or a setting has no value.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(read_text(path))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: does not exist; expected a TOML file") from error
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    if not isinstance(tree.setdefault("data", {}), dict):
        raise ConfigError(f"{path}: data: expected a section [data], got {tree['data']!r}")
    tree["data"].update({k: v for k, v in (data or {}).items() if v is not None})
    return put(tree, settings)


def put(tree: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Puts "section.key=value" into a tree, and returns it.

    Raises:
        ConfigError: a text is no such setting, or its section is a value.
    """
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found or not key:
            raise ConfigError(f"--set {setting!r}: expected key=value")
        *sections, last = key.strip().split(".")
        inside = tree
        for section in sections:
            inside = inside.setdefault(section, {})
            if not isinstance(inside, dict):
                raise ConfigError(f"--set {setting!r}: {section!r} is a value, not a section")
        inside[last] = _value(text.strip())
    return tree


def source_of(path: str | Path | None, settings: Sequence[str]) -> str:
    """Where the settings of `read_tree` came from, for messages."""
    given = [*([str(path)] if path else []), *(["--set"] if settings else [])]
    return " and ".join(given) or "configuration"


def to_tree(config: BaseModel) -> dict[str, Any]:
    """Settings as plain values that TOML and JSON can hold; None is left out."""
    return config.model_dump(mode="json", exclude_none=True)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees as one; where both have a value, that of `above`."""
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


def _value(text: str) -> Any:
    """A TOML value where the text is one, else the text itself: no quotes are needed in a shell."""
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text  # dates


def _fields(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        below = field.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            yield from _fields(below, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message: the name that was probably meant, or "".

    It is one misspelt, or for a dotted name, one of another section.
    """
    known = list(known)
    elsewhere = [other for other in known if other.split(".")[-1] == name.split(".")[-1]]
    near = get_close_matches(name, known, 1, 0.8) or elsewhere
    return f"; did you mean {prefix}{near[0]}?" if near else ""
