"""The console that commands and training speak through, whatever its stream can show."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from typing import Any

from rich import console as rich

_WIDE = 1 << 14
_STAND_INS = {
    **dict(zip("×−–—·•≈µμ“”„‘’", 'x---|*~uu"""\'\'', strict=True)),
    **dict(zip("→←≥≤±σΣ", ("->", "<-", ">=", "<=", "+-", "sigma", "sum"), strict=True)),
}


class Console(rich.Console):
    """Folds lines to the width of a terminal; to a file or another program they go whole.

    It writes what the stream's encoding lacks by stand-ins, and falls silent where nobody reads any
    more, as after `| head`: the work goes on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)
        if "file" not in options:
            take_every_character()

    @property  # type: ignore[misc]  # Rich's has a setter, for which there is no use
    def size(self) -> rich.ConsoleDimensions:
        """Width and height, in characters."""
        size = super().size
        return size if self.is_terminal else size._replace(width=_WIDE)

    def on_broken_pipe(self) -> None:
        """Rich would end the program here."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def take_every_character() -> None:
    """Lets standard output and error write what their encoding lacks by stand-ins: -> for an arrow.

    A redirected stream has a code page's encoding on Windows, or that of PYTHONIOENCODING, and
    would raise UnicodeEncodeError.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # what stands in for them may have none
        if reconfigure is not None:
            reconfigure(errors=_HANDLER)


def _stand_in(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_bytes, error.object[error.start : error.end])), error.end


def _bytes(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as the system has it
        return bytes([ord(character) - 0xDC00])
    plain = unicodedata.normalize("NFKD", _STAND_INS.get(character, character))
    kept = "".join(part for part in plain if not unicodedata.combining(part))
    return kept.encode() if kept.isascii() else b"?"


_HANDLER = "keras_unet.stand_ins"
codecs.register_error(_HANDLER, _stand_in)
