"""Say of each predicted slide where it lies and how QuPath shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathopatch.core.errors import InputCorruptError, InputMissingError, PathopatchError
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.decisions.decision import RecordedDecision
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.decision_annotations import Annotation, annotations_of
from pathopatch.heatmaps.slide_places import Source
from pathopatch.patches.grid import Grid
from pathopatch.slides.composite import channel_colors
from pathopatch.slides.slide_paths import Fragment, split_fragment

HEATMAP_FILES = ("patches.geojson.gz", "regions.geojson.gz")
"""Files of a heatmap that QuPath imports."""
_RGB = ["R", "G", "B"]
_NO_PLACE = (
    "where it lies is unknown: it was de-identified, predicted from features, or its status is lost; "
    "give --manifest with the slides"
)


@dataclass(frozen=True, kw_only=True)
class SlideFile:
    """A file that holds a slide, or one of its channels."""

    channel: str | None  # None: all channels
    name: str
    absolute: str
    relative: str  # to the folder of the export; "" on another drive
    plane: int | None  # the one that is read; None: all
    chosen: str  # page, z or t of the file, which QuPath must be told by hand; "" for none


@dataclass(frozen=True, kw_only=True)
class QupathSlide:
    """A slide as the script of the project reads it; lengths in level-0 px."""

    slide_id: str
    note: str = ""  # what a person should know: why it is left out, or whether its files are missing
    files: list[SlideFile] = field(default_factory=list)  # the script leaves the slide out if none, or one is `chosen`
    size: list[int] = field(default_factory=list)  # width, height of the whole slide
    bounds: list[int] = field(default_factory=list)  # x, y, width, height of its scanned part
    mpp: float = 0.0
    image_type: str = "UNSET"  # QuPath's name
    channels: list[dict[str, Any]] = field(default_factory=list)  # name, and color as red, green, blue
    metadata: dict[str, str] = field(default_factory=dict)  # shown beside the name in QuPath
    marks: list[str] = field(default_factory=list)  # of the content of `HEATMAP_FILES`
    annotations: list[Annotation] = field(default_factory=list)


def describe_slide(
    out: Path, slide_id: str, source: Source | None, decisions: Sequence[RecordedDecision], *, folder: Path
) -> QupathSlide:
    """Return a slide as the script in `folder` needs it; what is wrong with its heatmap is its note."""
    try:
        facts = _whole_facts(out, slide_id)
    except PathopatchError as error:
        return QupathSlide(slide_id=slide_id, note=f"{error.message}; predict the slide again")
    files = _files(source, folder) if source is not None and _is_of_pixels(facts) else []
    size, bounds = facts["size_px"], facts["bounds_px"]
    side_px = Grid(
        width=size[0], height=size[1], **{name: facts[name] for name in ("downsample", "patch_px", "stride_px")}
    ).span_px
    return QupathSlide(
        slide_id=slide_id,
        note=_note(files) if files else _NO_PLACE,
        files=files,
        size=size,
        bounds=bounds,
        mpp=facts["mpp"],
        image_type=_image_type(facts),
        channels=[
            {"name": name, "color": [255 * part for part in color]}
            for name, color in zip(facts["channels"], channel_colors(len(facts["channels"])), strict=True)
        ],
        metadata=_metadata(facts, decisions),
        marks=[facts["outputs"][name]["fingerprint"] for name in HEATMAP_FILES],
        annotations=annotations_of(decisions, patch_px=side_px, slide_size=tuple(size), bounds=tuple(bounds)),
    )


def _whole_facts(out: Path, slide_id: str) -> dict[str, Any]:
    """Return ``heatmap.json``; refuse a heatmap whose files for QuPath are not as they were written."""
    heatmap = WorkFolder(out).heatmap(slide_id)
    facts = read_json(heatmap / FACTS)
    for name in HEATMAP_FILES:
        if not (heatmap / name).is_file():
            raise InputMissingError(f"the heatmap lacks {name}")
        # The sizes only: to read every file of a cohort would take as long as to import it.
        if facts.get("outputs", {}).get(name, {}).get("bytes") != (heatmap / name).stat().st_size:
            raise InputCorruptError(f"{name} is not as it was written")
    return facts


def _is_of_pixels(facts: Mapping[str, Any]) -> bool:
    """Return whether the status names the slide itself: it was read, or drawn under the map of its features."""
    stamp = facts["stamp"]
    return "tiling" in stamp["settings"] or "picture" in stamp["inputs"]


def _files(source: Source, folder: Path) -> list[SlideFile]:
    """Return the files of a slide; a path may end in what is chosen of the file."""
    parts = source.items() if isinstance(source, dict) else [(None, source)]
    files = []
    for channel, text in parts:
        fragment = Fragment(text) if Path(text).exists() else split_fragment(text)
        absolute = os.path.abspath(fragment.path)  # noqa: PTH100 - without following links: QuPath shows this name
        # The first page is what QuPath opens by itself.
        chosen = {"page": fragment.page or None, "z": fragment.z, "t": fragment.t}
        files.append(
            SlideFile(
                channel=channel,
                name=Path(absolute).name,
                absolute=absolute,
                relative=_relative(absolute, folder),
                plane=fragment.plane,
                chosen="&".join(f"{name}={number}" for name, number in chosen.items() if number is not None),
            )
        )
    return files


def _relative(absolute: str, folder: Path) -> str:
    """Return a path from a folder, links followed in both: only so ``..`` leads back."""
    try:
        return Path(os.path.relpath(os.path.realpath(absolute), os.path.realpath(folder))).as_posix()
    except ValueError:  # on another drive of Windows
        return ""


def _note(files: Sequence[SlideFile]) -> str:
    """Return what a person must do to see a slide; "" if nothing."""
    if chosen := next((file.chosen for file in files if file.chosen), ""):
        return (
            f"only {chosen} of the file was predicted, which QuPath must be told: open this image by hand, and drag "
            "the slide's files of objects onto it"
        )
    missing = [file.name for file in files if not Path(file.absolute).exists()]
    return f"not found now: {', '.join(missing)}" if missing else ""


def _image_type(facts: Mapping[str, Any]) -> str:
    """Return QuPath's name of the image's type: H&E for 8-bit colour on bright ground, fluorescence on dark ground."""
    polarities = {part.rpartition("=")[2] for part in str(facts["background"]).split(",")}
    if polarities == {"dark"}:
        return "FLUORESCENCE"
    # Stains are told apart by no file; QuPath separates those of H&E, and the type can be changed there.
    return "BRIGHTFIELD_H_E" if facts["channels"] == _RGB and facts["dtype"] == "uint8" else "OTHER"


def _metadata(facts: Mapping[str, Any], decisions: Sequence[RecordedDecision]) -> dict[str, str]:
    """Return what QuPath shows of a slide and sorts slides by; "" where nothing is decided, to clear what was."""
    share = facts.get("summary", {}).get("positive_share")
    verdict = next((row for row in decisions if row.x is None), None)
    return {
        "method": str(facts.get("method", "")),
        "positive share of tissue": "" if share is None else f"{share:.3f}",
        "decision": "" if verdict is None else verdict.verdict,
        "reason": "" if verdict is None else verdict.reason,
        "note": "" if verdict is None else verdict.comment,
        "reviewer": "" if verdict is None else verdict.reviewer,
    }
