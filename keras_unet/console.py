"""Console: messages and progress of commands and of training, in what a stream can show.

`-q` of a command, and `verbose=0` of a function, keep it quiet. Library functions use `warnings`
for what endangers a result; servers use `logging`.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich import console as rich

from keras_unet.errors import KerasUnetError

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

    def __init__(self, *, prepared: bool = False, **options: Any) -> None:
        """prepared: leaves standard output as it is; see `take_every_character`."""
        super().__init__(highlight=False, **options)
        if "file" not in options and not prepared:
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


TERMINAL = Console(prepared=True)  # of the commands; an import changes no stream
_quiet = False  # asked for by -q; the terminal falls silent for other reasons too


def say(text: str, style: str | None = None, console: rich.Console = TERMINAL) -> None:
    """Prints a line as it is: paths are no markup, and commands to copy are not wrapped."""
    console.print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of a command with the time left, as a function of (done, total)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = TERMINAL.is_terminal and not TERMINAL.quiet  # else it would leave empty lines
    with Progress(*columns, console=TERMINAL, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def console_of(console: rich.Console | None, verbose: int) -> rich.Console:
    """Where a function speaks: the console that it was given, else the terminal.

    verbose: 0 for nowhere.
    """
    if not verbose:
        return Console(quiet=True, prepared=True)
    return console or Console(quiet=_quiet)  # made now: standard output may be another by now


def keep_quiet(quiet: bool) -> None:
    """Whether commands show errors only: no messages, no progress, no warnings."""
    global _quiet
    TERMINAL.quiet = _quiet = quiet


def run_app(app: Callable[[], Any]) -> None:
    """Runs a command line; errors that a user can mend end with exit code 1, without a trace.

    Among them those of the file system: a full disk, a folder that may not be written. Warnings are
    a line each.
    """
    import typer

    def warn(message: Warning | str, *_: Any, **__: Any) -> None:
        if not _quiet:
            typer.secho(f"Warning: {message}", fg="yellow", err=True)

    take_every_character()
    warnings.showwarning = warn
    try:
        app()
    except (KerasUnetError, OSError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds what is done inside, to exit code 143, where nothing else handles it.

    Its default leaves temporary files, and to a container's first process it does nothing.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
