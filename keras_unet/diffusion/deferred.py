"""Models whose weights are not allocated: to count them, or to fill them from a file at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.backend.common import global_state  # no public name reaches the list of variables

_PENDING = "uninitialized_variables"


def deferred(build: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What `build` returns, and the variables that it created: shapes and names, but no values.

    Neither time nor memory goes into random numbers: SDXL's 2.6 billion weights are built in
    seconds. Give every variable a value by `fill` before the model is called.
    """
    before = global_state.get_global_attribute(_PENDING) or []
    global_state.set_global_attribute(_PENDING, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            built = build()
        return built, global_state.get_global_attribute(_PENDING) or []
    finally:
        global_state.set_global_attribute(_PENDING, before)


def fill(variable: Any, value: Any = None) -> None:
    """Allocates a deferred variable with a value, or as its own initializer has it."""
    if value is not None:
        variable._initializer = lambda shape, dtype: value
    variable._deferred_initialize()


def count_parameters(build: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Weights of the network that a builder makes, without allocating them.

    >>> count_parameters(build_diffusion_unet, (64, 64, 3), filters=(64, 128))
    """
    model, _ = deferred(lambda: build(*args, **options))
    return int(model.count_params())
