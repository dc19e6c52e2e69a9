"""Makes the environment in which tensorflow-addons 0.23 still runs: `python tfa_environment.py`.

tensorflow-addons was archived in 2024; it needs TensorFlow 2.15 and Keras 2, so it cannot live
beside this package. The environment goes to `.venv-tfa` in the project (about 1.6 GB), or to the
folder given; the parity test and the benchmark find it there, or by KERAS_UNET_TFA_PYTHON.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("tensorflow==2.15.1", "tensorflow-addons==0.23.0", "numpy<2")
FOLDER = Path(__file__).resolve().parents[2] / ".venv-tfa"


def tfa_python() -> Path | None:
    """The environment's interpreter, or None where it has not been made."""
    given = os.environ.get("KERAS_UNET_TFA_PYTHON")
    python = Path(given) if given else FOLDER / "bin" / "python"
    return python if python.exists() else None


def make(folder: Path) -> None:
    """Make the environment with uv where it is installed, else with Python 3.11's venv and pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    python = folder / "bin" / "python"
    if uv:
        subprocess.run([uv, "venv", "--python", "3.11", str(folder)], check=True)
        install = [uv, "pip", "install", "--python", str(python)]
    else:
        subprocess.run(["python3.11", "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install"]
    subprocess.run([*install, *PACKAGES], check=True)
    check = "import tensorflow_addons as tfa; print(tfa.__version__)"
    subprocess.run([str(python), "-W", "ignore", "-c", check], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
