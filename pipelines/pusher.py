"""VersionPusher: TFX's Pusher to `saved_models/<name>/<n>`, by the library's publish.

TFX's own copies into a folder whose name is the time: a server could see it half-copied, and
nothing proves the copy. Here a version is made beside, answers its golden requests in a fresh
process, and is renamed to the next integer, under the folder's lock.
"""

# no `from __future__ import annotations`: TFX reads the annotations of a component as objects

import logging

from tfx import v1 as tfx
from tfx.components.evaluator import constants
from tfx.components.util import model_utils
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import system_executions
from tfx.types.standard_artifacts import InfraBlessing, Model, ModelBlessing, PushedModel

from keras_unet.serving import Origin, fingerprint, publish_bundle
from pipelines import models

REASON = "reason"  # why a model was not pushed


@tfx.dsl.components.component(component_annotation=system_executions.Deploy)
def VersionPusher(
    model: InputArtifact[Model],
    model_blessing: InputArtifact[ModelBlessing],
    infra_blessing: InputArtifact[InfraBlessing],
    pushed_model: OutputArtifact[PushedModel],
    destination: Parameter[str],
    metadata: Parameter[str] = "",
    keep: Parameter[int] = 0,
) -> None:
    """Publishes a model that is blessed twice; otherwise says why not, and the run goes on.

    Killed after the version was there and run again, it finds the same model as the newest version
    and publishes no other.

    Args:
        model: of the Trainer.
        model_blessing, infra_blessing: of this very model.
        pushed_model: as TFX's Pusher: `pushed`, and `pushed_destination` and `pushed_version`, or
            `reason`.
        destination: such as saved_models/unet, or gs://bucket/models/unet.
        metadata: the metadata store, which the version remembers for `keras-unet lineage`.
        keep: delete all but the newest so many versions; 0: none.

    Raises:
        ExportError: the model does not answer as the Keras model did; nothing is published.
        RemoteError: the destination cannot be written here.
    """
    reason = refusal(model, model_blessing, infra_blessing)
    if reason is not None:
        pushed_model.set_int_custom_property("pushed", 0)
        pushed_model.set_string_custom_property(REASON, reason)
        logging.getLogger("absl").warning("Pusher: not pushed: %s", reason)
        return
    with models.local_copy(models.serving_folder(model.uri)) as bundle:
        origin = Origin(
            metadata=metadata, model=model.id, uri=model.uri, fingerprint=fingerprint(bundle)
        )
        version = publish_bundle(
            bundle,
            destination,
            keep=keep or None,
            files=origin.as_file(),
        )
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_destination", str(version.resolve()))
    pushed_model.set_string_custom_property("pushed_version", version.name)
    logging.getLogger("absl").info("Pusher: published %s", version)


def refusal(
    model: Model, model_blessing: ModelBlessing, infra_blessing: InfraBlessing
) -> str | None:
    """Why a model may not be pushed, or None.

    A blessing names its model by the place: Kubeflow rounds numbers of models to 53 bits, or turns
    them into names. TFX's InfraValidator names none.
    """
    key = constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY
    said = constants.ARTIFACT_PROPERTY_BLESSING_MESSAGE_KEY
    for who, blessing, good in (
        ("the Evaluator", model_blessing, model_utils.is_model_blessed(model_blessing)),
        ("the InfraValidator", infra_blessing, model_utils.is_infra_validated(infra_blessing)),
    ):
        if blessing.has_custom_property(key):
            judged = blessing.get_string_custom_property(key)
            if judged != model.uri:
                return f"{who} judged another model, {judged}; expected this one, {model.uri}"
        if not good:
            return f"{who}: {blessing.get_string_custom_property(said) or 'not blessed'}"
    return None
