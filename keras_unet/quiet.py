"""Keeps TensorFlow's notices that heed no level from the terminal."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from keras_unet._import_hook import around_import

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# "I0000 00:00:1796037703.612113 7542 port.cc:153] …" and "2026-11-30 12:00:00.1: I tensorflow/…"
_NOTICE = re.compile(
    rb"([IWEF])\d{4} [\d:.]+ +\d+ \S+:\d+\] |\d{4}-\d\d-\d\d [\d:.]+: ([IWEF]) |"
    rb"WARNING: All log messages before absl::InitializeLog\(\)|INFO: Created TensorFlow Lite|"
    rb"fully_quantize: "  # TensorFlow Lite's converter, to int8
)


def quiet_tensorflow() -> None:
    """From now on TensorFlow's C++ code says only what would end the process.

    TF_CPP_MIN_LOG_LEVEL, if set, wins. TensorFlow 2.21 heeds it only after its import: what it
    writes during the import is held back here, whenever that comes.
    """
    os.environ.setdefault(LEVEL, "3")
    if "tensorflow" not in sys.modules:
        around_import("tensorflow", without_notices)


@contextmanager
def without_notices() -> Iterator[None]:
    """Holds back what goes to standard error, and in the end hands on what is no notice below
    TF_CPP_MIN_LOG_LEVEL; that is nothing where the level is not set, as in a script.

    The file descriptor is turned, since the notices come from C++. Should the process die of a
    signal meanwhile, the terminal is told where.
    """
    if _level() == 0:
        yield
        return
    try:
        sys.stderr.flush()
        terminal = os.dup(2)
    except (AttributeError, OSError):  # standard error is closed
        yield
        return
    watched = faulthandler.is_enabled()
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        if not watched:
            faulthandler.enable(terminal)
        try:
            yield
        finally:
            if not watched:
                faulthandler.disable()
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not _is_notice(line)))


def _is_notice(line: bytes) -> bool:
    """Is it a line of TensorFlow's log below the level that is asked for?"""
    found = _NOTICE.match(line)
    if found is None:
        return False
    severity = (found[1] or found[2] or b"I").decode()
    return "IWEF".index(severity) < _level()


def _level() -> int:
    level = os.environ.get(LEVEL, "")
    return int(level) if level.isdecimal() else 0
