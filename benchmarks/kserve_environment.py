"""Makes KServe's environment: `python benchmarks/kserve_environment.py [FOLDER]`.

KServe pins versions of its own, so it lives apart: `.venv-kserve` in the project (2.2 GB), or the
folder given. The benchmark finds it there, or by KERAS_UNET_KSERVE_PYTHON.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

KSERVE = "kserve==0.21.0"
FOLDER = Path(__file__).resolve().parents[1] / ".venv-kserve"


def kserve_python() -> Path | None:
    """The environment's interpreter, or None where it has not been made."""
    given = os.environ.get("KERAS_UNET_KSERVE_PYTHON")
    python = Path(given) if given else FOLDER / "bin" / "python"
    return python if python.exists() else None


def make(folder: Path) -> None:
    """Make the environment, with this one's TensorFlow, by uv where it is, else venv and pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    python = folder / "bin" / "python"
    if uv:
        subprocess.run([uv, "venv", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install"]
    tensorflow = f"tensorflow=={metadata.version('tensorflow')}"
    subprocess.run([*install, KSERVE, tensorflow], check=True)
    check = "import kserve, tensorflow; print(tensorflow.__version__)"
    subprocess.run([str(python), "-c", check], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
