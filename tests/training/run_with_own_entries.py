"""The command line after a loss and an augmentation were added to their tables, as a module would.

Run by test_tables: the arguments are those of `keras-unet`.
"""

from __future__ import annotations

from keras_unet.augment.options import INTENSITY, IntensityOption
from keras_unet.losses.table import LOSSES, AddedLoss


def own_loss():
    """1 − the probability of the true class, of each pixel."""
    import keras

    from keras_unet.losses.dense import PixelLoss

    class Own(PixelLoss):
        def values(self, labels, y_pred):
            truth = self.one_hot(labels, self.num_classes(y_pred))
            return 1.0 - keras.ops.sum(truth * self.probabilities(y_pred), axis=-1)

    return Own(name="own")


LOSSES["own"] = AddedLoss(f"{__name__}:own_loss", "weight of a loss of our own", True)
INTENSITY["invert"] = IntensityOption(
    "share of the inverted image", stream=15, neutral=0.0, least=0.0, most=1.0
)


if __name__ == "__main__":
    from keras_unet.augment import intensity

    def invert(image, drawn, of, *_):
        share = drawn[:, None, None]
        low, high = of.low[:, None, None], of.high[:, None, None]
        return image * (1 - share) + (high + low - image) * share, of

    intensity.CHANGES["invert"] = invert

    from keras_unet.cli import main

    main()
