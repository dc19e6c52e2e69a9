"""Augmentation inside the compiled training step, on the device that trains."""

from __future__ import annotations

from typing import Any

import keras

from keras_unet.augment import Augment
from keras_unet.data.bank import ImageBank


class AugmentedTraining(keras.Model):
    """A network trained on tile requests: each step draws its own tiles from a bank.

    It shares layers and weights with the network it is made of; save that one. The same requests
    give the same tiles as `tile_dataset` draws on the CPU.

    Args:
        network: a functional model.
        bank: the training set, on the device that trains.
        augment: draws (x, y, w) for requests (index [B], seeds [B, 2]).
    """

    def __init__(self, network: keras.Model, bank: ImageBank, augment: Augment) -> None:
        super().__init__(network.inputs, network.outputs, name=network.name)
        # kept in a function, so that Keras takes neither for a part of the network
        self._draw = lambda index, seeds: augment.sample(bank, index, seeds)

    def train_step(self, data: tuple[Any, Any]) -> dict[str, Any]:
        """One step on the requests (index, seeds)."""
        return super().train_step(self._draw(*data))
