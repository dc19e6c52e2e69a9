"""The pipeline's data steps at scale: `python benchmarks/pipeline.py --images 1000 10000`.

ImageExampleGen, the statistics and checks, and Transform run by TFX's local runner over synthetic
images of touching cells, with one Beam worker in the process or with several worker processes
(`--workers 1 2`). For each step: time, the processors' time (which other work on the machine
changes little), and the greatest memory of all its processes together (resident, sampled), which
should not grow with the number of images. It needs the TFX environment.

`--distinct` images are drawn and the others are links to them under names of their own: drawing
10,000 would take longer than what is measured, and every one is read, checked and written.
Measurements of the same size and workers replace older ones in benchmarks/results/pipeline.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from keras_unet.data import make_cells

RESULT = Path(__file__).parent / "results" / "pipeline.json"
STEPS = ("ImageExampleGen", "StatisticsGen", "Transform")
EVERY = 0.25  # seconds between two looks at the memory


def draw(folder: Path, size: int, distinct: int) -> None:
    """`distinct` images and labels in `folder`, unless they are there."""
    for seed in range(distinct):
        image, labels = folder / "images" / f"{seed}.png", folder / "labels" / f"{seed}.png"
        if not labels.exists():
            for path in (image, labels):
                path.parent.mkdir(parents=True, exist_ok=True)
            pixels, cells = make_cells(size, seed=seed)
            Image.fromarray(pixels).save(image)
            Image.fromarray(cells.astype(np.uint16)).save(labels)


def link(drawn: Path, folder: Path, count: int) -> None:
    """A data set of `count` images: links to those drawn."""
    for kind in ("images", "labels"):
        files = sorted((drawn / kind).iterdir())
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            os.link(files[number % len(files)], folder / kind / f"cells_{number:06d}.png")


def run_pipeline(data: Path, root: Path, workers: int) -> None:
    """In a process of its own: the data steps, and their times as TFX's metadata has them."""
    from tfx.orchestration import metadata, pipeline
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner

    from keras_unet.data import LabelRule
    from pipelines.checks.nodes import data_checks, transform
    from pipelines.checks.settings import CheckSettings
    from pipelines.examples import ExampleOptions, ImageExampleGen
    from pipelines.sections import BeamSettings

    rule = LabelRule(kind="instances")
    examples = ImageExampleGen(str(data), ExampleOptions(rule=rule))
    records = examples.outputs["examples"]
    checks = data_checks(records, CheckSettings.of(rule, 1), str(root / "schema"))
    connection = metadata.sqlite_metadata_connection_config(str(root / "metadata.sqlite"))
    LocalDagRunner().run(
        pipeline.Pipeline(
            pipeline_name="scale",
            pipeline_root=str(root / "root"),
            components=[examples, *checks.nodes, transform(records, checks, 1, "dataset")],
            enable_cache=False,
            metadata_connection_config=connection,
            beam_pipeline_args=BeamSettings(workers=workers).flags,
        )
    )
    with metadata.Metadata(connection) as handle:
        store = handle.store
        kinds = {kind.id: kind.name.rpartition(".")[2] for kind in store.get_execution_types()}
        found = {
            kinds[e.type_id]: (
                e.create_time_since_epoch / 1e3,
                e.last_update_time_since_epoch / 1e3,
            )
            for e in store.get_executions()
        }
    (root / "times.json").write_text(json.dumps(found))


def measure(data: Path, images: int, workers: int, folder: Path) -> dict[str, Any]:
    """Seconds, peak of memory and bytes written, step by step."""
    root = folder / "run"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--run",
        str(data),
        str(root),
        str(workers),
    ]
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    seen: list[tuple[float, int, float]] = []
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet)
        while process.poll() is None:
            seen.append((time.time(), *_looked_at(process.pid)))
            time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"the pipeline failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    times = json.loads((root / "times.json").read_text())
    steps = {}
    for step in STEPS:
        first, last = times[step]
        during = [look for look in seen if first <= look[0] <= last] or [(0.0, 0, 0.0)]
        cpu = during[-1][2] - during[0][2]
        steps[step] = {
            "seconds": round(last - first, 1),
            "cpu_seconds": round(cpu, 1),
            "peak_mib": round(max(size for _, size, _ in during) / 2**20),
            "written_mib": round(_bytes(root / "root" / step) / 2**20),
        }
    shutil.rmtree(root)
    return {"images": images, "workers": workers, "steps": steps}


def _looked_at(pid: int) -> tuple[int, float]:
    """Resident bytes, and processors' seconds so far, of a process and all that it started."""
    size, cpu = 0, 0.0
    try:
        parent = psutil.Process(pid)
        spent = parent.cpu_times()
        cpu = spent.children_user + spent.children_system  # of those that have ended
        for process in [parent, *parent.children(recursive=True)]:
            spent = process.cpu_times()
            cpu += spent.user + spent.system
            size += process.memory_info().rss
    except psutil.Error:
        pass  # one ended meanwhile
    return size, cpu


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def show(runs: list[dict[str, Any]], console: Console) -> None:
    """All measurements, and how memory grows from the smallest set to the largest."""
    table = Table("images", "workers", "step", "seconds", "CPU s", "peak MiB", "written MiB")
    for run in runs:
        for step, found in run["steps"].items():
            table.add_row(str(run["images"]), str(run["workers"]), step, *map(str, found.values()))
    console.print(table)
    for workers in sorted({run["workers"] for run in runs}):
        few, *_, many = [run for run in runs if run["workers"] == workers] * 2
        if few["images"] == many["images"]:
            continue
        between = many["images"] - few["images"]
        for step in STEPS:
            more = {k: many["steps"][step][k] - v for k, v in few["steps"][step].items()}
            console.print(
                f"{step}, {workers} worker{'s' * (workers > 1)}, from {few['images']:,} to "
                f"{many['images']:,} images: {1e3 * more['seconds'] / between:.1f} ms and "
                f"{1e3 * more['cpu_seconds'] / between:.1f} ms of CPU an image; memory "
                f"{more['peak_mib']:+d} MiB, {1024 * more['peak_mib'] / between:+.1f} KiB an image"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=512, help="height and width, pixels")
    parser.add_argument("--distinct", type=int, default=64, help="images that are drawn")
    parser.add_argument("--folder", type=Path, help="for images and runs; default: a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the drawn images for next time")
    parser.add_argument("--run", nargs=3, metavar=("DATA", "ROOT", "WORKERS"), help="internal")
    options = parser.parse_args()
    if options.run:
        data, root, workers = options.run
        return run_pipeline(Path(data), Path(root), int(workers))
    console = Console()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="pipeline-"))
    drawn = folder / f"drawn-{options.size}"
    draw(drawn, options.size, options.distinct)
    old = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    try:
        for images in options.images:
            data = folder / f"data-{images}"
            shutil.rmtree(data, ignore_errors=True)
            link(drawn, data, images)
            for workers in options.workers:
                run = {"size": options.size, **measure(data, images, workers, folder)}
                key = [run[name] for name in ("size", "images", "workers")]
                old = [r for r in old if [r[n] for n in ("size", "images", "workers")] != key]
                run["load"] = round(os.getloadavg()[0], 1)  # of the machine: others slow it down
                old = sorted([*old, run], key=lambda r: (r["size"], r["workers"], r["images"]))
                machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
                RESULT.write_text(json.dumps({"machine": machine, "runs": old}, indent=1) + "\n")
                console.print(f"{images} images, {workers} workers: done")
            shutil.rmtree(data)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    show([run for run in old if run["size"] == options.size], console)


if __name__ == "__main__":
    main()
