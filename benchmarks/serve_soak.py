"""The embedded server at 80 % of what it can do, for long: `python benchmarks/serve.py --soak 60`.

Capacity is measured first, by 16 clients without a pause over gRPC; then requests come evenly at
0.8 of it. In the midst a new version is published. Told are errors, p50 and p99 of each five
minutes (of each twelfth, where the whole is shorter than an hour), which version answered, and the
server's memory. The time of a request counts from when it was due. To benchmarks/results go
serve_soak.json and a plot.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from serve_processes import MODEL, Clients, Embedded

LOAD, CLIENTS, PARTS = 0.8, 64, 12
SETTLING = 20.0  # seconds of load before the memory counts


class _Every:
    """Calls a function at a regular interval, in a thread, until the block ends."""

    def __init__(self, seconds: float, work: Callable[[], None]) -> None:
        self._seconds, self._work = seconds, work
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self._work()

    def __enter__(self) -> _Every:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def publish_again(version: Path) -> Path:
    """The same model as the next version, appearing at once."""
    following = version.with_name(str(int(version.name) + 1))
    beside = version.with_name(f".unfinished-{following.name}")
    shutil.copytree(version, beside)
    return beside.rename(following)


def soak(version: Path, seconds: float) -> dict[str, Any]:
    """Serves `version` and its successor for so long; see the module."""
    from keras_unet.serving.client import Client

    with Embedded(version.parent.parent) as server, Clients() as clients:
        clients.load(server, "grpc", 2, 1.0)  # opens, compiles
        ends = clients.load(server, "grpc", 16, max(10.0, min(60.0, seconds / 10)))["ends"]
        later = [end for end in ends if end > ends[0] + 0.01]
        capacity = len(later) / (later[-1] - ends[0])
        rate = LOAD * capacity
        print(f"capacity {capacity:.2f} images a second; {seconds / 60:g} minutes at {rate:.2f}")
        memory: list[tuple[float, int]] = []
        start = time.perf_counter()

        def look() -> None:
            memory.append((time.perf_counter() - start, server.memory()))

        switch = threading.Timer(seconds / 2, publish_again, [version])
        switch.start()
        with _Every(seconds / 360, look):
            found = clients.load(server, "grpc", CLIENTS, seconds, rate)
        switch.join()
        with Client(f"grpc://{server.addresses['grpc']}") as client:
            states = {one["version"]: one["state"] for one in client.status(MODEL)}
        events = [e for e in server.events if e["event"] not in ("serving", "stopping")]
    return _summary(found, seconds, memory) | {
        "capacity": capacity,
        "load": LOAD,
        "rate": rate,
        "versions": states,
        "events": events,
    }


def _summary(
    found: dict[str, Any], seconds: float, memory: list[tuple[float, int]]
) -> dict[str, Any]:
    length = min(300.0, seconds / PARTS)
    due = np.array(found["ends"]) - np.array(found["seconds"])
    took = 1e3 * np.array(found["seconds"])
    parts = []
    for begin in np.arange(0.0, seconds - 1e-6, length):
        inside = took[(due >= begin) & (due < begin + length)]
        held = [size for at, size in memory if begin <= at < begin + length]
        p50, p99 = np.percentile(inside, (50, 99)) if len(inside) else (np.nan, np.nan)
        part = {
            "minute": float(begin / 60),
            "requests": len(inside),
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "memory_mb": float(np.median(held)) / 1e6 if held else None,
        }
        parts.append(part)
        print(
            f"minute {part['minute']:5.1f}: {part['requests']:5d} answers, p50 "
            f"{part['p50_ms']:.0f} ms, p99 {part['p99_ms']:.0f} ms, memory {part['memory_mb']} MB"
        )
    errors = sum(found["errors"].values())
    print(f"{len(took)} answers, {errors} errors {found['errors']}")
    settled = [(at, size) for at, size in memory if at > SETTLING]
    halves = [
        [size for at, size in settled if at < seconds / 2],
        [size for at, size in settled if at > seconds / 2 + SETTLING],
    ]
    growth = {}
    for name, half in zip(("before the switch", "after it"), halves, strict=True):
        if len(half) > 1:  # the first and the last quarter of the half
            quarter = max(1, len(half) // 4)
            growth[name] = (np.median(half[-quarter:]) - np.median(half[:quarter])) / 1e6
            print(f"memory {name}: {growth[name]:+.1f} MB")
    before, after = (
        np.percentile(took[(due >= begin * seconds) & (due < end * seconds)], 99)
        for begin, end in ((0.25, 0.5), (0.75, 1.0))
    )
    checks = [
        ("errors", float(errors), 0.0),
        ("MB that memory grows in a half, at most", max(growth.values(), default=0.0), 10.0),
        ("p99 of the last quarter / of the second", float(after / before), 1.25),
    ]
    for name, value, most in checks:
        print(f"{name}: {value:.2f}, at most {most:g}: {'met' if value <= most else 'NOT met'}")
    return {
        "required": [{"what": n, "found": value, "most": most} for n, value, most in checks],
        "minutes": seconds / 60,
        "answers": len(took),
        "errors": found["errors"],
        "parts": parts,
        "memory_growth_mb": growth,
        "memory_mb": [(round(at, 1), size / 1e6) for at, size in memory],
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """p50 and p99 of each part, and the server's memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    minutes = [part["minute"] for part in result["parts"]]
    for name, color in (("p99_ms", "#0072b2"), ("p50_ms", "#999999")):
        values = [part[name] for part in result["parts"]]
        left.step(minutes, values, where="post", color=color, label=name[:3])
    left.set(xlabel="minute", ylabel="milliseconds", ylim=(0, None))
    left.legend(frameon=False)
    at, size = zip(*result["memory_mb"], strict=True)
    right.plot(np.array(at) / 60, size, color="#0072b2")
    right.set(xlabel="minute", ylabel="server's memory, MB", ylim=(0, None))
    for axes in (left, right):
        axes.axvline(result["minutes"] / 2, color="#d55e00", linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    right.text(result["minutes"] / 2, 0, " new version", color="#d55e00", va="bottom")
    figure.savefig(path)
