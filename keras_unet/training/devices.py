"""Which machines train together: the setting, and what TF_CONFIG says. No TensorFlow."""

from __future__ import annotations

import json
from typing import Literal

from keras_unet.errors import ConfigError

Devices = Literal["auto", "one", "all"]


def read_cluster(text: str) -> tuple[int, int]:
    """Machines in a TF_CONFIG, and which of them this is; (1, 0) for an empty one.

    A "chief" comes before the workers. Others, as "evaluator" and "ps", have no part here.
    """
    if not text.strip():
        return 1, 0
    expected = (
        'expected {"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}'
    )
    try:
        tree = json.loads(text)
        cluster = tree.get("cluster", {})
        task = tree.get("task", {})
        jobs = {name: list(cluster.get(name, ())) for name in ("chief", "worker")}
        others = cluster.keys() - jobs.keys()
        places = [(name, i) for name, hosts in jobs.items() for i in range(len(hosts))]
        if not cluster:
            return 1, 0
        if others or not places:
            raise ValueError(f"cluster has {', '.join(sorted(cluster))}")
        return len(places), places.index((task.get("type"), int(task.get("index"))))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"TF_CONFIG={text}: {error}; {expected}") from error
