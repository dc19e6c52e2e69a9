"""Augmentation settings: what `Augment` may do to a sample, how strongly, and the named presets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, create_model, model_validator

from keras_unet.augment.options import INTENSITY
from keras_unet.errors import ConfigError
from keras_unet.settings import Section, did_you_mean, validated

LISTING = "keras-unet augment --show-settings"

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Range = tuple[float, float]
GridPoints = Annotated[int, Field(ge=2, le=64)]


class GeometrySettings(Section):
    """The options that move pixels."""

    flip_vertical: Probability = Field(0.0, description="probability of mirroring up-down")
    flip_horizontal: Probability = Field(
        0.0, description="probability of mirroring left-right, by a coin of its own"
    )
    rotate: Literal["right_angles"] | Range | None = Field(
        None,
        description='range in degrees, counter-clockwise on the screen, or "right_angles": 0, 90, '
        "180 and 270 degrees equally often and exact",
    )
    rotate_p: Probability = Field(1.0, description="probability of rotate")
    scale: Range | None = Field(
        None, description="range of magnification; above 1, things get larger"
    )
    scale_p: Probability = Field(1.0, description="probability of scale")
    shear: Range | None = Field(None, description="range in degrees")
    shear_p: Probability = Field(1.0, description="probability of shear")
    shift: float = Field(
        0.0,
        ge=0.0,
        description="largest shift in pixels along each axis, beside a random tile position",
    )
    elastic_sigma: float = Field(
        0.0, ge=0.0, description="standard deviation in pixels of the displacements; 0 = off"
    )
    elastic_grid: tuple[GridPoints, GridPoints] = Field(
        (3, 3), description="grid points (rows, columns) of the displacements; they span the tile"
    )
    elastic_p: Probability = Field(1.0, description="probability of the displacements")
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="of the image; labels are always nearest, weights bilinear"
    )


def _intensity_fields() -> dict[str, Any]:
    """The settings of the table's options: a range, unless it is another's, and a probability."""
    fields: dict[str, Any] = {}
    for name, option in INTENSITY.items():
        if option.range_of is None:
            fields[name] = (Range | None, Field(None, description=f"range of the {option.help}"))
        fields[f"{name}_p"] = (
            Probability,
            Field(
                option.probability,
                description=f"probability of {name if option.range_of is None else option.help}",
            ),
        )
    return fields


if TYPE_CHECKING:
    _Options = GeometrySettings
else:
    _Options = create_model("_Options", __base__=GeometrySettings, **_intensity_fields())


class AugmentSettings(_Options):
    """Every option of the augmentation; the default does nothing.

    A range is (low, high) and a value is drawn from it uniformly. A range of factors around 1
    (`scale`, `multiply`, `contrast`, `gamma`) is drawn from the part below 1 and from the part
    above 1 equally often, as nnU-Net does, so that (0.5, 2) does not mostly enlarge. `None`
    switches an option off; `*_p` is the probability that a sample gets it.

    Geometry is composed into one displacement and resampled once. The options below it change grey
    values: `keras_unet.augment.options.INTENSITY` is their table; "std" there is the standard
    deviation of the sample's source image. `keras-unet augment --show-settings` lists all.

    Raises:
        ConfigError: (by `make_settings`) for unknown names, wrong types or values out of range.
    """

    per_channel: bool = Field(
        False, description="draw what changes grey values for each channel, not for all together"
    )

    @model_validator(mode="after")
    def _ranges(self) -> AugmentSettings:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and name != "elastic_grid":
                _check_range(name, *value)
        return self

    def limits(self, name: str) -> Range | None:
        """The range of an option that changes grey values; None if no sample gets it."""
        limits = getattr(self, INTENSITY[name].range_of or name)
        return limits if getattr(self, f"{name}_p") > 0 else None

    @property
    def changes_intensity(self) -> bool:
        """Whether any sample's grey values may change."""
        return any(self.limits(name) is not None for name in INTENSITY)


def _check_range(name: str, low: float, high: float) -> None:
    found = f"found {(low, high)}"
    if low > high:
        raise ValueError(f"{name} is a range (low, high) with low <= high, {found}")
    option = INTENSITY.get(name)
    above = 0.0 if name == "scale" else option and option.above
    if above is not None and low <= above:
        raise ValueError(f"{name} must be above {above:g}, {found}")
    if option and option.least is not None and low < option.least:
        few = "not be negative" if option.least == 0 else f"be at least {option.least:g}"
        raise ValueError(f"{name} must {few}, {found}")
    if option and option.most is not None and high > option.most:
        raise ValueError(f"{name} must be at most {option.most:g}, {found}")
    if name == "shear" and max(abs(low), abs(high)) >= 80:
        raise ValueError(f"{name} is in degrees, within ±80, {found}")


def make_settings(
    values: dict[str, Any] | AugmentSettings | None = None, **more: Any
) -> AugmentSettings:
    """Checked settings from a mapping (or other settings) and single values on top of it.

    Raises:
        ConfigError: names the option, what was found and what was expected.
    """
    base = values.model_dump() if isinstance(values, AugmentSettings) else dict(values or {})
    return validated(AugmentSettings, {**base, **more}, "augmentation")


PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # The eight symmetries of the square, each exact: no interpolation at all.
    "flips": {"flip_vertical": 0.5, "flip_horizontal": 0.5, "rotate": "right_angles"},
    # Ronneberger et al. 2015, section 3.1: "shift and rotation invariance as well as robustness to
    # deformations and gray value variations"; elastic displacements "sampled from a Gaussian
    # distribution with 10 pixels standard deviation" on "a coarse 3 by 3 grid". The paper gives no
    # numbers for the rest; microscope images have no up, so every angle and both flips are used.
    "paper": {
        "flip_vertical": 0.5,
        "flip_horizontal": 0.5,
        "rotate": (-180.0, 180.0),
        "elastic_sigma": 10.0,
        "elastic_grid": (3, 3),
        "brightness": (-0.25, 0.25),
        "contrast": (0.8, 1.25),
        "gamma": (0.8, 1.25),
        "gamma_p": 0.3,
    },
    # Isensee et al. 2021, supplementary note 4, as in nnU-Net's default trainer (2D): each option
    # with its probability, angles of any size, no elastic field.
    "nnunet": {
        "flip_vertical": 0.5,
        "flip_horizontal": 0.5,
        "rotate": (-180.0, 180.0),
        "rotate_p": 0.2,
        "scale": (0.7, 1.4),
        "scale_p": 0.2,
        "noise": (0.0, 0.316),
        "noise_p": 0.1,
        "blur": (0.5, 1.0),
        "blur_p": 0.2,
        "multiply": (0.75, 1.25),
        "multiply_p": 0.15,
        "contrast": (0.75, 1.25),
        "contrast_p": 0.15,
        "low_resolution": (0.5, 1.0),
        "low_resolution_p": 0.25,
        "gamma": (0.7, 1.5),
        "gamma_p": 0.3,
        "gamma_inverted_p": 0.1,
        "per_channel": True,
    },
}


def preset_settings(name: str, **overrides: Any) -> AugmentSettings:
    """The settings of a preset with single options changed.

    Args:
        name: "paper", "none", "flips" or "nnunet".
        overrides: options of `AugmentSettings`.

    Raises:
        ConfigError: for an unknown preset or option.
    """
    return make_settings(PRESETS[_known(name)], **overrides)


def _known(name: str) -> str:
    if name not in PRESETS:
        meant = did_you_mean(name, PRESETS)
        known = ", ".join(PRESETS)
        raise ConfigError(f"unknown augmentation preset {name!r}; known: {known}{meant}")
    return name


AugmentPreset = Annotated[str, AfterValidator(_known)]
