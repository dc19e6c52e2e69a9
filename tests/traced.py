"""Traces a command: which files of the package run, and how often each input is opened.

As a script it runs one command under `sys.setprofile`: traced.py RESULT FROM ARGUMENT ...
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[1] / "keras_unet"


class Trace(NamedTuple):
    """Files of the package in which functions ran, these as `path:name`, and opens by file.

    decoded: how many PNG and JPEG files were decoded in all.
    """

    files: list[str]
    functions: list[str]
    opened: dict[str, int]
    decoded: int


def trace(*arguments: str | Path, cwd: Path, whole: bool = False) -> Trace:
    """Runs `keras-unet ARGUMENT ...` in a process of its own.

    Counts from the command's function on; where `whole`, from `cli.main` on.
    """
    result = cwd / "trace.json"
    begin = "main" if whole else "command"
    command = [sys.executable, __file__, result, begin, *arguments]
    subprocess.run(list(map(str, command)), cwd=cwd, check=True)
    return Trace(**json.loads(result.read_text(encoding="utf-8")))


def _main(result: Path, whole: bool, arguments: list[str]) -> None:
    from PIL.ImageFile import ImageFile

    from keras_unet.cli import main

    functions: set[tuple[str, str]] = set()
    opened: Counter[str] = Counter()
    begun, decoded = whole, 0

    def profile(frame, event, _):
        nonlocal begun
        if event != "call":
            return
        code = frame.f_code
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or of a class
            return
        if not code.co_filename.startswith(str(PACKAGE)):
            return
        path = Path(code.co_filename).relative_to(PACKAGE).as_posix()
        # Typer calls the command's function, which bears the command's name
        begun = begun or (path == f"cli/{arguments[0]}.py" and code.co_name == arguments[0])
        if begun:
            functions.add((path, code.co_qualname if sys.version_info >= (3, 11) else code.co_name))

    def audit(event, given):
        if event == "open" and isinstance(given[0], str) and "r" in str(given[1] or "r"):
            opened[str(given[0])] += 1

    real = ImageFile.load

    def load(image):
        nonlocal decoded
        decoded += bool(image.tile)  # what is left to decode
        return real(image)

    ImageFile.load = load
    sys.addaudithook(audit)
    threading.setprofile(profile)
    sys.setprofile(profile)
    sys.argv = ["keras-unet", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    finally:
        sys.setprofile(None)
        found = Trace(
            sorted({path for path, _ in functions}),
            sorted(f"{path}:{name}" for path, name in functions),
            dict(opened),
            decoded,
        )
        result.write_text(json.dumps(found._asdict()), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2] == "main", sys.argv[3:])
