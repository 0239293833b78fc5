"""Which intensities become 0 and 1 over a whole cohort: the pass over the training slides before they are tiled.

Only slides that the manifest puts into the training split count, and each alike. A slide without a split may yet become
a test slide, and no test slide may influence what a model is fed with. The windows stand in the configuration from
here on, so that every store and every model bundle carries them and prediction uses the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pathopatch.config import TileConfig
from pathopatch.errors import (
    ChannelMismatchError,
    InputMissingError,
    InputUnsupportedError,
    NoTissueError,
    PathopatchError,
)
from pathopatch.files import read_json, write_json
from pathopatch.manifest import SlideRow
from pathopatch.patches.analysis import slide_quantiles
from pathopatch.patches.intensity import pooled_windows
from pathopatch.provenance import Stamp, fingerprint, fingerprint_file, is_current, json_stamp
from pathopatch.slides import Slide

NAME = "windows.json"


def cohort_config(
    rows: Sequence[SlideRow],
    config: TileConfig,
    work: Path,
    *,
    fingerprints: Mapping[str, str],
    opened: Callable[[SlideRow], Slide],
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
    opened : callable
        Opens a row's slide.
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
            "intensity.scope = 'cohort' and no slide in the training split",
            place="column split",
            remedy="write train, val or test into the manifest's column split, or use scope = 'slide'",
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
        windows, left_out = _pooled(usable, config, opened)
        write_json(path, {"windows": windows, "left_out": left_out, "stamp": stamp.to_dict()})
    known = {name: (float(low), float(high)) for name, (low, high) in windows.items()}
    intensity = config.intensity.model_copy(update={"windows": known | config.intensity.windows})
    return config.model_copy(update={"intensity": intensity})


def _of_mask(row: SlideRow) -> list[str]:
    return [] if row.tissue_mask is None else [fingerprint_file(row.tissue_mask)]


def _pooled(
    rows: Sequence[SlideRow], config: TileConfig, opened: Callable[[SlideRow], Slide]
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Return the windows by channel, and why slides were left out; no windows for uint8 RGB, which needs none."""
    quantiles, channels, left_out = [], None, {}
    for row in rows:
        try:
            with opened(row) as slide:
                if slide.is_rgb:
                    return {}, {}
                names, found = slide.channels, slide_quantiles(slide, config, tissue_mask=row.tissue_mask)
        except PathopatchError as error:  # it fails alone when it is tiled
            left_out[row.slide_id] = str(error)
            continue
        if channels is not None and names != channels:
            raise ChannelMismatchError(
                f"the channels are {', '.join(names)}, those of the slides before it {', '.join(channels)}",
                place=f"slide {row.slide_id}",
                remedy="tile slides of different channels into different work folders",
            )
        channels = names
        quantiles.append(found)
    if channels is None:
        raise InputMissingError(
            f"none of {len(rows)} training slides can be read: {'; '.join(left_out.values())}",
            place="intensity.scope = 'cohort'",
            remedy="mend the slides, or use scope = 'slide'",
        )
    if not any(each.size for each in quantiles):
        raise NoTissueError(
            f"none of {len(quantiles)} training slides shows tissue",
            place="intensity.scope = 'cohort'",
            remedy="look at the slides' background and tissue settings, or use scope = 'slide'",
        )
    pooled = pooled_windows(quantiles, config.intensity)
    return {name: (low, high) for name, (low, high) in zip(channels, pooled.tolist(), strict=True)}, left_out
