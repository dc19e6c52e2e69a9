"""A command whose paths are on this machine, where they are declared as `Path`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from keras_unet.remote_path import local_path


class LocalPaths(TyperCommand):
    """Refuses gs://… and the like before anything is done, as a `Path` would make "gs:/" of it.

    What may be remote is declared as `str`.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # of typer's own click
        for option in self.params:
            value = ctx.params.get(option.name or "")
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, Path):
                    name = option.opts[0]
                    local_path(one, name if name.startswith("-") else name.upper())
        return super().invoke(ctx)
