"""Find what a cohort's slides share: intensity windows, and background levels for slides that show none.

Windows are found before tiling, on the training slides alone, and written into the configuration. Every store and model
bundle carries them, so prediction uses the same. Background levels are found after a first tiling: they come from the
slides with certain tissue, and the uncertain slides are tiled again with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, artefact, fingerprint, fingerprint_file
from pathopatch.core.config import UNCERTAIN_BELOW, TileConfig
from pathopatch.core.errors import (
    ChannelMismatchError,
    InputMissingError,
    InputUnsupportedError,
    NoTissueError,
    PathopatchError,
)
from pathopatch.core.files import read_json
from pathopatch.core.status import read_status
from pathopatch.core.work_folder import WorkFolder
from pathopatch.patches.analysis import analyse_slide, polarities_of
from pathopatch.patches.intensity import pooled_windows, tissue_quantiles
from pathopatch.patches.store import STAGE, PatchStore
from pathopatch.patches.tissue import TissueModel
from pathopatch.slides import Slide
from pathopatch.slides.background import Polarities
from pathopatch.slides.manifest import SlideRow

NAME = "windows.json"
_LEAST_SLIDES = 2  # that show a channel's background
_MOST_SLIDES = 200  # read for the median: more make it no better
_AGREEMENT = 0.1  # largest relative deviation from the median; one grey level is always allowed


@dataclass(frozen=True, kw_only=True, eq=False)
class TissueIntensities:
    """How bright a slide's tissue is."""

    channels: tuple[str, ...]
    polarities: Polarities
    quantiles: NDArray[np.float64] | None  # (C, 2001), or (C, 0) without tissue; None for uint8 RGB, which needs none


MeasureSlides = Callable[[Sequence[SlideRow]], Mapping[str, TissueIntensities | PathopatchError]]
"""A function that returns the intensities of each slide, or why it cannot be read, by slide_id."""


def tissue_intensities(slide: Slide, config: TileConfig, *, tissue_mask: Path | None = None) -> TissueIntensities:
    """Return one slide's share in its cohort's windows; arguments and errors as of `analyse_slide`."""
    quantiles = None
    if not slide.is_rgb:
        # The cohort's windows are what is sought: the slide's own stand in for them.
        own = config.intensity.model_copy(update={"scope": "slide"})
        config = config.model_copy(update={"intensity": own})
        analysis = analyse_slide(slide, config, tissue_mask=tissue_mask)
        quantiles = tissue_quantiles(analysis.overview, analysis.tissue.mask != 0)
    return TissueIntensities(channels=slide.channels, polarities=polarities_of(slide, config), quantiles=quantiles)


def cohort_config(
    rows: Sequence[SlideRow],
    config: TileConfig,
    work: Path,
    *,
    fingerprints: Mapping[str, str],
    measured: MeasureSlides,
    force: bool = False,
    only_known: bool = False,
) -> TileConfig:
    """Return the configuration with the cohort's intensity windows; unchanged where each slide has its own.

    The windows are cached in the work folder's ``windows.json``. Those that the configuration states are kept.

    Parameters
    ----------
    rows : sequence of SlideRow
        The slides to be tiled.
    fingerprints : mapping of str to str
        Of each readable slide, by slide_id; the others take no part.
    measured : callable
        Measures slides with `tissue_intensities`; called only without current windows.
    force : bool
        Replace windows of other slides or settings, in place of stopping.
    only_known : bool
        Neither find nor write windows: without current ones, return the configuration unchanged.

    Raises
    ------
    InputUnsupportedError, InputMissingError, NoTissueError
        No slide is in the training split, or none can be read, or none shows tissue.
    ChannelMismatchError, StaleArtefactError
        The training slides differ in their channels; or the windows are of other slides or settings, without `force`.
    """
    if config.intensity.scope == "slide":
        return config
    # A slide without a split may become a test slide, and no test slide may influence a model's input.
    training = [row for row in rows if row.split == "train"]
    if not training:
        raise InputUnsupportedError(
            "[tile.intensity] scope = 'cohort' and no slide in the training split",
            place="column split",
            remedy="write train, val or test into the manifest's column split, or use [tile.intensity] scope = 'slide'",
        )
    usable = [row for row in training if row.slide_id in fingerprints]
    masks = {row.slide_id: [] if row.tissue_mask is None else [fingerprint_file(row.tissue_mask)] for row in usable}
    inputs = {name: fingerprint([fingerprints[name], *mask]) for name, mask in masks.items()}
    settings = {"intensity": config.intensity, "tissue": config.tissue, "mpp": config.mpp}
    stamp = Stamp(stage="windows", settings=settings, inputs=inputs)
    path = work / NAME
    with artefact(path, stamp=stamp, force=force) as output:
        if output.is_current:
            windows = read_json(path)["windows"]
        elif only_known:
            return config
        else:
            windows, left_out = _pool_windows(usable, config, measured(usable))
            output.write_json(path, {"windows": windows, "left_out": left_out})
    cohort_windows = {name: (float(low), float(high)) for name, (low, high) in windows.items()}
    intensity = config.intensity.model_copy(update={"windows": cohort_windows | config.intensity.windows})
    return config.model_copy(update={"intensity": intensity})


def _pool_windows(
    rows: Sequence[SlideRow], config: TileConfig, measured: Mapping[str, TissueIntensities | PathopatchError]
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Return the windows by channel (none for uint8 RGB), and why slides were left out, by slide_id."""
    quantiles, channels, left_out = [], None, {}
    polarities: Polarities = ()
    for row in rows:
        intensities = measured[row.slide_id]
        # An unreadable slide fails alone when it is tiled; it must not stop the cohort here.
        if isinstance(intensities, PathopatchError):
            left_out[row.slide_id] = str(intensities)
            continue
        if intensities.quantiles is None:
            return {}, {}
        names = intensities.channels
        if channels is not None and names != channels:
            raise ChannelMismatchError(
                f"the channels are {', '.join(names)}, those of the slides before it {', '.join(channels)}",
                place=f"slide {row.slide_id}",
                remedy="tile slides of different channels into different work folders",
            )
        channels, polarities = names, intensities.polarities
        quantiles.append(intensities.quantiles)
    if channels is None:
        raise InputMissingError(
            f"none of {len(rows)} training slides can be read: {'; '.join(left_out.values())}",
            place="[tile.intensity] scope = 'cohort'",
            remedy="mend the slides, or use [tile.intensity] scope = 'slide'",
        )
    if not any(of_slide.size for of_slide in quantiles):
        raise NoTissueError(
            f"none of {len(quantiles)} training slides shows tissue",
            place="[tile.intensity] scope = 'cohort'",
            remedy="look at the slides' background and at [tile.tissue], or use [tile.intensity] scope = 'slide'",
        )
    pooled = pooled_windows(quantiles, config.intensity, polarities)
    return {name: (low, high) for name, (low, high) in zip(channels, pooled.tolist(), strict=True)}, left_out


@dataclass(frozen=True, kw_only=True)
class SlideLevels:
    """The background that a slide shows: a level for each channel where it is in view, source units."""

    channels: tuple[str, ...]
    levels: Mapping[str, float]


def slide_levels(tissue: TissueModel, channels: Sequence[str]) -> SlideLevels:
    """Return the levels of a slide's tissue model; `channels` are the slide's."""
    levels = zip(channels, tissue.levels, strict=False)
    known = {name: level for name, level in levels if not math.isnan(level)}
    return SlideLevels(channels=tuple(channels), levels=known)


def cohort_levels(
    confidence: Mapping[str, float], candidates: Collection[str], read_levels: Callable[[str], SlideLevels]
) -> dict[str, dict[str, float]]:
    """Return the cohort's background levels for those `candidates` that are uncertain and have other levels.

    They are to be analysed a second time, see `with_cohort_levels`. The levels come from the certain slides.

    Parameters
    ----------
    confidence : mapping of str to float
        Of the tissue of each slide by its own evidence; a slide with the cohort's level would confirm it.
    candidates : collection of str
        Slides that may take levels.
    read_levels : callable
        Returns a slide's own levels; called of candidates, and of at most 200 certain slides.

    Returns
    -------
    dict
        slide_id -> channel -> level, source units.
    """
    uncertain = {slide for slide, value in confidence.items() if value < UNCERTAIN_BELOW}
    wanted = [slide for slide in confidence if slide in uncertain and slide in candidates]
    if not wanted:
        return {}
    certain = [slide for slide in confidence if slide not in uncertain]
    # Every k-th of the slides: opening the stores of a large cohort takes longer than the median.
    step = max(1, len(certain) // _MOST_SLIDES)
    agreed = _agreed_levels([read_levels(slide).levels for slide in certain[::step]])
    levels_by_slide = {}
    for slide in wanted:
        own = read_levels(slide)
        levels = {name: agreed[name] for name in own.channels if name in agreed}
        # A slide that already has the cohort's level is uncertain for another reason and keeps its doubts.
        if any(name not in own.levels or not _is_close(own.levels[name], level) for name, level in levels.items()):
            levels_by_slide[slide] = levels
    return levels_by_slide


def find_background_levels(
    work: Path, slide_ids: Collection[str], cohort: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the `cohort_levels` for those of `slide_ids`, from the statuses and stores of the tiled `cohort`."""
    entries = {slide: read_status(work, slide).get(STAGE, {}) for slide in cohort}
    confidence = {
        slide: entry["tissue_confidence"]
        for slide, entry in entries.items()
        if entry.get("tissue_confidence") is not None and not entry["cohort_levels"]
    }

    def read_levels(slide: str) -> SlideLevels:
        attributes = PatchStore(WorkFolder(work).store(slide)).attributes
        # No level would change a mask that was supplied.
        channels = () if attributes["tissue"].get("is_supplied") else tuple(attributes["channels"])
        return SlideLevels(channels=channels, levels=attributes["tissue"]["levels"])

    return cohort_levels(confidence, slide_ids, read_levels)


def with_cohort_levels(config: TileConfig, levels: Mapping[str, float]) -> TileConfig:
    """Return a configuration with the cohort's background levels for channels of which it states none."""
    if not levels:
        return config
    tissue = config.tissue.model_copy(update={"background_level": {**levels, **config.tissue.background_level}})
    return config.model_copy(update={"tissue": tissue})


def _agreed_levels(slides: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median level of each channel whose slides agree."""
    agreed = {}
    for name in dict.fromkeys(name for levels in slides for name in levels):
        values = np.array([levels[name] for levels in slides if name in levels])
        median = float(np.median(values))
        # 1.4826 times the median deviation is the standard deviation of a normal distribution, robust to outliers.
        spread = 1.4826 * float(np.median(np.abs(values - median)))
        if len(values) >= _LEAST_SLIDES and _is_close(median + spread, median):
            agreed[name] = median
    return agreed


def _is_close(level: float, other: float) -> bool:
    return abs(level - other) <= max(1.0, _AGREEMENT * abs(other))
