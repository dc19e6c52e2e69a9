"""`tuner_fn` of TFX's Tuner: a few short trainings, by keras-tuner, over settings of `train`.

    tfx.components.Tuner(tuner_fn="pipelines.tuner.tuner_fn", custom_config=tuner_config(…), …)

A search that was killed goes on with the trials that are left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_unet.errors import ConfigError, TrainingError
from keras_unet.settings import merged, nested, to_tree
from keras_unet.training import TrainConfig, make_config
from pipelines.trainer import forget, local_runs, run_config, trainer_config
from pipelines.trouble import message

if TYPE_CHECKING:
    import keras_tuner

_SEARCH = "search"  # keras-tuner's folder in that of a search
# what a set of images most often wants otherwise: step size, regularisation, border weight
SPACE: Mapping[str, Sequence[Any]] = {
    "learning_rate": (3e-4, 1e-3, 3e-3),
    "model.dropout": (0.0, 0.25),
    "loss.w0": (0.0, 5.0, 10.0),
}


def tuner_config(
    train: Mapping[str, Any],
    *,
    name: str,
    runs: str,
    space: Mapping[str, Sequence[Any]] | None = None,
    trials: int = 8,
    steps: int = 200,
) -> dict[str, Any]:
    """The Tuner's `custom_config`.

    Args:
        train, name, runs: as for `trainer_config`.
        space: values to try, by setting, numbers or text; None: `SPACE`.
        trials: how many combinations are tried, drawn at random.
        steps: of each training.

    Raises:
        ConfigError: a setting or a value of the space is unknown or out of range.
    """
    chosen = {key: list(values) for key, values in (SPACE if space is None else space).items()}
    for key, values in chosen.items():
        if key.partition(".")[0] in ("data", "output", "name"):
            raise ConfigError(f"tuner: {key}: the pipeline sets it; it cannot be searched for")
        kinds = {type(value) for value in values}
        if len(kinds) != 1 or not kinds <= {bool, int, float, str}:
            raise ConfigError(
                f"tuner: {key} is {values}; expected one or more numbers, or texts, of one type"
            )
        for value in values:
            tree = merged(train, nested({key: value, "data.images": "records"}))
            make_config(tree, f"tuner: {key}")
    if not chosen or trials < 1 or steps < 1:
        raise ConfigError(
            f"tuner: {len(chosen)} settings, {trials} trials of {steps} steps; expected one or more"
        )
    base = trainer_config(train, name=name, runs=runs)
    return {**base, "space": chosen, "trials": trials, "steps": steps}


def tuner_fn(fn_args: Any) -> Any:
    """A random search for the best `monitor` score on the eval records: TFX's TunerFnResult."""
    from tfx.components.tuner.component import TunerFnResult

    options = fn_args.custom_config or {}
    if "space" not in options:
        raise ConfigError(
            f"Tuner: custom_config has {sorted(options)}; expected that of tuner_config"
        )
    runs = local_runs(options["runs"])
    config = run_config(
        merged(options["train"], {"steps": options["steps"]}),
        fn_args.train_files,
        fn_args.eval_files,
        transform_graph=fn_args.transform_graph_path,
        steps=None,
        name=f"{options['name']}-tuner",
        runs=runs,
    )
    searched = json.dumps([options["space"], options["trials"]], sort_keys=True)
    digest = hashlib.sha256(searched.encode()).hexdigest()[:8]
    folder = runs / f"{config.name}-{digest}"
    forget(runs, besides=folder, record=_SEARCH)
    tuner = make_tuner(config, options["space"], options["trials"], folder)
    return TunerFnResult(tuner=tuner, fit_kwargs={})


def make_tuner(
    config: TrainConfig, space: Mapping[str, Sequence[Any]], trials: int, folder: Path
) -> keras_tuner.Tuner:
    """The search; what is known of it lies in `folder` until it is finished."""
    import keras_tuner

    from keras_unet import train

    tree, monitor = to_tree(config), f"val_{config.monitor}"

    class TrainTuner(keras_tuner.RandomSearch):  # type: ignore[misc]
        """Its trials are trainings by the library, not fits of a Keras model."""

        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            chosen = nested(trial.hyperparameters.values)
            place = folder / "runs" / trial.trial_id
            shutil.rmtree(place, ignore_errors=True)  # of a search that was killed
            settings = {"output": str(place.parent), "name": place.name}
            result = train(make_config(merged(tree, merged(chosen, settings))))
            if result.interrupted:  # Ctrl-C ends the search; its score is of half a training
                raise KeyboardInterrupt
            shutil.rmtree(place)
            score = result.evaluation.total[config.monitor]
            return {monitor: 0.0 if score is None else float(score)}

        def search(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().search(*args, **kwargs)
                tried = list(self.oracle.trials.values())
                if not any(trial.status == "COMPLETED" for trial in tried):
                    raise RuntimeError(tried[-1].message)
            except RuntimeError as error:  # all have failed, or three one after the other
                shutil.rmtree(folder)  # else the next search would count them, too
                raise TrainingError(f"the tuner's trainings fail: {message(error)}") from error
            shutil.rmtree(folder)  # TFX writes what came of it

        def results_summary(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: keras-tuner's names the folder, which is gone, and makes it again."""

    spoken = keras_tuner.HyperParameters()
    for key, values in space.items():
        spoken.Choice(key, values)
    return TrainTuner(
        objective=keras_tuner.Objective(monitor, "max"),
        max_trials=trials,
        seed=config.seed + 1,  # 0 would be another one each time
        hyperparameters=spoken,
        tune_new_entries=False,
        directory=str(folder),
        project_name=_SEARCH,
        overwrite=False,
    )
