"""Runtime of a process that serves: loading in the background, and garbage collection."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")
NICE = 5  # about a third of the time that an ordinary thread gets beside it


def in_background(work: Callable[[], Result]) -> Result:
    """Calls `work` in a thread that the system runs when others leave it time, and waits for it.

    On Linux, where a thread has a niceness of its own; elsewhere an ordinary thread. A thread
    cannot take its niceness back, so each call has a new one.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            if sys.platform == "linux":
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="background", daemon=True)
    thread.start()
    thread.join()
    return future.result()


def freeze_heap() -> None:
    """Collects, and leaves what is alive now out of later collections, until the next call.

    A 256² image as JSON numbers makes 65,536 lists, and so several full collections, each of which
    would walk through a million objects of TensorFlow: 225 ms instead of 13 to read it. For a
    process that does nothing but serve.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
