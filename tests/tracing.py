"""Trace of a command: which functions of the package it runs, and which files it reads how often.

    found = trace("predict", run, image, "--output", out, watch=image)
    assert len(found.files) <= 35 and found.opened[str(image)] <= 2 and found.decoded <= 1

The command runs in a process of its own, from `keras_unet.cli.main` on, as a person runs it.
"""

from __future__ import annotations

import collections
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple


class Trace(NamedTuple):
    """What was counted.

    functions: of each file of the package, named by its path within it, the functions of it that
    ran; a module or class that is only defined is not listed for it. opened: how often each file
    within `watch` was opened for reading. decoded: pictures whose pixels Pillow decoded. printed:
    what the command printed.
    """

    functions: dict[str, list[str]]
    opened: dict[str, int]
    decoded: int
    printed: str

    @property
    def files(self) -> list[str]:
        return sorted(self.functions)


def trace(*arguments: object, watch: Path, since: str | None = None, **options: object) -> Trace:
    """Runs `keras-unet ARGUMENTS` and counts.

    Args:
        watch: a file, or a folder, whose openings are counted.
        since: "file.py:function" of the package; what ran before it is not counted.
        options: of `subprocess.run`, such as `cwd`.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "trace.json"
        own = [result, watch, since or ""]
        done = subprocess.run(
            [sys.executable, __file__, *map(str, own), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        printed = done.stdout + done.stderr
        assert done.returncode == 0, printed
        return Trace(**json.loads(result.read_text()), printed=printed)


def _main(result: str, watch: str, since: str, *arguments: str) -> None:
    del sys.path[0]  # the folder of the tests, whose names may hide others
    import PIL.Image

    from keras_unet.cli import main

    package = str(Path(sys.modules["keras_unet"].__file__).parent) + os.sep
    watched = str(Path(watch).resolve())
    ran = collections.defaultdict(set)
    opened = collections.Counter()
    counting = [not since]
    decoders = [0]

    def profile(frame, event, _):
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(package):
            return
        file = code.co_filename.removeprefix(package).replace(os.sep, "/")
        if since == f"{file}:{code.co_name}":
            counting[0] = True
        # no body of a class and no comprehension: those run where a module is imported
        if counting[0] and code.co_flags & inspect.CO_OPTIMIZED and code.co_name[0] != "<":
            ran[file].add(code.co_name)

    def audit(event, given):
        # None: opened by a descriptor; flags: None for Python's own imports
        if event == "open" and isinstance(given[0], (str, bytes, os.PathLike)) and counting[0]:
            path = os.path.realpath(os.fsdecode(given[0]))
            reads = given[2] is None or given[2] & os.O_ACCMODE == os.O_RDONLY
            if reads and (path == watched or path.startswith(watched + os.sep)):
                opened[path] += 1

    get_decoder = PIL.Image._getdecoder

    def decoder(mode, name, *rest):
        decoders[0] += counting[0] and name != "raw"  # which arrays go through
        return get_decoder(mode, name, *rest)

    PIL.Image._getdecoder = decoder
    sys.addaudithook(audit)
    sys.argv = ["keras-unet", *arguments]
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    counts = {
        "functions": {file: sorted(names) for file, names in ran.items()},
        "opened": dict(opened),
        "decoded": decoders[0],
    }
    Path(result).write_text(json.dumps(counts))


if __name__ == "__main__":
    _main(*sys.argv[1:])
