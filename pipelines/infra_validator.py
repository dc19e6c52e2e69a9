"""InfraValidator: does a server load the model, and does it answer as the Keras model?

TFX's own starts TensorFlow Serving in Docker: `docker_infra_validator` sets it up for these
signatures. The default, `ServerInfraValidator`, needs no Docker: it starts `keras-unet serve`,
which speaks the same protocol, and also compares the answers, which TFX's does not.
"""

# no `from __future__ import annotations`: TFX reads the annotations of a component as objects

import itertools
import json
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tfx import v1 as tfx
from tfx.components.evaluator import constants
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.proto import infra_validator_pb2
from tfx.types import artifact_utils, system_executions
from tfx.types.standard_artifacts import Examples, InfraBlessing, Model

from keras_unet.data import encode_example, read_record
from keras_unet.errors import DataError, KerasUnetError, ServingError
from keras_unet.models import TrainedModel, structure
from keras_unet.serving import (
    GOLDEN_TOLERANCE,
    Client,
    GoldenRequest,
    golden_differences,
    golden_requests,
    read_served_card,
)
from pipelines import models
from pipelines.server_process import Addresses, NoServer, serving, tail

NAME = "validated"
SIDE = 1024  # pixels of a test request; larger images are cut to it
BLESSED, NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"  # as TFX's


@tfx.dsl.components.component(component_annotation=system_executions.Evaluate)
def ServerInfraValidator(
    model: InputArtifact[Model],
    examples: InputArtifact[Examples],
    blessing: OutputArtifact[InfraBlessing],
    number: Parameter[int] = 3,
    seconds: Parameter[float] = 300.0,
    split: Parameter[str] = "eval",
) -> None:
    """Serves a copy of the model in a folder of its own, sends requests, compares, and blesses.

    Requests of each signature are made of `number` records, over gRPC and one over REST, beside
    the golden ones. The server is stopped in any case, also when this process is killed.

    Args:
        model: of the Trainer. examples: records as ImageExampleGen writes them.
        blessing: as TFX's InfraValidator: the file `INFRA_BLESSED` or `INFRA_NOT_BLESSED` and the
            property `blessed`; also `blessing_message`, `report.json` and `server.log`.
        number: of records. seconds: for all of it. split: of the examples.

    Raises:
        NoServer: no server could be started here, or it was killed, whatever the model; its log is
            in the message.
        DataError: there is nothing to ask, or nothing to compare with: no records, no Keras model.
    """
    records = artifact_utils.get_split_uri([examples], split)
    log = logging.getLogger("absl")
    deadline = time.monotonic() + seconds
    trained = models.load(model.uri)
    with models.local_copy(records) as source:
        requests = [*golden_requests(trained), *real_requests(trained, source, number)]
    with models.local_output(blessing.uri) as folder:
        try:
            found = _validate(model.uri, trained, requests, folder / "server.log", deadline)
            message = f"{sum(found['requests'].values())} requests answered as by the Keras model"
            blessed = True
        except NoServer:  # the run fails, and the next one tries again
            raise
        except KerasUnetError as error:
            found, message, blessed = {}, str(error), False
            log.warning("InfraValidator: not blessed: %s", message)
        report = {"blessed": blessed, "message": message, **found}
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / (BLESSED if blessed else NOT_BLESSED)).write_text("", encoding="utf-8")
    blessing.set_int_custom_property("blessed", int(blessed))
    blessing.set_string_custom_property(
        constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
    )
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    blessing.set_string_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSING_MESSAGE_KEY, message[:2000]
    )


def docker_infra_validator(
    model: Any, examples: Any, *, tag: str = "latest", number: int = 3, seconds: float = 300.0
) -> tfx.components.InfraValidator:
    """TFX's InfraValidator: TensorFlow Serving in Docker loads the model and answers records.

    Args:
        model, examples: channels. tag: of the image tensorflow/serving. number: of records.
        seconds: until the model must be loaded.
    """
    return tfx.components.InfraValidator(
        model=model,
        examples=examples,
        serving_spec=infra_validator_pb2.ServingSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=[tag]),
            local_docker=infra_validator_pb2.LocalDockerConfig(),
            model_name=NAME,
        ),
        validation_spec=infra_validator_pb2.ValidationSpec(
            max_loading_time_seconds=int(seconds), num_tries=1
        ),
        request_spec=infra_validator_pb2.RequestSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(
                signature_names=["segment_examples"]
            ),
            split_name="eval",
            num_examples=number,
        ),
    )


def _validate(
    uri: str, trained: TrainedModel, requests: list[GoldenRequest], log: Path, deadline: float
) -> dict[str, Any]:
    """Requests and largest differences by signature; see `ServerInfraValidator` for errors."""
    log.touch()
    with tempfile.TemporaryDirectory() as root:
        with models.local_copy(models.serving_folder(uri)) as bundle:
            card = read_served_card(bundle)
            shutil.copytree(bundle, Path(root, NAME, "1"))
        with serving(Path(root), log, deadline - time.monotonic()) as addresses:
            _wait(addresses, log, deadline)
            answers = _ask(addresses, requests, deadline)
    differences = golden_differences(trained, requests, answers, card.precision)
    wrong = [f"{k} by {v:.2e}" for k, v in differences.items() if not v <= GOLDEN_TOLERANCE]
    if wrong:
        raise ServingError(
            f"the served model differs from the Keras model: {', '.join(wrong)}; at most "
            f"{GOLDEN_TOLERANCE:.0e} was expected"
        )
    counts = {name: sum(r.signature == name for r in requests) for name in differences}
    return {"requests": counts, "differences": differences}


def real_requests(model: TrainedModel, records: Path, number: int) -> list[GoldenRequest]:
    """Requests of each signature, made of the first `number` records in a folder.

    Raises:
        DataError: there are none, or one is damaged.
    """
    files = sorted(str(path) for path in records.iterdir() if path.is_file())
    dataset = tf.data.TFRecordDataset(files, "GZIP" if files and files[0].endswith("gz") else "")
    found: list[GoldenRequest] = []
    channels = structure(model.network).channels
    for i, data in enumerate(itertools.islice(dataset.as_numpy_iterator(), number)):
        pair = read_record(data, records, i, model.card.labels.as_rule())
        if pair.image is None:
            raise DataError("\n".join(map(str, pair.problems)))
        image = np.ascontiguousarray(pair.image[:SIDE, :SIDE])
        if image.shape != pair.image.shape or pair.missing is not None:  # NaN is refused
            data = encode_example(pair.pair.name, image)
        pixels = image.astype(np.float32)
        found.append(GoldenRequest("serving_default", "images", pixels[None], [pixels]))
        found.append(GoldenRequest("segment_examples", "examples", _strings([data]), [image]))
        if channels in (1, 3) and image.dtype in (np.uint8, np.uint16):
            png = _strings([tf.io.encode_png(image).numpy()])
            for name in ("segment_bytes", "segment_bytes_probabilities"):
                found.append(GoldenRequest(name, "image_bytes", png, [image]))
    if not found:
        raise DataError(f"{records}: no records; expected images to try the server with")
    return found


def _wait(addresses: Addresses, log: Path, deadline: float) -> None:
    """Until the model is AVAILABLE."""
    with Client(f"grpc://{addresses.grpc}", seconds=10, retries=2) as client:
        while True:
            (state,) = client.status(NAME)
            if state["state"] == "AVAILABLE":
                return
            if state["error"]:
                raise ServingError(f"the server cannot load the model: {state['error']}")
            if time.monotonic() > deadline:
                raise ServingError(
                    f"the model was {state['state']}, not AVAILABLE, when the time was up "
                    f"(infra.seconds): {tail(log)}"
                )
            time.sleep(0.2)


def _ask(
    addresses: Addresses, requests: list[GoldenRequest], deadline: float
) -> list[dict[str, np.ndarray]]:
    answers = []
    with Client(f"grpc://{addresses.grpc}", seconds=max(1.0, deadline - time.monotonic())) as grpc:
        for request in requests:
            inputs = {request.name: request.value}
            try:
                answers.append(grpc.run(NAME, inputs, request.signature, version=1))
            except ServingError as error:
                raise ServingError(f"{request.signature}: {error}", error.code) from error
            if time.monotonic() > deadline:
                raise ServingError(
                    f"{len(answers)} of {len(requests)} requests answered when the time was up "
                    "(infra.seconds)"
                )
    asked = next(r for r in requests if r.signature == "segment_examples")
    with Client(f"http://{addresses.rest}", seconds=max(1.0, deadline - time.monotonic())) as rest:
        (given,) = rest.run(NAME, {asked.name: asked.value}, asked.signature).values()
    (wanted,) = answers[requests.index(asked)].values()
    if list(given) != list(wanted):
        raise ServingError("segment_examples: the REST answer differs from the gRPC answer")
    return answers


def _strings(items: list[bytes]) -> np.ndarray:
    return np.array(items, object)
