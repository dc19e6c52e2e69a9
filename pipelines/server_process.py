"""`keras-unet serve` as a process that never outlives the one that started it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from keras_unet.errors import ServingError

# On Linux the kernel kills the server when the thread that started it is gone, however it went;
# asked for in the server itself, since this process may have many threads and cannot fork code.
_SERVE = """
import os, sys
parent = int(sys.argv.pop(1))
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this server is gone")
from keras_unet.cli import main
main()
"""


class NoServer(ServingError):
    """The server could not be started here: not a word on the model."""


class Addresses(NamedTuple):
    """Where a server listens: HOST:PORT."""

    grpc: str
    rest: str


@contextlib.contextmanager
def serving(folder: Path, log: Path, seconds: float) -> Iterator[Addresses]:
    """Serves the models in `folder` on free ports of this machine while the block lasts.

    Args:
        log: where the server's JSON lines go. seconds: until it must listen.

    Raises:
        NoServer: it ended, or did not listen in time; the message has the log's end.
    """
    command = [sys.executable, "-c", _SERVE, str(os.getpid()), "serve", str(folder)]
    command += ["--grpc-port", "0", "--rest-port", "0", "--engine", "embedded"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,  # a Ctrl-C is for this process, which stops it
        )
    try:
        yield _addresses(process, log, time.monotonic() + seconds)
    finally:
        _stop(process)


def _addresses(process: subprocess.Popen[bytes], log: Path, deadline: float) -> Addresses:
    while True:
        ended = process.poll()
        for line in log.read_text("utf-8", "replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                event = json.loads(line)
                if event.get("event") == "serving":
                    return Addresses(event["grpc"], event["rest"])
        if ended is not None or time.monotonic() > deadline:
            what = f"ended with {ended}" if ended is not None else "did not listen in time"
            raise NoServer(f"the server {what}: {tail(log)}", "UNAVAILABLE")
        time.sleep(0.2)


def tail(log: Path, characters: int = 1500) -> str:
    """The end of a log."""
    return log.read_text("utf-8", "replace")[-characters:].strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, ten seconds to drain, then the whole group is killed."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
