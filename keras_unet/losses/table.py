"""Table of the losses that a run may add to the weighted cross-entropy: one entry for each.

To add one, write it as a Keras loss and add its entry here: its name becomes a setting, its weight
in the sum, as in `keras-unet train --set loss.dice=0.5`. Nothing is imported until it is asked for.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from keras_unet.errors import ConfigError

if TYPE_CHECKING:
    import keras


class AddedLoss(NamedTuple):
    """A loss by name.

    made_by: its class or a function without arguments, "module:name".
    help: what the setting means.
    mean_over_tiles: the loss of a batch is the mean of its tiles' losses. Where it is not, the
        gradient of two half batches is not that of the whole one: several devices must exchange
        the sums that it is made of, as every `DenseLoss` does.
    """

    made_by: str
    help: str
    mean_over_tiles: bool

    def make(self) -> keras.losses.Loss:
        return pkgutil.resolve_name(self.made_by)()


LOSSES: dict[str, AddedLoss] = {
    "dice": AddedLoss(
        "keras_unet.losses.dice:Dice", "weight of an added soft Dice loss", mean_over_tiles=False
    ),
    "focal": AddedLoss(
        "keras_unet.losses.cross_entropy:Focal",
        "weight of an added focal loss",
        mean_over_tiles=True,
    ),
}


def training_loss(
    added: Mapping[str, float], *, label_smoothing: float = 0.0, devices: int = 1
) -> keras.losses.Loss:
    """The weighted cross-entropy, and the losses of the table that have a weight.

    Args:
        added: weights of losses of the table, by name.
        label_smoothing: of the cross-entropy.
        devices: that share each batch.

    Raises:
        ConfigError: a loss cannot be shared by several devices.
    """
    from keras_unet.losses.cross_entropy import WeightedCrossEntropy
    from keras_unet.losses.dense import DenseLoss
    from keras_unet.losses.sum import Sum

    entropy = WeightedCrossEntropy(label_smoothing=label_smoothing)
    terms, weights = [entropy], [1.0]
    for name, weight in added.items():
        if not weight:
            continue
        entry, term = LOSSES[name], LOSSES[name].make()
        if devices > 1 and not (entry.mean_over_tiles or isinstance(term, DenseLoss)):
            raise ConfigError(
                f"loss.{name} is no mean over tiles and does not sum over devices: {devices} "
                "devices would each have a loss of their own; set devices=one"
            )
        terms.append(term)
        weights.append(weight)
    return entropy if len(terms) == 1 else Sum(terms, weights)
