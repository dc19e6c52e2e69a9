"""What the import of TensorFlow writes to standard error: notices are held back, the rest stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_unet.keras_backend import LEVEL, quiet_tensorflow, without_notices

NOTICES = {
    "I": "I0000 00:00:1796037703.612113    7542 port.cc:153] oneDNN custom operations are on.",
    "W": "2026-11-30 12:00:00.123456: W tensorflow/core/x.cc:1] could not find a library",
    "E": "E0000 00:00:1796037703.612113    7542 cuda_platform.cc:52] failed call to cuInit",
    "F": "F0000 00:00:1796037703.612113    7542 cpu_feature_guard.cc:9] needs AVX instructions",
}
LITE = "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
ABSL = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
OURS = "somewhere.py:3: UserWarning: the disk is nearly full"


@pytest.mark.parametrize(
    ("level", "kept"), [("0", "IWEF"), ("1", "WEF"), ("2", "EF"), ("3", "F"), ("junk", "IWEF")]
)
def test_lines_below_the_level_are_held_back(monkeypatch, capfd, level, kept):
    monkeypatch.setenv(LEVEL, level)
    with without_notices():
        for line in (ABSL, LITE, *NOTICES.values(), OURS):
            os.write(2, f"{line}\n".encode())
        print("to standard output")
    written = capfd.readouterr()
    shown = [ABSL, LITE] if "I" in kept else []
    shown += [line for kind, line in NOTICES.items() if kind in kept]
    assert written.err.splitlines() == [*shown, OURS]
    assert written.out == "to standard output\n"


def test_an_import_that_fails_still_says_why(monkeypatch, capfd):
    monkeypatch.setenv(LEVEL, "3")
    with pytest.raises(ImportError, match="no such library"), without_notices():
        os.write(2, f"{NOTICES['I']}\n{OURS}\n".encode())
        raise ImportError("no such library")
    assert capfd.readouterr().err == f"{OURS}\n"
    os.write(2, b"as before\n")
    assert capfd.readouterr().err == "as before\n"


def test_the_level_that_is_set_wins(monkeypatch):
    monkeypatch.setenv(LEVEL, "1")
    quiet_tensorflow()
    assert os.environ[LEVEL] == "1"


@pytest.mark.parametrize("end", ["os.write(2, b'after\\n')", "os.abort()"])
def test_tensorflow_is_found_as_before_and_a_crash_says_where(tmp_path, end):
    (tmp_path / "tensorflow").mkdir()
    text = f"import os\nos.write(2, {NOTICES['I']!r}.encode() + b'\\n')\nVERSION = 1\n"
    text += "os.abort()\n" if "abort" in end else ""
    (tmp_path / "tensorflow" / "__init__.py").write_text(text)
    code = "import os, sys\nfrom keras_unet.keras_backend import quiet_tensorflow\n"
    code += "quiet_tensorflow()\n"
    code += "import importlib.util\nassert importlib.util.find_spec('tensorflow')\n"  # a look
    code += f"import tensorflow\nassert tensorflow.VERSION == 1\n{end}\n"
    code += "assert all(getattr(one, '_name', '') != 'tensorflow' for one in sys.meta_path)\n"
    environment = {key: value for key, value in os.environ.items() if key != LEVEL}
    paths = [str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    if "abort" in end:
        assert done.returncode != 0
        assert "Aborted" in done.stderr and "tensorflow/__init__.py" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "after\n")
