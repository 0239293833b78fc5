"""Settings of slides and of their patches: tissue, intensity, labels, the grid."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pathopatch.core.config.base import LEAST_PX, MOST_PX, MPP_RANGE, Config, Fraction

_POLARITY = r"(?:dark|bright)"
_BACKGROUND = rf"^(?:auto|{_POLARITY}|[^=,]+={_POLARITY}(?:,[^=,]+={_POLARITY})*)$"


class TissueConfig(Config):
    """How tissue is told from background (found on the overview, applied at the target mpp).

    A slide whose manifest row names a `tissue_mask` takes that in place of all this.
    """

    background: str = Field(default="auto", pattern=_BACKGROUND)
    """auto, dark, bright, or one for each channel: CARS=dark,HE=bright."""
    background_level: dict[str, float] = {}
    """Intensity of a channel without tissue, source units: the black level of a dark channel, the glass of a bright
    one. It is measured where it is not given.
    """
    when_unsure: Literal["all", "none", "fail"] = "all"
    """What counts as tissue where no background is in view; fail stops the slide."""
    method: Literal["otsu", "fixed"] = "otsu"
    """Rule that splits dark channels; bright ones are compared with their glass."""
    fixed_threshold: Fraction | None = None
    """Threshold on the tissue signal in [0, 1], for `method = "fixed"`. Of a dark channel the signal runs from the 1st
    to the 99.9th percentile, of a bright one it is the absorption against the glass.
    """
    channels: tuple[str, ...] = ()
    """Channels that count. Empty: all that show any tissue."""
    combine: Literal["each"] = "each"
    """Each dark channel has a threshold, and a pixel is tissue if it passes any: a bright channel does not hide a dim
    one. With `method = "fixed"` the largest signal counts.
    """
    ignore_pens: bool = True
    """Brightfield RGB: pen marks are no tissue. Turn it off for blue and green stains (trichrome, Alcian blue)."""
    ignore_borders: bool = True
    """Brightfield RGB: near-black borders and unscanned areas are no tissue."""
    min_speck_um2: float = Field(default=400.0, ge=0)
    """Smaller pieces of tissue are dust; the default is about one cell of 20 um."""
    max_hole_um2: float = Field(default=400.0, ge=0)
    """Smaller holes in tissue are filled."""

    @model_validator(mode="after")
    def _fixed_needs_a_value(self) -> TissueConfig:
        if (self.method == "fixed") != (self.fixed_threshold is not None):
            raise ValueError("fixed_threshold goes with method = 'fixed', and only with it")
        return self


class IntensityConfig(Config):
    """The rule by which stored intensities become [0, 1]: RGB uint8 is 0 to 255, other channels by percentiles.

    The percentiles are of tissue pixels on each slide's overview, per channel.
    """

    low_percentile: float = Field(default=1.0, ge=0, le=100)
    """Percentile of the tissue pixels that becomes 0."""
    high_percentile: float = Field(default=99.5, ge=0, le=100)
    """Percentile that becomes 1; below 100, since a few hot pixels must not set the scale."""
    scope: Literal["slide"] = "slide"
    """Each slide has its own window, since exposure and stain differ more between slides than tissue does."""
    windows: dict[str, tuple[float, float]] = {}
    """Channel to (low, high), source units. These channels are not measured."""
    sharpness_mpp: float = Field(default=1.0, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    """Scale at which sharpness is measured, um/px; scanners lose focus at the default scale."""

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
    """Class names that are tumour."""
    non_tumor: tuple[str, ...] = ()
    """Class names that are labelled non-tumour. Where they overlap tumour, tumour counts."""
    holes: tuple[str, ...] = ()
    """Class names that are cut out of the tumour and count as labelled non-tumour."""
    ignored: tuple[str, ...] = ()
    """Class names that say nothing."""
    labelled: Literal["annotated", "whole-slide"] = "annotated"
    """annotated, the safe choice: what nobody outlined has no label. whole-slide: all that is not tumour is
    non-tumour.
    """
    subtracted_bounds: bool = True
    """QuPath subtracts `bounds-x` and `bounds-y` where it reads through OpenSlide; false for its other readers."""

    @model_validator(mode="after")
    def _one_meaning_each(self) -> AnnotationConfig:
        names = [*self.tumor, *self.non_tumor, *self.holes, *self.ignored]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands more than once in tumor, non_tumor, holes and ignored")
        return self


class LabelConfig(Config):
    """When a patch is a tumour patch, when it counts as labelled at all, and when it is neither one nor the other."""

    min_tumor_fraction: Fraction | None = None
    """Least share of tumour that makes a tumour patch. None: any tumour, that is one pixel."""
    min_labelled_fraction: float = Field(default=0.5, gt=0, le=1)
    """Least share of a patch that must be labelled; below it the patch has no label."""
    ambiguous: tuple[Fraction, Fraction] | None = None
    """(low, high): non-tumour up to low, tumour from high, no label between."""
    annotations: AnnotationConfig = AnnotationConfig()
    """What the class names of annotation files mean."""

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

    align: bool = False
    """Move the channels onto each other by whole pixels; otherwise pixels stay where the microscope put them."""
    warn_um: float = Field(default=2.0, gt=0)
    """Warn of channels that are shifted by more, um. The default is a fifth of a nucleus; shifts are measured to a few
    tenths of a px.
    """


class TileConfig(Config):
    """How slides are cut into patches."""

    patch_px: int = Field(default=256, ge=LEAST_PX, le=MOST_PX)
    """Side of a patch, px at the target mpp."""
    stride_px: int | None = Field(default=None, ge=1)
    """Step between patches, px. None: `patch_px`, patches side by side."""
    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    """Target scale of the patches, um/px. None: the slides' own."""
    store: Literal["zarr", "none"] = "zarr"
    """zarr keeps the pixels of patches; none keeps the tables alone."""
    tissue: TissueConfig = TissueConfig()
    """How tissue is found."""
    intensity: IntensityConfig = IntensityConfig()
    """How intensities become [0, 1]."""
    registration: RegistrationConfig = RegistrationConfig()
    """What is done about shifted channels."""
    labels: LabelConfig = LabelConfig()
    """When a patch is a tumour patch."""

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
    """Which scale ready images have, and the size of those that are not of one."""

    mpp: float | None = Field(default=None, ge=MPP_RANGE[0], le=MPP_RANGE[1])
    """Scale of the images as they are, um/px. None: unknown, and so is the scale of models that are trained on them."""
    px: int | None = Field(default=None, ge=8, le=MOST_PX)
    """Side that the middle square of all images is resampled to. None: they are as they are."""
