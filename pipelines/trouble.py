"""Message for the user in an exception that came through TFX and Beam."""

from __future__ import annotations

import re
from collections.abc import Iterator

from keras_unet.errors import KerasUnetError


class PipelineError(KerasUnetError):
    """A component failed: its name, what it said, and where the whole log is."""


# Beam hands on a worker's exception as the text of its traceback, with the step's name at its end.
_OWN = re.compile(
    r"keras_unet\.errors\.\w+: (?P<message>.*?)(?: \[while running '|\n\nDuring handling of|"
    r"\n\nThe above exception|\nTraceback |\Z)",
    re.DOTALL,
)


def message(error: BaseException) -> str:
    """What this package said where it raised the error, however deep; else the error's own text."""
    chain = list(_chain(error))
    for cause in reversed(chain):
        if isinstance(cause, KerasUnetError):
            return str(cause)
    for cause in reversed(chain):
        found = _OWN.search(str(cause))
        if found:
            return found["message"].strip()
    text = str(chain[-1]).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{type(chain[-1]).__name__}: {lines[-1] if len(lines) > 8 else text}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
