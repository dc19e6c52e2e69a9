"""Work in a thread that leaves the processor to others."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from keras_unet.serving.server.runtime import NICE, in_background


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's own niceness is Linux's")
def test_the_work_alone_is_nice():
    before = niceness()
    assert in_background(niceness) == max(before, NICE)
    assert niceness() == before


def test_what_it_gives_and_raises_comes_back():
    assert in_background(lambda: [1]) == [1]
    with pytest.raises(KeyError, match="gone"):
        in_background(lambda: {}["gone"])
