"""Clients of a server, in a process of their own: `python serve_load.py`.

Each line of standard input is a `Load` as JSON; answers with a line, what `Loaded` holds. A client
is a thread that sends a prepared request, waits for the answer and sends the next: at most
`clients` are under way. With `rate`, requests are sent at that many a second, evenly, and the time
of one counts from when it was due, so that a server that stands still is not flattered.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PREDICT = "/tensorflow.serving.PredictionService/Predict"


class Load(NamedTuple):
    """What to send: a file's bytes to "host:port", as gRPC's Predict or POSTed to `path`."""

    address: str
    path: str | None
    body: str
    clients: int
    seconds: float
    rate: float | None = None


class Loaded(NamedTuple):
    """Of each answer: when it came, seconds from the start, and after how many. And the errors."""

    ends: list[float]
    seconds: list[float]
    errors: dict[str, int]


def sender(load: Load) -> tuple[Callable[[], None], Callable[[], None]]:
    """(sends once and reads the answer, closes)."""
    body = Path(load.body).read_bytes()
    if load.path is None:
        import grpc

        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(load.address, options)
        call = channel.unary_unary(PREDICT)
        metadata = [("keras-unet-tensor-content", "1")]

        def predict() -> None:
            call(body, metadata=metadata, timeout=60.0)

        return predict, channel.close
    connection = http.client.HTTPConnection(load.address, timeout=60.0)
    headers = {"Content-Type": "application/json"}

    def post() -> None:
        try:
            connection.request("POST", load.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except Exception:
            connection.close()  # the next request opens it again
            raise
        if response.status != 200:
            raise RuntimeError(f"{response.status} {answer[:200]!r}")

    return post, connection.close


def run(load: Load) -> Loaded:
    """Sends for `load.seconds`."""
    ends: list[float] = []
    seconds: list[float] = []
    errors: Counter[str] = Counter()
    lock = threading.Lock()
    number = 0
    start = time.perf_counter() + 0.05

    def due() -> float | None:
        """When the next request is to be sent; None after the last."""
        nonlocal number
        now = time.perf_counter()
        with lock:
            at = max(now, start) if load.rate is None else start + number / load.rate
            number += 1
        return at if at < start + load.seconds else None

    def client() -> None:
        send, close = sender(load)
        while (at := due()) is not None:
            time.sleep(max(0.0, at - time.perf_counter()))
            try:
                send()
            except Exception as error:
                with lock:
                    errors[f"{type(error).__name__}: {error}"[:300]] += 1
                continue
            end = time.perf_counter()
            with lock:
                ends.append(end - start)
                seconds.append(end - at)
        close()

    threads = [threading.Thread(target=client) for _ in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Loaded(ends, seconds, dict(errors))


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(Load(**json.loads(line)))._asdict()), flush=True)
