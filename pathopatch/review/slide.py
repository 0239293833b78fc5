"""What does one slide of a work folder consist of, for those who review it? Its facts, tables, maps and pixels."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, fingerprint_file, read_table
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import inside, read_json
from pathopatch.heatmaps import FACTS
from pathopatch.heatmaps.ome_tiff import HeatmapFile, read_ome_tiff
from pathopatch.patches.grid import Grid
from pathopatch.review.cache import ByteCache
from pathopatch.review.patches import Patches, joined

if TYPE_CHECKING:
    import pandas as pd

    from pathopatch.slides import Slide

FINGERPRINT_DIGITS = 16


def heatmap_fingerprint(facts: Mapping[str, Any]) -> str:
    """Return by which name a decision says of which heatmap it is: of the stamp in ``heatmap.json``, 16 digits."""
    return fingerprint(facts["stamp"])[:FINGERPRINT_DIGITS]


class ReviewedSlide:
    """A predicted slide, its artefacts read when they are asked for; any thread may ask.

    Parameters
    ----------
    out : Path
        Work folder of the predictions.
    slide_id : str
        A checked slide id.
    source : str or dict of str to str, or None
        Where the slide lies; None if nobody says.
    work : Path, optional
        Folder of the ``groups.parquet`` that has the patches' labels.
    patient_id : str
        Empty if it is not known.
    name : str
        Of the run that predicted it.
    beside : ReviewedSlide, optional
        The same slide by another model.
    why_no_beside : str, optional
        Why there is none, though there is another run.
    cache : ByteCache, optional
        Where its pictures are kept.

    Raises
    ------
    InputMissingError
        The slide has no heatmap.
    InputCorruptError
        What describes the heatmap cannot be read.
    """

    def __init__(
        self,
        out: Path,
        slide_id: str,
        *,
        source: str | dict[str, str] | None = None,
        work: Path | None = None,
        patient_id: str = "",
        name: str = "",
        beside: ReviewedSlide | None = None,
        why_no_beside: str | None = None,
        cache: ByteCache | None = None,
    ) -> None:
        self.slide_id, self.patient_id, self.name = slide_id, patient_id, name
        self.source, self.beside, self.why_no_beside = source, beside, why_no_beside
        self.cache = ByteCache() if cache is None else cache
        self._out, self._work = out, work
        self._lock = threading.RLock()
        self._slide: Slide | None = None
        self._small: dict[int, NDArray[np.generic]] = {}
        self.facts = read_facts(out, slide_id)

    @property
    def folder(self) -> Path:
        """Where the heatmap's files lie."""
        return inside(self._out, "heatmaps", self.slide_id)

    @cached_property
    def fingerprint(self) -> str:
        """The heatmap's, see `heatmap_fingerprint`."""
        return heatmap_fingerprint(self.facts)

    @property
    def model_fingerprint(self) -> str:
        """That of the model which made the heatmap, or of several models."""
        return str(self.facts["stamp"]["inputs"]["model"])[:FINGERPRINT_DIGITS]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, level-0 px."""
        width, height = self.facts["size_px"]
        return int(width), int(height)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the pixels."""
        return tuple(self.facts["channels"])

    @property
    def is_rgb(self) -> bool:
        """Whether it is brightfield, whose pixels are shown as they are."""
        if self.channels != ("R", "G", "B"):
            return False
        if "dtype" in self.facts:
            return bool(self.facts["dtype"] == "uint8")
        return bool((self.windows == (0, 255)).all())  # a folder from before the type was kept

    @property
    def has_spread(self) -> bool:
        """Whether several models spoke, whose spread is known."""
        return "spread" in self.facts.get("map_channels", ())

    @property
    def key(self) -> tuple[str, str, str]:
        """Of which pictures are kept: its id, its heatmap, and where it lies."""
        return self.slide_id, self.fingerprint, str(self.source)

    @property
    def windows(self) -> NDArray[np.float64]:
        """(low, high) intensity per channel, (C, 2), source units: those that the model saw."""
        return np.asarray(self.facts["intensity_windows"], np.float64)

    @cached_property
    def grid(self) -> Grid:
        """Where the patches lie."""
        width, height = self.size
        return Grid(
            width=width,
            height=height,
            downsample=self.facts["downsample"],
            patch_px=self.facts["patch_px"],
            stride_px=self.facts["stride_px"],
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """The predictions as they stand; see `pathopatch.heatmaps.predict_slide`."""
        return read_table(inside(self._out, "predictions", f"{self.slide_id}.parquet"))

    @cached_property
    def heatmap(self) -> HeatmapFile:
        """The maps as they stand."""
        return read_ome_tiff(self.folder / "heatmap.ome.tif")

    @cached_property
    def groups(self) -> pd.DataFrame | None:
        """The slide's rows of the groups table; None where there is no such table."""
        if self._work is None or not (self._work / "groups.parquet").is_file():
            return None
        return read_table(self._work / "groups.parquet", slide_id=self.slide_id)

    @cached_property
    def patches(self) -> Patches:
        """What is known of the predicted patches."""
        other = self.beside
        is_alike = other is not None and other.grid.span_px == self.grid.span_px
        return joined(
            self.table,
            self.grid,
            decision_threshold=self.facts["decision_threshold"],
            min_tissue=self.min_tissue,
            groups=self.groups,
            beside=other.table if other is not None and is_alike else None,
        )

    @cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        return {
            place: row for row, place in enumerate(zip(self.patches.x.tolist(), self.patches.y.tolist(), strict=True))
        }

    def patch_at(self, x: int, y: int) -> int:
        """Return the row of the patch that begins at (x, y), level-0 px.

        Raises
        ------
        InputMissingError
            None was predicted there.
        """
        if (x, y) not in self._places:
            raise InputMissingError(
                f"no predicted patch at {x}, {y}", place=self.slide_id, remedy="choose one of the table's origins"
            )
        return self._places[x, y]

    @cached_property
    def min_tissue(self) -> float:
        """Below which tissue fraction a patch of the groups table is blank."""
        audit = None if self._work is None else self._work / "groups" / "audit.json"
        known = read_json(audit) if audit is not None and audit.is_file() else {}
        from pathopatch.core.config import GroupsConfig

        return float(known.get("min_tissue", GroupsConfig().min_tissue))

    def why_no_pixels(self) -> str | None:
        """Return why the slide's own pixels cannot be shown; None if they can."""
        try:
            with self.reading():
                return None
        except (PathopatchError, OSError) as error:
            return f"{error.message} {error.remedy}".strip() if isinstance(error, PathopatchError) else str(error)

    @contextmanager
    def reading(self) -> Iterator[Slide]:
        """Yield the open slide, its channels where the model saw them; one thread at a time.

        Raises
        ------
        InputMissingError
            Nobody says where it lies, or it is gone.
        InputUnsupportedError
            What lies there is another slide.
        PathopatchError
            It cannot be opened.
        """
        with self._lock:
            if self._slide is None:
                self._slide = self._opened()
            yield self._slide

    def small(self, longest_px: int) -> NDArray[np.generic]:
        """Return the whole slide, (C, h, w), its longest side at most so many px; read once."""
        with self.reading() as slide:
            if longest_px not in self._small:
                self._small[longest_px] = slide.read_overview(longest_px)[0]
            return self._small[longest_px]

    def close(self) -> None:
        """Let go of the slide's files and overview; a later read opens them again."""
        with self._lock:
            if self._slide is not None:
                self._slide.close()
            self._slide = None
            self._small.clear()

    def _opened(self) -> Slide:
        """Return the slide as predict read it."""
        from pathopatch.slides import aligned, open_slide

        if self.source is None:
            raise InputMissingError(
                "nothing says where the slide lies: it was predicted with --deidentify, or its status file is lost",
                place=self.slide_id,
                remedy="give --manifest to see its pixels",
            )
        of_file = isinstance(self.source, str)
        background = self.facts["background"]
        slide = open_slide(
            self.source,
            mpp=self.facts["mpp"],
            channels=self.channels if of_file else None,
            background=background,
        )
        if difference := self._difference(slide):
            slide.close()
            raise InputUnsupportedError(
                f"another slide than was predicted: {difference}",
                place=str(slide.paths[0]),
                remedy="correct the manifest, or predict the slide again",
            )
        return aligned(slide, tuple((int(x), int(y)) for x, y in self.facts.get("offsets_px", ())), background)

    def _difference(self, slide: Slide) -> str:
        """Return in words what tells a slide from the predicted one; empty if they are one."""
        found, due = (slide.size, slide.channels), (self.size, self.channels)
        if found != due:
            said = ("x".join(map(str, size)) + " px of " + ", ".join(channels) for size, channels in (found, due))
            return " against ".join(said)
        files = [fingerprint_file(path) for path in slide.paths]
        return "" if self.facts.get("files", files) == files else "the content of its files differs"


def read_facts(out: Path, slide_id: str) -> dict[str, Any]:
    """Return what ``heatmap.json`` says.

    Raises
    ------
    InputMissingError
        The slide has no heatmap.
    InputCorruptError
        It cannot be read.
    """
    try:
        return read_json(inside(out, "heatmaps", slide_id) / FACTS)
    except InputMissingError as error:
        raise InputMissingError(
            "no heatmap of this slide", place=slide_id, remedy="predict it; its status says what went wrong before"
        ) from error
