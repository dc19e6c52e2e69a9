"""Trainings and their scores on real data: `python benchmarks/scores.py STUDY DATA --runs FOLDER`.

STUDY "isbi" and "dsb": `keras-unet train` beside the U-Net of most tutorials (`scores_peer.py`),
in the same time. "ablation": one change at a time, on ISBI 2012. DATA is the folder that has
`isbi2012` and `dsb2018_fluo`. Each training is a process of its own; what is in FOLDER already is
not done again, and one that was stopped goes on, so a study may be done piece by piece (`--arms`,
`--seeds`). Scores of all that is there, and of earlier runs of the same budget in the JSON in
benchmarks/results, are printed as Markdown and go to that JSON. It does not know of which code its
rows are.

`--steps` instead of `--minutes` makes a study independent of what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
KERAS_UNET = [sys.executable, "-c", "from keras_unet.cli import main; main()"]
PEER = "plain U-Net"
FOLDERS = {"isbi": "isbi2012", "dsb": "dsb2018_fluo", "ablation": "isbi2012"}
FLAGS = {"isbi": ["--isbi"], "dsb": ["--instances"], "ablation": ["--isbi"]}
FIXED = {"model.filters": 16, "tile": 572, "batch_size": 2, "steps_per_epoch": 100}
FIXED |= {"loss.class_weights": "none", "loss.w0": 1, "oversample": 0, "ema_decay": 0.999}
FIXED |= {"model.dropout": 0.5}
ARMS: dict[str, dict[str, dict[str, Any] | None]] = {
    "isbi": {"keras_unet": {}, PEER: None},
    "dsb": {"keras_unet": {}, PEER: None},
    "ablation": {
        "16 filters, valid, batch norm, elastic, w0 = 1, drop-out, moving average": {},
        "no weight map": {"loss.w0": 0},
        "the paper's weights": {"loss.w0": 10, "loss.class_weights": "balanced"},
        "no elastic field": {"augment_options.elastic_sigma": 0},
        "no batch norm": {"model.normalization": "none"},
        "same padding": {"model.padding": "same", "tile": 384},  # as many labelled pixels a step
        "32 filters": {"model.filters": 32},
        "no moving average of weights": {"ema_decay": 0},
        "bilinear reading": {"augment_options.interpolation": "bilinear"},
        "no drop-out": {"model.dropout": 0},
        "deep supervision": {"model.deep_supervision": True},
        "a third of tiles on membranes": {"oversample": 0.33},
    },
}
SCORES = {
    "isbi": ("pixel_error", "mean_dice", "v_rand"),
    "dsb": ("iou", "object_f1", "pixel_error"),
    "ablation": ("pixel_error", "mean_dice", "v_rand"),
}


class Job(NamedTuple):
    """One training."""

    study: str
    arm: str
    seed: int

    def folder(self, runs: Path) -> Path:
        number = list(ARMS[self.study]).index(self.arm)
        return runs / f"{self.study}-{number}-{self.seed}"


def budget(args: argparse.Namespace) -> list[tuple[str, Any]]:
    chosen = [("minutes", args.minutes), ("steps", args.steps)]
    return [(name, value) for name, value in chosen if value is not None]


def train(job: Job, args: argparse.Namespace) -> None:
    """Trains and scores, unless that is done; what a process prints goes to a log in the folder.

    Raises:
        subprocess.CalledProcessError: a process fails.
    """
    folder, data = job.folder(args.runs), args.data / FOLDERS[job.study]
    scored = folder / "scores" / "evaluation.json"
    if scored.exists():
        return
    options, flags = ARMS[job.study][job.arm], FLAGS[job.study]
    args.runs.mkdir(parents=True, exist_ok=True)
    with (args.runs / f"{folder.name}.log").open("a") as log:
        print(f"{folder.name} ({job.arm}): see {log.name}", file=sys.stderr, flush=True)

        def run(command: list[str]) -> None:
            subprocess.run(command, check=True, stdout=log, stderr=log)

        where = [str(data / "train"), str(data / "val")]
        if options is None:
            command = [sys.executable, str(HERE / "scores_peer.py"), *where, str(scored.parent)]
            command += [*flags, "--seed", str(job.seed)]
            for name, value in budget(args):
                command += [f"--{name}", str(value)]
            run(command)
            return
        if folder.exists():
            run([*KERAS_UNET, "train", "--resume", str(folder)])
        else:
            settings = {**(FIXED if job.study == "ablation" else {}), **options}
            settings |= {"seed": job.seed, "output": args.runs, "name": folder.name}
            command = [*KERAS_UNET, "train", where[0], "--validation", where[1]]
            command += ["--instances"] if "--instances" in flags else []
            for name, value in [*budget(args), *settings.items()]:
                command += ["--set", f"{name}={str(value).lower() if value is True else value}"]
            run(command)
        score = [*KERAS_UNET, "evaluate", str(folder), where[1]]
        score += ["--isbi"] if "--isbi" in flags else []
        if job.study != "ablation":
            output = str(folder / "symmetries")
            run([*score, "--symmetries", "all", "--output", output])
        run([*score, "--output", str(scored.parent)])


def found(
    study: str, runs: Path, table: dict[str, dict[str, list[float]]]
) -> dict[str, dict[str, list[float]]]:
    """`table` with the scores that are there: arm -> score -> one number a seed."""
    columns = ("seed", *SCORES[study])
    for arm, options in ARMS[study].items():
        places = {"": "scores"} if options is None else {"": "scores", ", symmetries": "symmetries"}
        for suffix, place in places.items():
            for seed in range(100):
                path = Job(study, arm, seed).folder(runs) / place / "evaluation.json"
                if not path.exists():
                    continue
                total = json.loads(path.read_text())["total"]
                row = table.setdefault(arm + suffix, {name: [] for name in columns})
                if seed in row["seed"]:
                    again = row["seed"].index(seed)
                    for values in row.values():
                        del values[again]
                for name, values in row.items():
                    values.append(seed if name == "seed" else number(total, name))
    return table


def number(total: dict[str, Any], name: str) -> float:
    """A score of an evaluation; `iou` is the foreground's, the last class."""
    if name == "v_rand":
        return float(total["isbi"]["v_rand"])
    if name == "object_f1":
        return float(total["objects"]["f1"])
    value = total[name]
    return float(list(value.values())[-1] if isinstance(value, dict) else value)


def markdown(table: dict[str, dict[str, list[float]]], scores: tuple[str, ...]) -> str:
    lines = [f"| | seeds | {' | '.join(scores)} |", "| --- " * (len(scores) + 2) + "|"]
    for arm, row in table.items():
        cells = []
        for name in scores:
            values = np.asarray(row[name])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}")
        lines.append(f"| {arm} | {len(row['seed'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=ARMS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: only print")
    parser.add_argument("--arms", type=int, nargs="+", help="their numbers, from 0; default all")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the JSON")
    args = parser.parse_args()
    if args.seeds and not budget(args):
        parser.error("give --minutes or --steps")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    path = args.output / f"scores_{args.study}.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    table = stored.pop("scores", {})
    document = {"study": args.study, "budget": dict(budget(args))}
    document |= {"settings": FIXED} if args.study == "ablation" else {}
    if args.seeds and stored and stored != document:
        parser.error(f"{path} has scores of {stored}, not of {document}: give another --output")
    names = list(ARMS[args.study])
    for seed in args.seeds:
        for arm in names if args.arms is None else [names[n] for n in args.arms]:
            train(Job(args.study, arm, seed), args)
    table = found(args.study, args.runs, table)
    print(markdown(table, SCORES[args.study]))
    if args.seeds:
        args.output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**document, "scores": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
