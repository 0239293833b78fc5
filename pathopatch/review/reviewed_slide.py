"""Read what `predict` wrote of one slide: facts, table, maps, patches, and the slide's own pixels."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import changed, fingerprint, fingerprint_file, read_table
from pathopatch.core.config import PatchLimits, known_limits
from pathopatch.core.errors import InputChangedError, InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.files import read_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.groups.attribute import scanned_enough, threshold_attributes, tissue_bin
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps import facts as heatmap_facts
from pathopatch.heatmaps.facts import HeatmapFacts
from pathopatch.heatmaps.model_record import read_model_record
from pathopatch.heatmaps.pyramids import HeatmapFile, read_ome_tiff
from pathopatch.heatmaps.stitch import cell_positions, nearest_cells
from pathopatch.patches.grid import Grid

if TYPE_CHECKING:
    from pathopatch.slides import Slide

_CACHE_BYTES = 256 * 2**20  # about 20,000 tiles: several slides looked at closely
_REST = 20  # the time between two looks at an OME-Zarr's files, by that of one
_FINGERPRINT_DIGITS, _SHOWN_DIGITS = 16, 8
_MOST_NAMES = 2  # of an ensemble; more would fill the page
_TAU = 0.25  # tissue threshold of the groups where there is no groups table


Source = str | dict[str, str]
"""A slide's path with its fragment, or one per channel."""


class ByteCache:
    """Least-recently-used cache of byte strings, of at most `limit_bytes` together; safe to share among threads."""

    def __init__(self, limit_bytes: int = _CACHE_BYTES) -> None:
        self._limit_bytes, self._lock = limit_bytes, threading.Lock()
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return a key's bytes, made if they are not cached."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # The lock is free meanwhile: a slow tile must not hold up the others. Two threads may make the same one.
        value = make()
        with self._lock:
            self.size_bytes -= len(self._values.pop(key, b""))
            # A value larger than the limit would push out all others.
            if len(value) <= self._limit_bytes:
                self._values[key] = value
                self.size_bytes += len(value)
            while self.size_bytes > self._limit_bytes:
                self.size_bytes -= len(self._values.popitem(last=False)[1])
        return value


class ReviewedSlide:
    """A predicted slide, whose artefacts are read on first use; safe to share among threads.

    `out` has the predictions, `work` the ``groups.parquet`` with the patches' labels. `source` is None if the slide's
    place is unknown. `beside` is the same slide by the run to compare with; `why_no_beside` says why there is none.
    Raises InputMissingError without a heatmap, InputCorruptError for an unreadable ``heatmap.json``.
    """

    def __init__(
        self,
        out: Path,
        slide_id: str,
        *,
        source: Source | None = None,
        work: Path | None = None,
        patient_id: str = "",
        beside: ReviewedSlide | None = None,
        why_no_beside: str | None = None,
        cache: ByteCache | None = None,
    ) -> None:
        self.slide_id, self.patient_id = slide_id, patient_id
        self.source, self.beside, self.why_no_beside = source, beside, why_no_beside
        self.cache = ByteCache() if cache is None else cache
        self._out, self._work = out, work
        # Re-entrant, since `overview` holds it while it asks for the open slide.
        self._lock = threading.RLock()
        self._slide: Slide | None = None
        self._check_due = 0.0
        self._overviews: dict[int, NDArray[np.generic]] = {}
        self.folder = WorkFolder(out).heatmap(slide_id)
        self.facts = read_checked_facts(out, slide_id)
        width, height = self.facts["size_px"]
        self.size = int(width), int(height)  # level-0 px
        self.channels: tuple[str, ...] = tuple(self.facts["channels"])

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the heatmap, see `heatmap_fingerprint`."""
        return heatmap_fingerprint(self.facts)

    @cached_property
    def models(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What made the heatmap, and what made the one beside, see `describe_model`; their names differ."""
        own = describe_model(self._out, self.facts)
        return (own, None) if self.beside is None else with_distinct_names(own, self.beside.models[0])

    @property
    def is_rgb(self) -> bool:
        """Whether it is brightfield, whose pixels are shown as they are."""
        return self.channels == ("R", "G", "B") and self.facts["dtype"] == "uint8"

    @property
    def has_spread(self) -> bool:
        """Whether an ensemble predicted it, whose members' spread is known."""
        return "spread" in self.facts["map_channels"]

    @property
    def cache_key(self) -> tuple[str, str, str]:
        """Distinguishes this slide's pictures: its id, its heatmap, and where it lies."""
        return self.slide_id, self.fingerprint, str(self.source)

    @cached_property
    def windows(self) -> NDArray[np.float64]:
        """(low, high) intensity per channel, (C, 2), source units: those that the model saw."""
        return np.asarray(self.facts["intensity_windows"], np.float64)

    @cached_property
    def grid(self) -> Grid:
        """The grid that the patches were cut by."""
        return heatmap_facts.heatmap_grid(self.facts)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The predictions, see `pathopatch.heatmaps.slide_prediction.predict_slide`."""
        return read_table(WorkFolder(self._out).predictions(self.slide_id))

    @cached_property
    def heatmap(self) -> HeatmapFile:
        """The maps of ``heatmap.ome.tif``."""
        return read_ome_tiff(self.folder / "heatmap.ome.tif")

    @cached_property
    def groups(self) -> pd.DataFrame | None:
        """The slide's rows of the groups table; None without such a table."""
        if self._work is None or not WorkFolder(self._work).groups.is_file():
            return None
        return read_table(WorkFolder(self._work).groups, slide_id=self.slide_id)

    @cached_property
    def limits(self) -> PatchLimits:
        """Least tissue and scanned fraction of a patch in a group, by the names in the audit."""
        audit = None if self._work is None else WorkFolder(self._work).audit
        facts = read_json(audit) if audit is not None and audit.is_file() else {}
        return known_limits(facts)

    @cached_property
    def patches(self) -> Patches:
        """The predicted patches, with labels, groups and the other run's probabilities."""
        other = self.beside
        # Patches of another side length would be compared by a corner that they happen to share.
        is_comparable = other is not None and other.grid.span_px == self.grid.span_px
        return join_patches(
            self.table,
            self.grid,
            decision_threshold=self.facts["decision_threshold"],
            limits=self.limits,
            groups=self.groups,
            beside=other.table if other is not None and is_comparable else None,
            is_on_grid=self.facts.get("placement", "grid") == "grid",
        )

    @cached_property
    def _row_of_origin(self) -> dict[tuple[int, int], int]:
        origins = zip(self.patches.x.tolist(), self.patches.y.tolist(), strict=True)
        return {origin: row for row, origin in enumerate(origins)}

    def patch_at(self, x: int, y: int) -> int:
        """Return the table's row of the patch with origin (x, y), level-0 px; InputMissingError if there is none."""
        if (x, y) not in self._row_of_origin:
            raise InputMissingError(
                f"no predicted patch at {x}, {y}", place=self.slide_id, remedy="choose one of the table's origins"
            )
        return self._row_of_origin[x, y]

    def why_no_pixels(self) -> str | None:
        """Return why the slide's own pixels cannot be shown; None if they can."""
        try:
            with self.reading():
                return None
        except PathopatchError as error:
            return f"{error.message}: {error.remedy}" if error.remedy else error.message
        except OSError as error:
            return str(error)

    @contextmanager
    def reading(self) -> Iterator[Slide]:
        """Yield the open slide, its channels aligned as the model saw them; one thread at a time.

        Raises InputMissingError if its place is unknown or the file is gone, InputUnsupportedError if it is another
        slide, InputChangedError if it changed while it was read, and the reader's errors.
        """
        with self._lock:
            if self._slide is not None and self._has_changed(self._slide):
                self.close()
            if self._slide is None:
                self._slide = self._open_as_predicted()
            slide = self._slide
            yield slide
            # What was read while the file changed is of neither content.
            if self._has_changed(slide):
                self.close()
                raise changed(slide.paths[0])

    def _has_changed(self, slide: Slide) -> bool:
        """Return whether a slide's files are others than those that were opened: their fingerprint is due again.

        The many files of an OME-Zarr are looked at so often that this takes a twentieth of the time.
        """
        started = time.monotonic()
        if started < self._check_due:
            return False
        try:
            slide.require_unchanged()
        except InputChangedError:
            return True
        if any(path.is_dir() for path in slide.paths):
            ended = time.monotonic()
            self._check_due = ended + _REST * (ended - started)
        return False

    def overview(self, longest_px: int) -> NDArray[np.generic]:
        """Return the whole slide, (C, h, w), its longest side at most `longest_px`; read once."""
        with self.reading() as slide:
            if longest_px not in self._overviews:
                self._overviews[longest_px] = slide.read_overview(longest_px)[0]
            return self._overviews[longest_px]

    def close(self) -> None:
        """Close the slide's files and drop its overviews; a later read opens them again."""
        with self._lock:
            if self._slide is not None:
                self._slide.close()
            self._slide, self._check_due = None, 0.0
            self._overviews.clear()

    def _open_as_predicted(self) -> Slide:
        # Readers of slides are imported only here: the table of a cohort is shown without them.
        from pathopatch.slides import aligned, open_slide

        if self.source is None:
            raise InputMissingError(
                "the slide's place is unknown: it was de-identified, or its status file is lost",
                place=self.slide_id,
                remedy="give --manifest to see its pixels",
            )
        background = self.facts["background"]
        # A dict of one file per channel names its channels itself.
        channels = self.channels if isinstance(self.source, str) else None
        slide = open_slide(self.source, mpp=self.facts["mpp"], channels=channels, background=background)
        if difference := self._difference(slide):
            slide.close()
            raise InputUnsupportedError(
                f"another slide than was predicted: {difference}",
                place=str(slide.paths[0]),
                remedy="correct the manifest, or predict the slide again",
            )
        return aligned(slide, tuple((int(x), int(y)) for x, y in self.facts["offsets_px"]), background)

    def _difference(self, slide: Slide) -> str:
        """Describe how a slide differs from the predicted one; empty if it does not."""
        geometries = (slide.size, slide.channels), (self.size, self.channels)
        if geometries[0] != geometries[1]:
            return " against ".join(f"{w}x{h} px of {', '.join(names)}" for (w, h), names in geometries)
        is_same = self.facts["files"] == [fingerprint_file(path) for path in slide.paths]
        return "" if is_same else "the content of its files differs"


def heatmap_fingerprint(facts: Mapping[str, Any]) -> str:
    """Return 16 digits of the fingerprint of a heatmap's stamp: decisions refer to a heatmap by it."""
    return fingerprint(facts["stamp"])[:_FINGERPRINT_DIGITS]


def describe_model(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, method and fingerprint of the model that made a heatmap, its card or none, and its weaknesses.

    `facts` is the content of ``heatmap.json`` in the folder of predictions `out`. Without a record the name has the
    first digits of the fingerprint.
    """
    fingerprint = str(facts["stamp"]["inputs"]["model"])[:_FINGERPRINT_DIGITS]
    method = str(facts.get("method", ""))
    members = read_model_record(out, fingerprint).get("members", [])
    names = [str(member["name"]) for member in members]
    name = f"model {fingerprint[:_SHOWN_DIGITS]}"
    if all(names) and names:  # a bundle in a folder "model" of no run has none
        name = " + ".join(names) if len(names) <= _MOST_NAMES else f"ensemble of {len(names)}"
    return {
        "name": f"{name} ({method})" if method else name,
        "method": method,
        "fingerprint": fingerprint,
        "has_card": any(member.get("card") for member in members),
        "beware": list(dict.fromkeys(text for member in members for text in member.get("beware", ()))),
    }


def with_distinct_names(first: dict[str, Any], second: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two descriptions, with digits of the fingerprints where the names are equal."""
    if first["name"] != second["name"]:
        return first, second
    one, other = (each | {"name": f"{each['name']}, {each['fingerprint'][:_SHOWN_DIGITS]}"} for each in (first, second))
    return one, other


def read_checked_facts(out: Path, slide_id: str) -> HeatmapFacts:
    """Return a slide's ``heatmap.json``; InputMissingError without a heatmap, InputCorruptError if it is unreadable."""
    try:
        return heatmap_facts.read_facts(WorkFolder(out).heatmap(slide_id))
    except InputMissingError as error:
        raise InputMissingError(
            "no heatmap of this slide", place=slide_id, remedy="predict it; its status says why an earlier run failed"
        ) from error


def bounds_origin(out: Path, slide_id: str) -> tuple[int, int]:
    """Return the corner (x, y) of a slide's bounds, level-0 px, for QuPath; errors as `read_checked_facts`."""
    x, y, *_ = read_checked_facts(out, slide_id)["bounds_px"]
    return int(x), int(y)


@dataclass(frozen=True, kw_only=True, eq=False)
class Patches:
    """The predicted patches of a slide, in the order of its table; M of them."""

    x: NDArray[np.int64]  # (M,), origins, level-0 px
    y: NDArray[np.int64]
    cell: NDArray[np.int64]  # (M,), number of the cell at whose corner each starts, row * nx + column
    probability: NDArray[np.float64]
    tissue_fraction: NDArray[np.float64]
    spread: NDArray[np.float64]  # NaN for a single model
    is_tumour: NDArray[np.bool_]  # the logit lies above the model's decision threshold
    flags: NDArray[np.uint16]  # bit i is set where FLAGS[i] holds; an unknown flag is not set
    label: NDArray[np.int64]  # 1, 0, or -1 where it is unknown
    group: NDArray[np.int64]  # 2 y + attribute, -1 where one of them is unknown; y by `group_of`
    group_of: Literal["label", "prediction"]  # y is the label, or, where no patch has one, the prediction
    tau: float  # attribute 1 is a tissue fraction of at least this
    beside: NDArray[np.float64] | None  # (M,), the other run's probability at the same origin; NaN where it has none

    def __len__(self) -> int:
        return len(self.x)


def join_patches(
    table: pd.DataFrame,
    grid: Grid,
    *,
    decision_threshold: float,
    limits: PatchLimits,
    groups: pd.DataFrame | None = None,
    beside: pd.DataFrame | None = None,
    is_on_grid: bool = True,
) -> Patches:
    """Join a slide's predictions with labels and groups by patch_id, and with another run's by origin.

    `decision_threshold` is on the logit, `limits` are those of the groups. The lowest threshold of
    `groups` is that of the groups. Patches that are not `is_on_grid` have the nearest cell, which several may share.
    """
    x, y = (table[name].to_numpy(np.int64) for name in ("x", "y"))
    row, column = cell_positions(grid, x, y) if is_on_grid else nearest_cells(grid, x, y)
    tissue_fraction = table["tissue_fraction"].to_numpy(np.float64)
    is_tumour = table["logit"].to_numpy(np.float64) > decision_threshold
    flags = np.zeros(len(table), np.uint16)
    for bit, name in enumerate(FLAGS):
        flags[table[f"flag_{name}"].isin([True]).to_numpy()] |= 1 << bit  # a missing flag is not set
    if groups is None:
        label, tau = np.full(len(table), -1, np.int64), _TAU
    else:
        # The groups table has the patches in another order, and not all of them.
        labels = groups.set_index("patch_id")["label"].reindex(table["patch_id"])
        label, tau = labels.fillna(-1).to_numpy(np.int64), threshold_attributes(groups)[0].tau
    is_large = tissue_bin(tissue_fraction, (tau,), min_tissue=limits["min_tissue"])
    is_large = np.where(scanned_enough(table, limits["min_scanned"]), is_large, -1)
    has_labels = bool((label >= 0).any())
    outcome = label if has_labels else is_tumour.astype(np.int64)
    other = None
    if beside is not None:
        own, origins = (pd.MultiIndex.from_arrays(pair) for pair in ((x, y), (beside["x"], beside["y"])))
        # An origin that the other run has not got is row -1, which is the NaN at the end.
        other = np.append(beside["probability"].to_numpy(np.float64), np.nan)[origins.get_indexer(own)]
    return Patches(
        x=x,
        y=y,
        cell=row * grid.nx + column,
        probability=table["probability"].to_numpy(np.float64),
        tissue_fraction=tissue_fraction,
        spread=table["spread"].to_numpy(np.float64),
        is_tumour=is_tumour,
        flags=flags,
        label=label,
        group=np.where((outcome < 0) | (is_large < 0), -1, 2 * outcome + is_large),
        group_of="label" if has_labels else "prediction",
        tau=tau,
        beside=other,
    )
