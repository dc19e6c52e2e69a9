"""Few images, from scratch or from a model: `python benchmarks/finetune.py DATA --runs FOLDER`.

Tissue from 3, 5 and 10 images and axons from 1 and 3, each from random weights and from `nuclei`
(fluorescence), in the same minutes, with the same images, network and tiles; three seeds, each with
other images. DATA holds `dsb2018_rgb` and `axon_sem`; scores are of their `val`, which no run
sees: a run validates on its own few images, since all of them are to be learned from. Trainings are
processes of their own; what is in FOLDER already is not done again, and one that was stopped goes
on. All scores that are there go to finetune.json, with a picture, and as a table to the terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
KERAS_UNET = [sys.executable, "-c", "from keras_unet.cli import main; main()"]
SAME = {"model.filters": 16, "model.padding": "same"}  # what the plan would choose by the ancestor


class Study(NamedTuple):
    """A data set, how many of its images are trained on, and what is scored."""

    folder: str
    counts: tuple[int, ...]
    flags: tuple[str, ...]
    score: tuple[str, ...]  # in an evaluation's total
    title: str


STUDIES = {
    "tissue": Study(
        "dsb2018_rgb", (3, 5, 10), ("--instances",), ("objects", "f1"), "object F1 (IoU 0.5)"
    ),
    "axons": Study("axon_sem", (1, 3), (), ("mean_iou",), "mean IoU of three classes"),
}


class Job(NamedTuple):
    """One training; init None: from scratch."""

    study: str
    count: int
    init: str | None
    seed: int

    @property
    def arm(self) -> str:
        return "from scratch" if self.init is None else f"from {Path(self.init).stem}"

    @property
    def name(self) -> str:
        return f"{self.study}-{self.count}-{self.arm.replace(' ', '-')}-{self.seed}"


def jobs(args: argparse.Namespace) -> Iterator[Job]:
    for seed in args.seeds:
        for study in args.studies:
            for count in args.counts or STUDIES[study].counts:
                for init in (None, args.init):
                    yield Job(study, count, init, seed)


def subset(job: Job, args: argparse.Namespace) -> Path:
    """A folder of `count` images, drawn by the seed; a larger one holds the smaller one's."""
    source = args.data / STUDIES[job.study].folder / "train"
    folder = args.runs / "data" / f"{job.study}-{job.count}-{job.seed}"
    images = sorted((source / "images").iterdir())
    drawn = np.random.default_rng(job.seed).permutation(len(images))[: job.count]
    for image in (images[i] for i in drawn):
        label = next((source / "labels").glob(f"{image.stem}.*"))
        for file in (image, label):
            target = folder / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(file, target)
    return folder


def train(job: Job, args: argparse.Namespace) -> None:
    """Trains and scores, unless that is done; what the processes print goes to a log.

    Raises:
        subprocess.CalledProcessError: a process fails.
    """
    folder, study = args.runs / job.name, STUDIES[job.study]
    if (folder / "scores" / "evaluation.json").exists():
        return
    args.runs.mkdir(parents=True, exist_ok=True)
    with (args.runs / f"{job.name}.log").open("a") as log:
        print(f"{job.name}: see {log.name}", file=sys.stderr, flush=True)

        def run(*command: str) -> None:
            subprocess.run([*KERAS_UNET, *command], check=True, stdout=log, stderr=log)

        if folder.exists():
            run("train", "--resume", str(folder))
        else:
            data = str(subset(job, args))
            settings: dict[str, Any] = {**SAME, "seed": job.seed, "minutes": args.minutes}
            settings |= {"output": args.runs, "name": job.name}
            settings |= {} if job.init is None else {"init": job.init}
            chosen = [
                part for pair in settings.items() for part in ("--set", "{}={}".format(*pair))
            ]
            run("train", data, "--validation", data, *study.flags, *chosen)
        held_out = str(args.data / study.folder / "val")
        run("evaluate", str(folder), held_out, "--output", str(folder / "scores"))


def score_of(job: Job, runs: Path) -> float | None:
    """The score on the held-out images; None: not there yet."""
    path = runs / job.name / "scores" / "evaluation.json"
    if not path.exists():
        return None
    value = json.loads(path.read_text())["total"]
    for key in STUDIES[job.study].score:
        value = value[key]
    return float(value)


def collected(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The scores that are there, also of earlier calls."""
    rows = []
    for study, counts in ((name, one.counts) for name, one in STUDIES.items()):
        for count in sorted({*counts, *(args.counts or ())}):
            for init in (None, args.init):
                for seed in range(100):
                    job = Job(study, count, init, seed)
                    if (score := score_of(job, args.runs)) is not None:
                        row = {"study": study, "images": count, "arm": job.arm, "seed": seed}
                        rows.append({**row, "score": score})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line a data set and number of images, a column an arm: mean ± deviation over the seeds."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    lines = [f"| data | images | {' | '.join(arms)} |", "| -- " * (len(arms) + 2) + "|"]
    for study, count in dict.fromkeys((row["study"], row["images"]) for row in rows):
        cells = []
        for arm in arms:
            found = values(rows, study, arm, count)
            spread = f" ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.3f}{spread}" if found else "")
        lines.append(f"| {study} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def values(rows: list[dict[str, Any]], study: str, arm: str, count: int) -> list[float]:
    wanted = {"study": study, "arm": arm, "images": count}
    return [row["score"] for row in rows if wanted.items() <= row.items()]


def draw(rows: list[dict[str, Any]], minutes: float, path: Path) -> None:
    """A panel a data set: each seed a dot, their mean a line over the number of images."""
    from matplotlib.figure import Figure

    studies = list(dict.fromkeys(row["study"] for row in rows))
    figure = Figure(figsize=(4.6 * len(studies), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False)[0]
    for axes, study in zip(panels, studies, strict=True):
        counts = sorted({row["images"] for row in rows if row["study"] == study})
        for arm in dict.fromkeys(row["arm"] for row in rows):
            points = [(n, value) for n in counts for value in values(rows, study, arm, n)]
            means = [(n, np.mean(v)) for n in counts if (v := values(rows, study, arm, n))]
            (line,) = axes.plot(*zip(*means, strict=True), marker="o", label=arm)
            axes.plot(*zip(*points, strict=True), ".", color=line.get_color(), alpha=0.5)
        axes.set(title=study, xlabel="images trained on", ylabel=STUDIES[study].title)
        axes.set_xticks(counts)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{minutes:g} minutes a training", fontsize=10)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--minutes", type=float, required=True, help="of each training")
    parser.add_argument("--init", default="nuclei", help="a pretrained name, run or .keras file")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--counts", type=int, nargs="+", help="of images; default: the studies'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=HERE / "results", help="of JSON and picture")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for job in jobs(args):
        train(job, args)
    rows = collected(args)
    print(markdown(rows))
    args.output.mkdir(parents=True, exist_ok=True)
    scored = {name: study.title for name, study in STUDIES.items()}
    document = {"minutes": args.minutes, "settings": SAME, "scores": scored, "rows": rows}
    (args.output / "finetune.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(rows, args.minutes, args.output / "finetune.png")


if __name__ == "__main__":
    main()
