"""Trains with one device and with two of this process's; run by test_mirrored.py.

Usage: on_two_devices.py DATA OUTPUT JSON, a list of runs: lists of settings. Each begins in
OUTPUT, or goes on where a folder of its name is there. A run with `until=N` ends at step N as a
Ctrl-C would end it.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path

import tensorflow as tf
from rich.console import Console

from keras_unet.training import checkpoint, load_config, loop, train

SETTINGS = ["model.filters=2", "model.depth=1", "batch_size=4", "augment=flips", "tile=44"]
SETTINGS += ["data.label_kind=instances", "steps=6", "steps_per_epoch=4", "precision=float32"]


def main() -> None:
    data, output, runs = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    [processor] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    checkpoint.SHARE = float("inf")
    real = loop.run_loop
    for settings in runs:
        [until] = [int(s[6:]) for s in settings if s.startswith("until=")] or [None]

        def stopped(model, *args, between_steps, position, until=until, **kwargs):
            def rest():
                if position.step == until:
                    signal.raise_signal(signal.SIGINT)
                between_steps()

            real(model, *args, between_steps=rest, position=position, **kwargs)

        loop.run_loop = stopped
        given = [s for s in settings if not s.startswith("until=")]
        where = {"images": data / "train", "validation": data / "val"}
        config = load_config(None, [*SETTINGS, f"output={output}", *given], data=where)
        console = Console(file=io.StringIO(), width=500)
        folder = output / str(config.name)
        if folder.exists():
            train(console=console, resume=folder)
        else:
            train(config, console)
        (folder / "said").write_text(console.file.getvalue())


if __name__ == "__main__":
    main()
