"""Settings of slides and their patches: tissue, intensity, labels, the grid."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pathopatch.core.config.base import MOST_PX, MPP_RANGE, Config, Fraction

_POLARITY = r"(?:dark|bright)"
_BACKGROUND = rf"^(?:auto|{_POLARITY}|[^=,]+={_POLARITY}(?:,[^=,]+={_POLARITY})*)$"


class TissueConfig(Config):
    """How tissue is told from background (found on the overview, applied at the target mpp).

    A slide whose manifest row names a `tissue_mask` takes that in place of all this.
    """

    background: str = Field(default="auto", pattern=_BACKGROUND)  # auto, dark, bright, or CARS=dark,HE=bright
    # Intensity of a channel where there is no tissue, source units: a dark channel's black level or camera offset, a
    # bright one's glass. Measured where it is not given.
    background_level: dict[str, float] = {}
    when_unsure: Literal["all", "none", "fail"] = "all"  # where no background is in view, what is tissue
    method: Literal["otsu", "triangle", "fixed"] = "otsu"
    # On the tissue signal in [0, 1]: a dark channel's 1st to 99.9th percentile, a bright one's absorption against its
    # glass; for method = "fixed".
    fixed_threshold: Fraction | None = None
    channels: tuple[str, ...] = ()  # which count; empty: all that show any tissue
    # A threshold for each dark channel, and a pixel is tissue if it passes any: a bright channel must not hide a dim
    # one. Or one threshold on the largest of the scaled dark channels, as always with method = "fixed".
    combine: Literal["each", "maximum"] = "each"
    ignore_pens: bool = True  # brightfield RGB; off for blue and green stains (trichrome, Alcian blue)
    ignore_borders: bool = True  # brightfield RGB: near-black borders, black unscanned areas
    min_speck_um2: float = Field(default=400.0, ge=0)  # about one cell of 20 um: smaller is dust
    max_hole_um2: float = Field(default=400.0, ge=0)

    @model_validator(mode="after")
    def _fixed_needs_a_value(self) -> TissueConfig:
        if (self.method == "fixed") != (self.fixed_threshold is not None):
            raise ValueError("fixed_threshold goes with method = 'fixed', and only with it")
        return self


class IntensityConfig(Config):
    """The rule by which stored intensities become [0, 1]: RGB uint8 is 0 to 255, other channels by percentiles.

    The percentiles are of tissue pixels on the overview, per channel: of each slide, or of the cohort's training slides
    together, each slide counting alike. `tile` writes a cohort's windows into `windows`, so that stores and bundles
    carry them.
    """

    low_percentile: float = Field(default=1.0, ge=0, le=100)
    high_percentile: float = Field(default=99.5, ge=0, le=100)  # a few hot pixels must not set the scale
    scope: Literal["slide", "cohort"] = "slide"  # slide: exposure and stain differ more between slides than tissue does
    windows: dict[
        str, tuple[float, float]
    ] = {}  # channel -> (low, high), source units; these channels are not measured
    sharpness_mpp: float = Field(default=1.0, ge=MPP_RANGE[0], le=MPP_RANGE[1])  # scanners lose focus at this scale

    @model_validator(mode="after")
    def _low_below_high(self) -> IntensityConfig:
        if self.low_percentile >= self.high_percentile:
            raise ValueError("low_percentile must be below high_percentile")
        empty = [name for name, (low, high) in self.windows.items() if not low < high]
        if empty:
            raise ValueError(f"the window of {', '.join(empty)} is empty: low must be below high")
        return self


class AnnotationConfig(Config):
    """What the class names of annotation files mean (QuPath's classifications, ASAP's groups).

    A name that stands in a file and in none of the lists is an error: what it means is not guessed. Outlines without
    a class are named "(unclassified)" in QuPath's files and "None" in ASAP's.
    """

    tumor: tuple[str, ...] = ()
    non_tumor: tuple[str, ...] = ()  # labelled; where it overlaps tumour, tumour counts
    holes: tuple[str, ...] = ()  # labelled non-tumour that is cut out of the tumour
    ignored: tuple[str, ...] = ()
    labelled: Literal["annotated", "whole-slide"] = "annotated"  # safe: what nobody outlined has no label
    subtracted_bounds: bool = True  # QuPath through OpenSlide subtracts bounds-x/y; false for its other readers

    @model_validator(mode="after")
    def _one_meaning_each(self) -> AnnotationConfig:
        names = [*self.tumor, *self.non_tumor, *self.holes, *self.ignored]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands more than once in tumor, non_tumor, holes and ignored")
        return self


class LabelConfig(Config):
    """When a patch is a tumour patch, when it counts as labelled at all, and when it is neither one nor the other."""

    min_tumor_fraction: Fraction | None = None  # None: any tumour, that is 1 / patch area
    min_labelled_fraction: float = Field(default=0.5, gt=0, le=1)
    ambiguous: tuple[Fraction, Fraction] | None = None  # non-tumour up to low, tumour from high, no label between
    annotations: AnnotationConfig = AnnotationConfig()

    @model_validator(mode="after")
    def _zone_rises_and_holds_the_limit(self) -> LabelConfig:
        if self.ambiguous is None:
            return self
        low, high = self.ambiguous
        if low >= high:
            raise ValueError("ambiguous must be [low, high] with low below high")
        if self.min_tumor_fraction is not None and not low <= self.min_tumor_fraction <= high:
            raise ValueError("min_tumor_fraction must lie in the ambiguous zone, or be left out: the zone decides")
        return self


UNCERTAIN_BELOW = 0.5
"""A slide's tissue is uncertain below this confidence, and a person has to look at it."""


class RegistrationConfig(Config):
    """What is done about channels that do not lie on each other."""

    align: bool = False  # pixels stay where the microscope put them unless asked
    warn_um: float = Field(default=2.0, gt=0)  # a fifth of a nucleus; measured shifts are good to a few tenths of a px


class TileConfig(Config):
    """How slides are cut into patches."""

    patch_px: int = Field(default=256, ge=8, le=MOST_PX)
    stride_px: int | None = Field(default=None, ge=1)  # None: patch_px, patches side by side
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])  # None: the slides' own
    store: Literal["zarr", "none"] = "zarr"
    tissue: TissueConfig = TissueConfig()
    intensity: IntensityConfig = IntensityConfig()
    registration: RegistrationConfig = RegistrationConfig()
    labels: LabelConfig = LabelConfig()

    @model_validator(mode="after")
    def _no_gaps(self) -> TileConfig:
        if self.stride_px is not None and self.stride_px > self.patch_px:
            raise ValueError("stride_px must not exceed patch_px: the slide would not be covered")
        return self

    @property
    def step_px(self) -> int:
        """Distance of neighbouring patches, target-mpp px."""
        return self.patch_px if self.stride_px is None else self.stride_px


class ReadyConfig(Config):
    """Which scale ready images have, and what is done to those that are not of one size."""

    # um per px of the images as they are; None: unknown, and so is the scale of models that are trained on them
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    px: int | None = Field(default=None, ge=8, le=MOST_PX)  # side that all are brought to; None: they are as they are
    # crop: the middle square, resampled; stretch: the whole image, its sides resampled apart
    fit: Literal["crop", "stretch"] = "crop"
