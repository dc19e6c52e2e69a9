"""Environments of what cannot live beside this package: `python environments.py NAME [FOLDER]`.

| NAME | | size |
| --- | --- | --- |
| tfa | tensorflow-addons, archived in 2024: TensorFlow 2.15, Keras 2, Python 3.11 | 1.6 GB |
| ovms | ovmsclient (OpenVINO), TensorFlow Serving's protocols with stubs of its own | 80 MB |
| kserve | KServe's Python server, with this environment's TensorFlow | 2.2 GB |
| stardist | StarDist, with TensorFlow 2.15, Python 3.11 | 2.2 GB |
| cellpose | Cellpose before its fourth version, with PyTorch, Python 3.11 | 1.6 GB |

Each goes to `.venv-NAME` in the project, or to the folder given; tests and benchmarks find it
there, or by KERAS_UNET_NAME_PYTHON (KERAS_UNET_TFA_PYTHON …), the path of its interpreter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
OWN_TENSORFLOW = "tensorflow=={}"


class Environment(NamedTuple):
    """What is installed, what must then be importable, and by which Python (None: this one)."""

    packages: tuple[str, ...]
    module: str
    python: str | None = None


ENVIRONMENTS = {
    "tfa": Environment(
        ("tensorflow==2.15.1", "tensorflow-addons==0.23.0", "numpy<2"), "tensorflow_addons", "3.11"
    ),
    "ovms": Environment(("ovmsclient==2023.1",), "ovmsclient"),
    "kserve": Environment(("kserve==0.21.0", OWN_TENSORFLOW), "kserve, tensorflow"),
    "stardist": Environment(
        ("stardist==0.9.2", "tensorflow==2.15.1", "numpy<2"), "stardist.models", "3.11"
    ),
    "cellpose": Environment(("cellpose==3.1.1.3", "torch==2.13.0"), "cellpose.models", "3.11"),
}


def folder_of(name: str) -> Path:
    return PROJECT / f".venv-{name}"


def interpreter(name: str) -> Path | None:
    """The environment's Python, or None where it has not been made."""
    given = os.environ.get(f"KERAS_UNET_{name.upper()}_PYTHON")
    python = Path(given) if given else folder_of(name) / "bin" / "python"
    return python if python.exists() else None


def how_to_make(name: str) -> str:
    return f"no environment of {name}: run tests/oracles/environments.py {name}"


def make(name: str, folder: Path) -> None:
    """Make the environment with uv where it is installed, else with venv and pip."""
    wanted = ENVIRONMENTS[name]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    python = folder / "bin" / "python"
    if uv:
        base = wanted.python or sys.executable
        subprocess.run([uv, "venv", "--python", base, str(folder)], check=True)
        install = [uv, "pip", "install", "--python", str(python)]
    else:
        base = f"python{wanted.python}" if wanted.python else sys.executable
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install"]
    packages = [
        one.format(metadata.version("tensorflow")) if one is OWN_TENSORFLOW else one
        for one in wanted.packages
    ]
    subprocess.run([*install, *packages], check=True)
    subprocess.run([str(python), "-W", "ignore", "-c", f"import {wanted.module}"], check=True)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    if chosen not in ENVIRONMENTS:
        sys.exit(f"expected one of {', '.join(ENVIRONMENTS)}, found {chosen!r}")
    make(chosen, Path(sys.argv[2]) if len(sys.argv) > 2 else folder_of(chosen))
