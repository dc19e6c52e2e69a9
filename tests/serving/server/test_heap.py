"""What the server's process keeps from the garbage collector, and that it keeps no old version."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

from keras_unet.serving.server import runtime

SCRIPT = """
import gc, json, os, signal, sys, threading, time, weakref
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import toy_models
from keras_unet.serving.server import EmbeddedServer, ServerSettings

root = Path(sys.argv[1])
toy_models.write(root / "m" / "1")
server = EmbeddedServer(
    ServerSettings(folder=root, grpc_port=0, rest_port=None, poll_seconds=0.05)
)
graphs = []

def watch():
    for number in (1, 2, 3):
        if number > 1:
            toy_models.publish_copy(root / "m" / "1", root / "m" / str(number))
        while True:
            time.sleep(0.05)
            try:
                version = server.manager.acquire("m", number)
            except Exception:
                continue
            graphs.append(weakref.ref(version.servable._session.graph))
            version.leave()
            del version
            break
    alive = [graph() is not None for graph in graphs]
    print(json.dumps({"frozen": gc.get_freeze_count(), "alive": alive}))
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=watch).start()
server.run()
"""


class Cycle:
    """Only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_alive_is_left_alone_until_it_settles_again():
    cycle = Cycle()
    seen = weakref.ref(cycle)
    runtime.freeze_heap()
    try:
        assert gc.get_freeze_count() > 1000
        del cycle
        gc.collect()
        assert seen() is not None
        runtime.freeze_heap()
        assert seen() is None
    finally:
        gc.unfreeze()


def test_a_server_freezes_its_process_and_frees_old_versions(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["frozen"] > 100_000  # TensorFlow's objects
    assert found["alive"] == [False, True, True]  # the one before the last goes with the next load
