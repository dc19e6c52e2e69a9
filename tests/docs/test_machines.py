"""The files that start a training on several machines make a TF_CONFIG that training reads."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from keras_unet.machine import read_cluster

FILES = Path(__file__).parents[2] / "docs" / "machines"
SPY = '#!/bin/bash\nprintf "%s\\t%s\\n" "$TF_CONFIG" "$*" >> "$SPIED"\nexit "${STATUS:-0}"\n'


@pytest.fixture
def spied(tmp_path, monkeypatch):
    """A `keras-unet` that writes down how it was called, in an empty folder."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {
        "keras-unet": SPY,
        "scontrol": '#!/bin/bash\n[ "$1" = show ] && printf "%s\\n" n1 n2 || echo "$*" >> queued\n',
        "srun": "#!/bin/bash\nshift\n"
        'SLURM_PROCID=0 "$@" & SLURM_PROCID=1 "$@"; status=$?; wait; exit $status\n',
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("SPIED", str(tmp_path / "spied"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "spied"


def begun(folder):
    (folder / "runs" / "cells").mkdir(parents=True)
    (folder / "runs" / "cells" / "run.json").touch()


def calls(spied):
    lines = spied.read_text().splitlines()
    spied.unlink()
    return [tuple(line.split("\t")) for line in lines]


@pytest.mark.parametrize("index", [0, 1])
def test_kubernetes(spied, tmp_path, monkeypatch, index):
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))  # as Kubernetes sets it
    assert spec["completions"] == spec["parallelism"] == int(os.environ["MACHINES"])

    command = [*container["command"], *container["args"]]
    subprocess.run(command, check=True)
    [(text, arguments)] = calls(spied)
    assert read_cluster(text) == (2, index)
    [port] = service["spec"]["ports"]
    hosts = [f"{name}-{i}.{service['metadata']['name']}:{port['port']}" for i in range(2)]
    assert json.loads(text)["cluster"] == {"worker": hosts}
    assert arguments == "train --config config/train.toml --set name=cells"

    begun(tmp_path)
    subprocess.run(command, check=True)
    assert [told for _, told in calls(spied)] == ["train --resume runs/cells"]


def test_slurm(spied, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    command = ["bash", str(FILES / "slurm.sh")]
    subprocess.run(command, check=True)
    found = calls(spied)
    assert sorted(read_cluster(text) for text, _ in found) == [(2, 0), (2, 1)]
    assert json.loads(found[0][0])["cluster"] == {"worker": ["n1:24711", "n2:24711"]}
    assert {told for _, told in found} == {"train --config train.toml --set name=cells"}
    assert not (tmp_path / "queued").exists()

    begun(tmp_path)
    monkeypatch.setenv("STATUS", "143")
    assert subprocess.run(command, check=False).returncode == 143
    assert {told for _, told in calls(spied)} == {"train --resume runs/cells"}
    assert (tmp_path / "queued").read_text() == "requeue 4711\n"
    monkeypatch.setenv("STATUS", "1")
    assert subprocess.run(command, check=False).returncode == 1
    assert (tmp_path / "queued").read_text() == "requeue 4711\n"
