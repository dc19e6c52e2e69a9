"""Checks of the sizes that a tile and its output may have together."""

from __future__ import annotations

from typing import Any

from keras_unet.errors import ConfigError

Pair = tuple[int, int]


def pair_or_none(value: Any, name: str) -> Pair | None:
    """(height, width) from an integer, a pair or None.

    Raises:
        ConfigError: for anything else, or sizes below 1.
    """
    if value is None:
        return None
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(int(size) != size or size < 1 for size in pair):
        raise ConfigError(f"{name} must be a positive integer or (height, width); found {value!r}")
    return int(pair[0]), int(pair[1])


def check_sizes(tile: Pair | None, output: Pair | None) -> None:
    """An output lies in the middle of its tile, with the same whole margin on both sides.

    Raises:
        ConfigError: otherwise.
    """
    if tile is None or output is None:
        return
    for name, t, o in zip(("height", "width"), tile, output, strict=True):
        if o > t or (t - o) % 2:
            raise ConfigError(
                f"output {name} {o} must be at most the tile's {name} {t} and differ from it by "
                "an even number"
            )
