"""Augmentation settings: what `Augment` may do to a sample, how strongly, and the named presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from keras_unet.errors import ConfigError
from keras_unet.settings import validated

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Range = tuple[float, float]


class AugmentSettings(BaseModel):
    """Every option of the augmentation; the default does nothing.

    A range is (low, high) and a value is drawn from it uniformly. A range of factors around 1
    (`scale`, `multiply`, `contrast`, `gamma`) is drawn from the part below 1 and from the part
    above 1 equally often, as nnU-Net does, so that (0.5, 2) does not mostly enlarge. `None`
    switches an option off; `*_p` is the probability that a sample gets it.

    Geometry, all composed into one displacement and resampled once:
        flip_vertical, flip_horizontal: probability of mirroring up-down and left-right; two coins.
        rotate: range in degrees (counter-clockwise on the screen), or "right_angles": 0, 90, 180
            and 270 degrees equally often and exact, or None.
        scale: range of magnification (above 1: things get larger).
        shear: range in degrees.
        shift: largest shift in pixels along each axis, in addition to a random tile position.
        elastic_sigma: standard deviation in pixels of the displacements at the grid points; 0: off.
        elastic_grid: grid points (rows, columns) that span the tile.
        interpolation: of the image; labels are always nearest, weights bilinear.

    Intensity, images only. "std" is the standard deviation of the sample's source image:
        multiply: range of a factor on the values as they are.
        brightness: range of what is added, in std.
        contrast: range of a factor on the difference from the image's mean; the result is clipped
            to the image's range.
        gamma: range of the exponent on values mapped to [0, 1] by the image's range;
            gamma_inverted_p: the same on the inverted image, drawn and applied before.
        noise: range of the standard deviation of Gaussian noise, in std.
        blur: range of the sigma of a Gaussian blur, in pixels.
        low_resolution: range of the zoom factor (at most 1) of a nearest down- and cubic upscaling.
        per_channel: draw the intensity options for each channel, not for all together.

    Raises:
        ConfigError: (by `make_settings`) for unknown names, wrong types or values out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    flip_vertical: Probability = 0.0
    flip_horizontal: Probability = 0.0
    rotate: Literal["right_angles"] | Range | None = None
    rotate_p: Probability = 1.0
    scale: Range | None = None
    scale_p: Probability = 1.0
    shear: Range | None = None
    shear_p: Probability = 1.0
    shift: float = Field(0.0, ge=0.0)
    elastic_sigma: float = Field(0.0, ge=0.0)
    elastic_grid: tuple[Annotated[int, Field(ge=2, le=64)], Annotated[int, Field(ge=2, le=64)]] = (
        3,
        3,
    )
    elastic_p: Probability = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    multiply: Range | None = None
    multiply_p: Probability = 1.0
    brightness: Range | None = None
    brightness_p: Probability = 1.0
    contrast: Range | None = None
    contrast_p: Probability = 1.0
    gamma: Range | None = None
    gamma_p: Probability = 1.0
    gamma_inverted_p: Probability = 0.0
    noise: Range | None = None
    noise_p: Probability = 1.0
    blur: Range | None = None
    blur_p: Probability = 1.0
    low_resolution: Range | None = None
    low_resolution_p: Probability = 1.0
    per_channel: bool = False

    @model_validator(mode="after")
    def _ranges(self) -> AugmentSettings:
        limits = {"scale": 0.0, "multiply": None, "contrast": None, "gamma": 0.0, "noise": None}
        for name in ("rotate", "shear", "brightness", "blur", "low_resolution", *limits):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                continue
            low, high = value
            if low > high:
                raise ValueError(f"{name} is a range (low, high) with low <= high, found {value}")
            if name in ("scale", "gamma", "blur", "low_resolution") and low <= 0:
                raise ValueError(f"{name} must be above 0, found {value}")
            if name in ("multiply", "contrast", "noise") and low < 0:
                raise ValueError(f"{name} must not be negative, found {value}")
            if name == "low_resolution" and high > 1:
                raise ValueError(f"{name} is a zoom of at most 1, found {value}")
            if name == "shear" and max(abs(low), abs(high)) >= 80:
                raise ValueError(f"{name} is in degrees, within ±80, found {value}")
        return self

    @property
    def changes_intensity(self) -> bool:
        """Whether any sample's grey values may change."""
        names = ("multiply", "brightness", "contrast", "noise", "blur", "low_resolution")
        on = any(getattr(self, n) is not None and getattr(self, f"{n}_p") > 0 for n in names)
        return on or (self.gamma is not None and max(self.gamma_p, self.gamma_inverted_p) > 0)


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
    if name not in PRESETS:
        raise ConfigError(f"unknown augmentation preset {name!r}; known: {', '.join(PRESETS)}")
    return make_settings(PRESETS[name], **overrides)
