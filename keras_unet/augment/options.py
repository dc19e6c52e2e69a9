"""Table of the options that change grey values: one entry for each, and all that is asked of it.

To add one, add its entry here and what it does to `keras_unet.augment.intensity.CHANGES`. Settings,
checks, draws, order of application, the list of the command line and the drawing of the lattice
follow from the entry.
"""

from __future__ import annotations

from typing import NamedTuple


class IntensityOption(NamedTuple):
    """How an option is drawn; its range is a setting of its name, its probability `<name>_p`.

    help: what the range is of.
    stream: number of its random numbers, see `keras_unet.augment.draws`. Never change one, nor give
        one twice: it is part of a seed's meaning.
    neutral: the value that changes nothing, for samples that do not get the option.
    factor: it is drawn from below 1 and from above 1 equally often.
    above, least, most: what the range's values may be.
    range_of: the option whose range it takes, where it has none itself.
    probability: unless it is set.
    """

    help: str
    stream: int
    neutral: float
    factor: bool = False
    above: float | None = None
    least: float | None = None
    most: float | None = None
    range_of: str | None = None
    probability: float = 1.0


# In the order of application, which is nnU-Net's.
INTENSITY: dict[str, IntensityOption] = {
    "noise": IntensityOption(
        "standard deviation of Gaussian noise, in std", stream=12, neutral=0.0, least=0.0
    ),
    "blur": IntensityOption(
        "sigma of a Gaussian blur, in pixels", stream=13, neutral=0.0, above=0.0
    ),
    "multiply": IntensityOption(
        "factor on the values as they are", stream=7, neutral=1.0, factor=True, least=0.0
    ),
    "brightness": IntensityOption("shift of the values, in std", stream=8, neutral=0.0),
    "contrast": IntensityOption(
        "factor on the difference from the image's mean, clipped to the image's range",
        stream=9,
        neutral=1.0,
        factor=True,
        least=0.0,
    ),
    "low_resolution": IntensityOption(
        "zoom factor of a nearest down- and cubic upscaling",
        stream=14,
        neutral=1.0,
        above=0.0,
        most=1.0,
    ),
    "gamma_inverted": IntensityOption(
        "gamma of the inverted image",
        stream=11,
        neutral=1.0,
        factor=True,
        range_of="gamma",
        probability=0.0,
    ),
    "gamma": IntensityOption(
        "exponent on values mapped to [0, 1] by the image's range",
        stream=10,
        neutral=1.0,
        factor=True,
        above=0.0,
    ),
}
