"""The console that commands and training speak through."""

from __future__ import annotations

from typing import Any

from rich import console as rich

_WIDE = 1 << 14


class Console(rich.Console):
    """Folds lines to the width of a terminal; to a file or another program they go whole."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)

    @property  # type: ignore[misc]  # Rich's has a setter, for which there is no use
    def size(self) -> rich.ConsoleDimensions:
        """Width and height, in characters."""
        size = super().size
        return size if self.is_terminal else size._replace(width=_WIDE)
