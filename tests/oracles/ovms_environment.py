"""Makes the environment of an independent client: `python ovms_environment.py`.

ovmsclient (OpenVINO) speaks TensorFlow Serving's gRPC and REST with stubs of its own; it pins old
versions of protobuf and NumPy, so it cannot live beside this package. The environment goes to
`.venv-ovms` in the project (about 80 MB), or to the folder given; the test finds it there, or by
KERAS_UNET_OVMS_PYTHON.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("ovmsclient==2023.1",)
FOLDER = Path(__file__).resolve().parents[2] / ".venv-ovms"


def ovms_python() -> Path | None:
    """The environment's interpreter, or None where it has not been made."""
    given = os.environ.get("KERAS_UNET_OVMS_PYTHON")
    python = Path(given) if given else FOLDER / "bin" / "python"
    return python if python.exists() else None


def make(folder: Path) -> None:
    """Make the environment with uv where it is installed, else with venv and pip."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    python = folder / "bin" / "python"
    if uv:
        subprocess.run([uv, "venv", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--python", str(python)]
    else:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install"]
    subprocess.run([*install, *PACKAGES], check=True)
    check = "import ovmsclient; print(ovmsclient.__name__)"
    subprocess.run([str(python), "-c", check], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
