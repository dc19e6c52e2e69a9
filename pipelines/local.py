"""Runs a pipeline on this machine, with TFX's LocalDagRunner and a SQLite metadata store."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from keras_unet.errors import ConfigError
from keras_unet.remote_path import RemotePath, as_path
from keras_unet.training import locked_run
from pipelines.config import PipelineConfig
from pipelines.executions import Step, open_store, runs, steps, tidy
from pipelines.progress import Progress
from pipelines.quiet import log_to
from pipelines.settling import settled
from pipelines.trouble import PipelineError, message


def run_local(config: PipelineConfig, say: Callable[[str], None]) -> list[Step]:
    """Runs every component whose result is not known yet; returns what was done.

    What the configuration leaves open is settled from the files first.

    A run that was killed is simply run again: what had been finished is taken from the cache.

    Raises:
        ConfigError: another process runs in this root, or the root is no local folder.
        DataError: there are no images, or their labels need a setting.
        PipelineError: a component failed.
        RemoteError: versions go to a store that cannot be reached.
    """
    if "://" in config.pipeline_root:
        raise ConfigError(f"root is {config.pipeline_root}; a local run needs a local folder")
    destination = as_path(config.destination)
    if isinstance(destination, RemotePath):
        destination.exists()  # a missing library or credentials are told before the training
    root = Path(config.pipeline_root)
    root.mkdir(parents=True, exist_ok=True)
    config.metadata_path.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log = root / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with locked_run(root, "running a pipeline"), log_to(log):
        say(f"Log of TFX and Beam: {log}")
        config = settled(config, say)
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner

        from pipelines.pipeline import beam_environment, create_pipeline

        if config.metadata_path.exists():
            left = tidy(open_store(config.metadata_path), config.name, root)
            if left:
                say(f"An earlier run was killed in {', '.join(left)}: going on")
        os.environ.update(beam_environment(config))
        progress = Progress(say)
        logging.getLogger("absl").addHandler(progress)
        try:
            LocalDagRunner().run(create_pipeline(config))
        except Exception as error:
            logging.exception("the run ended in %s", progress.component or "its preparation")
            progress.failed()
            where = f"{progress.component}: " if progress.component else ""
            raise PipelineError(f"{where}{message(error)}\n(whole log: {log})") from error
        finally:
            logging.getLogger("absl").removeHandler(progress)
        store = open_store(config.metadata_path)
        return steps(store, runs(store, config.name)[-1])
