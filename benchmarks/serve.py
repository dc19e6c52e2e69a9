"""Serving side by side: `python benchmarks/serve.py [--quick] [--padding same] [--soak MINUTES]`.

One SavedModel, 256² images, 1, 4 and 16 clients: the embedded server over gRPC, over REST as
numbers and as PNG files, KServe's Python server with the same REST requests, and the bare model
called in a process of its own. All are up at once and take turns, so that a busy machine is busy
for all; the clients are a process of their own, on the same machine. JSON and a plot go to
benchmarks/results. KServe's environment: `python tests/oracles/environments.py kserve`; without
one it is skipped, and said. `--soak` is told in serve_soak.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import serve_soak
import tensorflow as tf
from serve_processes import Bare, Clients, Embedded, KServe, Server, publish

from keras_unet.serving.graph import tiling

RESULTS = Path(__file__).parent / "results"
CLIENTS = (1, 4, 16)
BARE, GRPC = "the bare call", "embedded, gRPC"
BARE_ALONE = "the bare call, image by image"
JSON, PNG = "embedded, REST, numbers", "embedded, REST, PNG"
KSERVE_JSON, KSERVE_PNG = "KServe, REST, numbers", "KServe, REST, PNG"


def throughput(ends: list[float]) -> float:
    """Answers a second, from the first answer to the last: whole batches, no start, no end."""
    later = [end for end in ends if end > ends[0] + 0.01]  # not those of the first batch
    return len(later) / (later[-1] - ends[0]) if later else 0.0


class Cell:
    """One contender at one number of clients, over all rounds."""

    def __init__(self) -> None:
        self.seconds: list[list[float]] = []
        self.rates: list[float] = []
        self.errors: dict[str, int] = {}

    def summary(self) -> dict[str, object]:
        every = [value for turn in self.seconds for value in turn]
        p50, p99 = np.percentile(every, (50, 99)) if every else (np.nan, np.nan)
        return {
            "p50_ms": 1e3 * float(p50),
            "p99_ms": 1e3 * float(p99),
            "images_a_second": float(np.median(self.rates)),
            "each_turn": self.rates,
            "requests": len(every),
            "errors": self.errors,
        }


def measure(
    servers: dict[str, tuple[Server, str]], bare: Bare, seconds: float, rounds: int
) -> dict[str, dict[int, Cell]]:
    """All contenders at all numbers of clients, turn by turn."""
    cells = {name: {n: Cell() for n in CLIENTS} for name in (BARE, *servers)}
    with Clients() as clients:
        for server, kind in servers.values():
            clients.load(server, kind, 2, 1.0)  # opens, compiles
        for turn in range(rounds):
            for n in CLIENTS:
                took = bare.calls(n, seconds)
                cells[BARE][n].seconds.append(took)
                cells[BARE][n].rates.append(n * len(took) / sum(took))
                for name, (server, kind) in servers.items():
                    found = clients.load(server, kind, n, seconds)
                    cell = cells[name][n]
                    cell.seconds.append(found["seconds"])
                    cell.rates.append(throughput(found["ends"]))
                    for error, count in found["errors"].items():
                        cell.errors[error] = cell.errors.get(error, 0) + count
            print(f"round {turn + 1} of {rounds}", flush=True)
    return cells


def checks(cells: dict[str, dict[int, Cell]]) -> list[dict[str, object]]:
    """What the project asked of itself. Rates: the median of each turn's ratio."""

    def rates(name: str, n: int) -> list[float]:
        return cells[BARE][1].rates if name == BARE_ALONE else cells[name][n].rates

    def ratio(one: str, other: str, n: int) -> float:
        pairs = zip(rates(one, n), rates(other, n), strict=True)
        return float(np.median([a / b for a, b in pairs]))

    def median(name: str) -> float:
        turns = cells[name][1].seconds
        return float(np.median([np.median(turn) for turn in turns]))

    bare, grpc = median(BARE), median(GRPC)
    limit = max(0.005, 0.1 * bare)
    found: list[dict[str, object]] = [
        {
            "what": "one client, gRPC: milliseconds more than the bare call",
            "found": 1e3 * (grpc - bare),
            "required": f"at most {1e3 * limit:.1f}",
            "met": grpc - bare <= limit,
        }
    ]
    rows = [(GRPC, BARE, 16, 0.95), (JSON, KSERVE_JSON, 16, 1.5), (GRPC, KSERVE_JSON, 16, 1.5)]
    rows += [(GRPC, BARE_ALONE, 16, None), (PNG, KSERVE_PNG, 16, None)]  # a PNG takes no time:
    rows += [(BARE_ALONE, KSERVE_PNG, 16, None)]  # the network bounds what a server can gain
    for one, other, n, least in rows:
        if {one, other} <= {*cells, BARE_ALONE}:
            got = ratio(one, other, n)
            what = f"{n} clients, images a second: {one} / {other}"
            required = "not required" if least is None else f"at least {least:.2f}"
            met = None if least is None else got >= least
            found.append({"what": what, "found": got, "required": required, "met": met})
    return found


def plot(cells: dict[str, dict[int, Cell]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(cells):
        rows = [cells[name][n].summary() for n in CLIENTS]
        style = "--" if "KServe" in name else ":" if name == BARE else "-"
        options = {"color": f"C{place}", "marker": "o", "linestyle": style}
        left.plot(CLIENTS, [row["images_a_second"] for row in rows], label=name, **options)
        right.plot(CLIENTS, [row["p99_ms"] for row in rows], **options)
        right.plot(CLIENTS, [row["p50_ms"] for row in rows], alpha=0.4, **options)
    left.set(ylabel="256² images a second", ylim=(0, None))
    right.set(ylabel="milliseconds, p99 (pale: p50)", yscale="log")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="clients (bare: images in the batch)")
        axes.set_xticks(CLIENTS, [str(n) for n in CLIENTS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--padding", choices=("valid", "same"), default="valid")
    parser.add_argument("--seconds", type=float, default=8.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two rounds of 2 s")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="80 %% load, one switch")
    args = parser.parse_args()
    seconds, rounds = (2.0, 2) if args.quick else (args.seconds, args.rounds)
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "machine": platform.machine()}
    machine |= {"python": platform.python_version(), "tensorflow": tf.__version__}
    with tempfile.TemporaryDirectory() as work:
        version, structure = publish(Path(work), args.filters, args.padding)
        result = {"filters": args.filters, "padding": args.padding, "image": 256}
        result |= {"input": tiling(structure).form.input_for(256), "machine": machine}
        if args.soak:
            result |= serve_soak.soak(version, 60 * args.soak)
            (RESULTS / "serve_soak.json").write_text(json.dumps(result, indent=2) + "\n")
            serve_soak.plot(result, RESULTS / "serve_soak.png")
            return
        skipped = {}
        with Embedded(version.parent.parent) as ours, Bare(version) as bare:
            servers: dict[str, tuple[Server, str]] = {
                GRPC: (ours, "grpc"),
                JSON: (ours, "json"),
                PNG: (ours, "png"),
            }
            try:
                peer = KServe(version)
            except (OSError, RuntimeError) as error:
                skipped["KServe"] = str(error)
                cells = measure(servers, bare, seconds, rounds)
            else:
                with peer:
                    servers |= {KSERVE_JSON: (peer, "json"), KSERVE_PNG: (peer, "png")}
                    cells = measure(servers, bare, seconds, rounds)
    for name, row in cells.items():
        for n, cell in row.items():
            one = cell.summary()
            print(
                f"{name:24s} {n:2d} clients  p50 {one['p50_ms']:7.1f} ms  p99 "
                f"{one['p99_ms']:7.1f} ms  {one['images_a_second']:6.2f} images/s"
                + (f"  errors {one['errors']}" if one["errors"] else "")
            )
    found = checks(cells)
    for one in found:
        verdict = {True: ": met", False: ": NOT met", None: ""}[one["met"]]
        print(f"{one['what']}: {one['found']:.2f}, {one['required']}{verdict}")
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")
    table = {name: {n: c.summary() for n, c in row.items()} for name, row in cells.items()}
    result |= {"seconds": seconds, "rounds": rounds, "contenders": table}
    result |= {"required": found, "skipped": skipped}
    name = "serve" if args.padding == "valid" else "serve_same"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(cells, RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
