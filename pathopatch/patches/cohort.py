"""Which intensities become 0 and 1 over a whole cohort: the pass over the training slides before they are tiled.

Only slides that the manifest puts into the training split count, and each alike. A slide without a split may yet become
a test slide, and no test slide may influence what a model is fed with. The windows stand in the configuration from
here on, so that every store and every model bundle carries them and prediction uses the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import Stamp, fingerprint, fingerprint_file, is_current, json_stamp
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import (
    ChannelMismatchError,
    InputMissingError,
    InputUnsupportedError,
    NoTissueError,
    PathopatchError,
)
from pathopatch.core.files import read_json, write_json
from pathopatch.patches.analysis import polarities_of, slide_quantiles
from pathopatch.patches.intensity import pooled_windows
from pathopatch.slides import Slide
from pathopatch.slides.background import Polarities
from pathopatch.slides.manifest import SlideRow

NAME = "windows.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Intensities:
    """How bright a slide's tissue is.

    Parameters
    ----------
    channels : tuple of str
        In the order of the quantiles.
    polarities : tuple of {"dark", "bright"}
        Of each channel.
    quantiles : ndarray of float64, shape (C, 2001) or (C, 0), or None
        Of the tissue, see `pathopatch.patches.analysis.slide_quantiles`; None for uint8 RGB, which needs no windows.
    """

    channels: tuple[str, ...]
    polarities: Polarities
    quantiles: NDArray[np.float64] | None


Measured = Callable[[Sequence[SlideRow]], Mapping[str, Intensities | PathopatchError]]
"""What measures slides: the intensities of each, or why it cannot be read, by slide_id."""


def tissue_intensities(slide: Slide, config: TileConfig, *, tissue_mask: Path | None = None) -> Intensities:
    """Return what one slide adds to the windows of its cohort; arguments and errors as of `slide_quantiles`."""
    quantiles = None if slide.is_rgb else slide_quantiles(slide, config, tissue_mask=tissue_mask)
    return Intensities(channels=slide.channels, polarities=polarities_of(slide, config), quantiles=quantiles)


def cohort_config(
    rows: Sequence[SlideRow],
    config: TileConfig,
    work: Path,
    *,
    fingerprints: Mapping[str, str],
    measured: Measured,
    force: bool = False,
    only_known: bool = False,
) -> TileConfig:
    """Return a configuration whose windows are those of the cohort; it is returned as it is if none are asked for.

    They are written to ``windows.json`` in the work folder and read from there as long as nothing changes.

    Parameters
    ----------
    rows : sequence of SlideRow
        The slides that are to be tiled.
    config : TileConfig
        How; windows that it gives are kept.
    work : Path
        Work folder.
    fingerprints : mapping of str to str
        Of each slide that could be opened, by slide_id; the others take no part.
    measured : callable
        Measures slides with `tissue_intensities`; called only where windows have to be found.
    force : bool
        Find them anew where other slides or settings would give others, in place of stopping.
    only_known : bool
        Neither find nor write windows: without current ones the configuration is returned as it is.

    Raises
    ------
    InputUnsupportedError
        No slide stands in the training split.
    ChannelMismatchError
        The training slides have different channels.
    InputMissingError
        No training slide can be read.
    NoTissueError
        No training slide shows tissue.
    StaleArtefactError
        The windows there were found otherwise, and `force` is off.
    """
    if config.intensity.scope == "slide":
        return config
    training = [row for row in rows if row.split == "train"]
    if not training:
        raise InputUnsupportedError(
            "[tile.intensity] scope = 'cohort' and no slide in the training split",
            place="column split",
            remedy="write train, val or test into the manifest's column split, or use [tile.intensity] scope = 'slide'",
        )
    usable = [row for row in training if row.slide_id in fingerprints]
    inputs = {row.slide_id: fingerprint([fingerprints[row.slide_id], *_of_mask(row)]) for row in usable}
    settings = {"intensity": config.intensity, "tissue": config.tissue, "mpp": config.mpp}
    stamp = Stamp(stage="windows", config=fingerprint(settings), inputs=inputs)
    path = work / NAME
    if is_current(stamp, json_stamp(path), place=path, force=force):
        windows = read_json(path)["windows"]
    elif only_known:
        return config
    else:
        windows, left_out = _pooled(usable, config, measured(usable))
        write_json(path, {"windows": windows, "left_out": left_out, "stamp": stamp.to_dict()})
    known = {name: (float(low), float(high)) for name, (low, high) in windows.items()}
    intensity = config.intensity.model_copy(update={"windows": known | config.intensity.windows})
    return config.model_copy(update={"intensity": intensity})


def _of_mask(row: SlideRow) -> list[str]:
    return [] if row.tissue_mask is None else [fingerprint_file(row.tissue_mask)]


def _pooled(
    rows: Sequence[SlideRow], config: TileConfig, measured: Mapping[str, Intensities | PathopatchError]
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Return the windows by channel, and why slides were left out; no windows for uint8 RGB, which needs none."""
    quantiles, channels, left_out = [], None, {}
    polarities: Polarities = ()
    for row in rows:
        found = measured[row.slide_id]
        if isinstance(found, PathopatchError):  # it fails alone when it is tiled
            left_out[row.slide_id] = str(found)
            continue
        if found.quantiles is None:
            return {}, {}
        names = found.channels
        if channels is not None and names != channels:
            raise ChannelMismatchError(
                f"the channels are {', '.join(names)}, those of the slides before it {', '.join(channels)}",
                place=f"slide {row.slide_id}",
                remedy="tile slides of different channels into different work folders",
            )
        channels, polarities = names, found.polarities
        quantiles.append(found.quantiles)
    if channels is None:
        raise InputMissingError(
            f"none of {len(rows)} training slides can be read: {'; '.join(left_out.values())}",
            place="[tile.intensity] scope = 'cohort'",
            remedy="mend the slides, or use [tile.intensity] scope = 'slide'",
        )
    if not any(each.size for each in quantiles):
        raise NoTissueError(
            f"none of {len(quantiles)} training slides shows tissue",
            place="[tile.intensity] scope = 'cohort'",
            remedy="look at the slides' background and at [tile.tissue], or use [tile.intensity] scope = 'slide'",
        )
    pooled = pooled_windows(quantiles, config.intensity, polarities)
    return {name: (low, high) for name, (low, high) in zip(channels, pooled.tolist(), strict=True)}, left_out
