"""Arguments of the builders, complete: what a model is saved as, and what a file's names become."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from keras_unet.errors import ConfigError


def completed(builder: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The builder's arguments with its defaults, without `dtype` and `name`.

    Raises:
        ConfigError: an option is no argument of the builder; all such are named.
    """
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(builder).parameters.items()
        if name not in ("dtype", "name")
    }
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise ConfigError(
            f"{builder.__name__} has no option {', '.join(unknown)}; it has {', '.join(parameters)}"
        )
    return {**parameters, **options}
