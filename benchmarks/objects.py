"""Objects beside StarDist and Cellpose: `python benchmarks/objects.py DATA --runs FOLDER`.

Each is trained from random weights on the same images, in its own environment, on one core, for as
many minutes, two side by side: StarDist, then Cellpose, each beside a training of ours, of seeds 0
and 1, with no option but --instances. Nobody sees the images that are scored. DATA is the folder
`dsb2018_fluo` with `train`, `val`, `val520`, each of `images/` and `labels/`. Then each predicts
alone, on one core, the images of a size once before they are timed. Scored by this package, and by
StarDist's scorer. What is in FOLDER already is not done again. JSON and a plot go to
benchmarks/results.

Environments are made where they are missing, see tests/oracles/environments.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_unet.data import LabelRule, load_samples
from keras_unet.evaluation import object_scores
from keras_unet.machine import cpu_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracles"))
from environments import PROJECT, folder_of, make

HERE = Path(__file__).parent
PEER = HERE / "objects_peer.py"
OURS = "keras_unet"
PEERS = ("stardist", "cellpose")
NAMES = {OURS: "keras-unet", "stardist": "StarDist", "cellpose": "Cellpose"}
SETS = ("val", "val520")
SCORES = {"f1": "F1, IoU 0.5", "f1_75": "F1, IoU 0.75", "mean_ap": "mean AP, IoU 0.5 … 0.95"}
COLOURS = {OURS: "#0072b2", "stardist": "#e69f00", "cellpose": "#999999"}


class Training(NamedTuple):
    """One training of a contender."""

    contender: str
    seed: int

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.contender}-{self.seed}"


ROUNDS = [[Training(OURS, seed), Training(peer, 0)] for seed, peer in enumerate(PEERS)]


class Bench:
    """Where everything is, and which Python each contender has."""

    def __init__(self, data: Path, runs: Path, environments: Path) -> None:
        self.data, self.runs = data, runs
        self.pythons = {OURS: sys.executable}
        for peer in PEERS:
            folder = environments / folder_of(peer).name
            if not (folder / "bin" / "python").exists():
                make(peer, folder)
            self.pythons[peer] = str(folder / "bin" / "python")
        runs.mkdir(parents=True, exist_ok=True)
        for name in ("train", *SETS):
            self._pack(name)

    def arrays(self, name: str) -> Path:
        return self.runs / f"{name}.npz"

    def _pack(self, name: str) -> None:
        """Images and labels of a set, for who has no reader of our files."""
        samples, _ = load_samples(
            self.data / name, rule=LabelRule(kind="instances"), need_labels=True
        )
        packed = {f"image_{k:03d}": s.image[..., 0] for k, s in enumerate(samples)}
        packed |= {f"label_{k:03d}": s.instances for k, s in enumerate(samples)}
        np.savez_compressed(self.arrays(name), **packed)

    def start(self, core: int, command: Sequence[object], log: Path) -> subprocess.Popen:
        """A process on one core; its threads are as many."""
        alone = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
        alone |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        with log.open("a") as file:
            return subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *map(str, command)],
                env={**os.environ, **alone},
                stdout=file,
                stderr=file,
            )

    def train(self, trainings: Sequence[Training], minutes: float, cores: Sequence[int]) -> None:
        """Those that are not done, side by side; notes the processor time that each took.

        Raises:
            RuntimeError: one of them fails.
        """
        running = {}
        for one, core in zip(trainings, cores, strict=True):
            folder = one.folder(self.runs)
            if not self._cost(one).exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that was stopped
                log = self.runs / f"{folder.name}.log"
                command = self._training(one, minutes)
                print(f"{folder.name}: see {log}", file=sys.stderr, flush=True)
                running[self.start(core, command, log).pid] = one
        while running:
            pid, status, used = os.wait4(-1, 0)
            one = running.pop(pid)
            if status:
                for other in running:
                    os.kill(other, signal.SIGTERM)
                raise RuntimeError(f"{one} ended with {os.waitstatus_to_exitcode(status)}")
            minutes_of = {"processor_minutes": (used.ru_utime + used.ru_stime) / 60}
            self._cost(one).write_text(json.dumps(minutes_of))

    def _cost(self, one: Training) -> Path:
        return self.runs / f"{one.folder(self.runs).name}.cost.json"

    def _training(self, one: Training, minutes: float) -> list[object]:
        folder = one.folder(self.runs)
        if one.contender != OURS:
            where = [self.arrays("train"), folder, minutes, one.seed]
            return [self.pythons[one.contender], PEER, "train", one.contender, *where]
        settings = {"minutes": minutes, "seed": one.seed, "output": self.runs, "name": folder.name}
        command = [sys.executable, "-m", "keras_unet", "train", self.data / "train", "--instances"]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        return command

    def result(self, one: Training, core: int) -> dict[str, Any]:
        """What a training took, and its scores and seconds an image on each set."""
        folder = one.folder(self.runs)
        row: dict[str, Any] = {"contender": NAMES[one.contender], "seed": one.seed}
        row |= json.loads(self._cost(one).read_text())
        if one.contender == OURS:
            history = (folder / "history.csv").read_text().splitlines()
            last = dict(zip(history[0].split(","), history[-1].split(","), strict=True))
            row["steps"] = int(last["step"])
        else:
            row |= json.loads((folder / "training.json").read_text())
        for name in SETS:
            found = self.runs / f"{folder.name}-{name}.npz"
            if not found.exists():
                command = [self.pythons[one.contender], PEER, "predict", one.contender]
                log = self.runs / f"{folder.name}.log"
                command += [folder, self.arrays(name), found]
                if self.start(core, command, log).wait():
                    raise RuntimeError(f"{folder.name} does not predict: see {log}")
            row[name] = {**self._scores(name, found), "independent": self._independent(name, found)}
        return row

    def _scores(self, name: str, result: Path) -> dict[str, float]:
        with np.load(self.arrays(name)) as true, np.load(result) as found:
            labels = [key for key in sorted(found.files) if key.startswith("label")]
            scores = object_scores([true[k] for k in labels], [found[k] for k in labels])
            seconds = found["seconds"]
        accuracy = scores["average_precision"]["0.75"]
        return {
            "f1": scores["f1"],
            "f1_75": 2 * accuracy / (1 + accuracy),
            "mean_ap": scores["map_pooled"],
            "precision": scores["precision"],
            "recall": scores["recall"],
            "merged": scores["merged"],
            "seconds_an_image": float(seconds.mean()),
        }

    def _independent(self, name: str, result: Path) -> dict[str, float]:
        command = [self.pythons["stardist"], str(PEER), "score", self.arrays(name), result]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def comparisons(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Was each training of ours ahead of the one beside it, in every score and in time?"""
    found = []
    for trainings in ROUNDS:
        ours, other = (
            next(r for r in rows if (r["contender"], r["seed"]) == (NAMES[t.contender], t.seed))
            for t in trainings
        )
        for name in SETS:
            for score in (*SCORES, "seconds_an_image"):
                one, two = ours[name][score], other[name][score]
                ahead = one < two if score == "seconds_an_image" else one > two
                found.append(
                    {"set": name, "score": score, "other": other["contender"]}
                    | {"ours": one, "theirs": two, "ahead": ahead}
                )
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    columns = [*SCORES.values(), "seconds an image"]
    lines = []
    for name in SETS:
        lines += [f"| `{name}` | {' | '.join(columns)} |", "| -- " * (len(columns) + 1) + "|"]
        for row in rows:
            scores = [row[name][score] for score in (*SCORES, "seconds_an_image")]
            label = f"{row['contender']}, seed {row['seed']}"
            lines.append(f"| {label} | {' | '.join(f'{value:.3f}' for value in scores)} |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], minutes: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=150, layout="constrained")
    axes = figure.subplots(len(SETS), 2, width_ratios=(3, 1), squeeze=False)
    colours = {NAMES[key]: colour for key, colour in COLOURS.items()}
    width = 0.8 / len(rows)
    for name, (left, right) in zip(SETS, axes, strict=True):
        for k, row in enumerate(rows):
            label = f"{row['contender']}, seed {row['seed']}"
            colour = colours[row["contender"]]
            values = [row[name][score] for score in SCORES]
            places = np.arange(len(SCORES)) + (k - (len(rows) - 1) / 2) * width
            bars = left.bar(places, values, 0.9 * width, color=colour, label=label)
            left.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
            bar = right.barh(label, row[name]["seconds_an_image"], color=colour)
            right.bar_label(bar, fmt="%.2f", fontsize=7, padding=2)
        left.set_xticks(range(len(SCORES)), list(SCORES.values()), fontsize=8)
        left.set(ylim=(0, 1), ylabel=name)
        right.invert_yaxis()
        right.tick_params(labelsize=7)
        right.set_xscale("log")
        right.set_xlabel("seconds an image, one core", fontsize=8)
        for part in (left, right):
            part.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Nuclei: {minutes:g} minutes of training on one core each", fontsize=10)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder dsb2018_fluo")
    parser.add_argument("--runs", type=Path, required=True, help="folder of trainings and results")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--environments", type=Path, default=PROJECT, help="folder they are in")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the JSON")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("two cores are needed: two train side by side")
    bench = Bench(args.data, args.runs.resolve(), args.environments.resolve())
    load = os.getloadavg()[0]
    for trainings in ROUNDS:
        bench.train(trainings, args.minutes, cores[: len(trainings)])
    rows = [bench.result(one, cores[0]) for trainings in ROUNDS for one in trainings]
    rows.sort(key=lambda row: row["contender"] != NAMES[OURS])
    print(markdown(rows))
    compared = comparisons(rows)
    for one in compared:
        word = "ahead" if one["ahead"] else "NOT ahead"
        print(
            f"{one['set']} {one['score']}: {one['ours']:.3f}, {one['other']} "
            f"{one['theirs']:.3f}: {word}"
        )
    machine = {"processor": cpu_name(), "cores": len(cores), "load_before": load}
    machine |= {"python": platform.python_version()}
    args.output.mkdir(parents=True, exist_ok=True)
    document = {"minutes": args.minutes, "machine": machine, "rows": rows, "compared": compared}
    (args.output / "objects.json").write_text(json.dumps(document, indent=2) + "\n")
    plot(rows, args.minutes, args.output / "objects.png")


if __name__ == "__main__":
    main()
