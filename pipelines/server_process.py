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
    """The server could not be started here, or was stopped: not a word on the model."""


class Addresses(NamedTuple):
    """Where a server listens: HOST:PORT."""

    grpc: str
    rest: str


@contextlib.contextmanager
def serving(folder: Path, log: Path, seconds: float) -> Iterator[Addresses]:
    """Serves the models in `folder` on free ports of this machine while the block lasts.

    On the CPU: the process that started it may hold the GPU, and a GPU rounds otherwise.

    Args:
        log: where the server's JSON lines go. seconds: until it must listen, and its limit for one
            request.

    Raises:
        NoServer: it ended, or did not listen in time, or was stopped from outside while the block
            lasted; the message has the log's end.
        ServingError: it crashed while the block lasted; likewise.
    """
    command = [sys.executable, "-c", _SERVE, str(os.getpid()), "serve", str(folder)]
    command += ["--grpc-port", "0", "--rest-port", "0"]
    command += ["--timeout", f"{max(60.0, seconds):.0f}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
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
        with _past_proxies():
            yield _addresses(process, log, time.monotonic() + seconds)
    except NoServer:
        raise
    except ServingError as error:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the connection may break before
            process.wait(1)
        if process.returncode is None:
            raise
        stopped = process.returncode in (0, -signal.SIGTERM, -signal.SIGKILL)  # no memory left, say
        kind = NoServer if stopped else ServingError
        said = f"the server ended with {process.returncode} ({error}): {tail(log)}"
        raise kind(said, "UNAVAILABLE") from error
    finally:
        _stop(process)


@contextlib.contextmanager
def _past_proxies() -> Iterator[None]:
    """Meanwhile a proxy that the environment names is not asked for this machine's own server."""
    before = os.environ.get("no_proxy")
    others = os.environ.get("NO_PROXY") if before is None else before
    os.environ["no_proxy"] = ",".join(filter(None, (others, "127.0.0.1")))
    try:
        yield
    finally:
        del os.environ["no_proxy"]
        if before is not None:
            os.environ["no_proxy"] = before


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
