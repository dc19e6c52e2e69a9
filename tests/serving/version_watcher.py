"""Does what TF Serving does: polls integer folders and loads the newest, until it is told to stop.

`python version_watcher.py FOLDER`: prints "loaded N" or "broken N why"; ends when stdin closes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import tensorflow as tf

FILES = (
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets/model_card.json",
    "assets.extra/tf_serving_warmup_requests",
)


def newest(folder: Path) -> int:
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    return max((int(name) for name in names if name.isdigit()), default=0)


def check(version: Path) -> str:
    missing = [name for name in FILES if not (version / name).is_file()]
    if missing:
        return f"without {missing}"
    try:
        signature = tf.saved_model.load(version).signatures["serving_default"]
        total = tf.reduce_sum(signature(images=tf.ones((1, 5, 5, 1)))["probabilities"])
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        return repr(error)[:500]
    return "" if abs(float(total) - 25) < 1e-3 else f"sum {float(total)}"


folder = Path(sys.argv[1])
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
last = 0
print("watching", flush=True)
while not done.is_set():
    found = newest(folder)
    if found != last:
        wrong = check(folder / str(found))
        print(f"broken {found} {wrong}" if wrong else f"loaded {found}", flush=True)
        last = found
    time.sleep(0.001)
