"""Log file for the notices of TFX, Beam and TensorFlow; the terminal is for what matters."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Everything that goes to logging or to standard error (C++ and child processes too) goes to
    the file; standard output stays what it is."""
    from absl import logging as absl_logging

    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    kept = list(root.handlers), root.level, absl_logging.get_verbosity()
    sys.stderr.flush()
    terminal = os.dup(2)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s %(message)s"))
        try:
            os.dup2(file.fileno(), 2)
            root.handlers[:] = [handler]
            root.setLevel(logging.INFO)
            absl_logging.set_verbosity(absl_logging.INFO)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            root.handlers[:] = kept[0]
            root.setLevel(kept[1])
            absl_logging.set_verbosity(kept[2])
