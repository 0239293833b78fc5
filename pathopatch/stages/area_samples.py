"""Patches of slides whose tissue area can be set: which slides are asked about, and which of their patches.

`audit-model` asks a model about them, and `pack` writes them as images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import fingerprint, fingerprint_file, read_table
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, PathopatchError
from pathopatch.core.mask_bits import masks_and_area, unpack_masks
from pathopatch.core.patients import BLOCK
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.interventions import LEAST_AREA
from pathopatch.evaluation.area_reliance import LITTLE_TISSUE
from pathopatch.groups import slides_of, unit_noun, units_of
from pathopatch.models.forward import resize_area
from pathopatch.patches.intensity import scale
from pathopatch.patches.source import FromSlide, FromStore
from pathopatch.slides import Slide
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.find_slides import find_cohort

PER_SLIDE = 50
BLANKS = 10
"""Patches without tissue, and with too little to set, that are drawn of a slide."""
BLANK = 0.01
"""Tissue of a patch without any, at most."""
IDS = ["slide_id", "patient_id", BLOCK]

Opened: TypeAlias = tuple[dict[Any, Any], Callable[[], AbstractContextManager[FromSlide | FromStore]]]
"""What `IDS` names of a slide, with its unit ("" of a set of several patients), and how to open it."""


@dataclass(frozen=True)
class PatchKind:
    """What the pixels of a slide's patches are."""

    channels: tuple[str, ...]
    is_rgb: bool
    mpp: float | None  # um per px of a patch; None where it is unknown
    background: str
    is_ready: bool  # ready patches, each with a ground of its own


@dataclass(frozen=True, eq=False)
class Sample:
    """Patches of a slide, scaled to [0, 1] as the models take them."""

    slide_id: str
    about: pd.DataFrame  # (n rows): patch_id; `IDS`, of a set the slides it was cut from; unit, see `units_of`; label
    pixels: NDArray[np.float32]  # (n, C, P, P)
    tissue: NDArray[np.bool_]  # (n, P, P)
    is_asked: NDArray[np.bool_]  # (n,): it holds enough tissue to set its area; of others only the answer is asked
    scanned: NDArray[np.float64]  # (n,): share of each patch that was scanned
    given: pd.DataFrame  # (m rows): the same, but for patch_id, of each patch that holds tissue, drawn or not
    left_out: Mapping[str, int]  # how many of these were not drawn, by the reason
    kind: PatchKind

    @property
    def ground(self) -> NDArray[np.float32] | None:
        """Pixels (C, m) away from tissue, of the wholly scanned patch that has most of them; None without any."""
        # Of one patch: in a set each has a stain of its own, and their pixels together would be a mottled ground.
        clear = (~self.tissue).sum(axis=(1, 2)) * ~(self.scanned < 1)  # of ready patches it may be unknown
        clearest = int(clear.argmax())
        return self.pixels[clearest][:, ~self.tissue[clearest]] if clear[clearest] else None


def find_sources(
    sources: Sequence[str],
    *,
    out: Path,
    distinct_patients: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Sequence[SlideRow] | Path:
    """Return what a command line names: a tiled work folder, or slides as `find_cohort`."""
    if len(sources) == 1 and WorkFolder(Path(sources[0])).slides.is_file():
        return Path(sources[0])
    return find_cohort(sources, out=out, distinct_patients=distinct_patients, progress=progress).rows


def source_fingerprints(sources: Sequence[SlideRow] | Path, *, slide_mpp: float | None = None) -> dict[str, str]:
    """Return fingerprints of the slides and patients, by id; of a slide that cannot be opened with the reason."""
    if isinstance(sources, Path):
        stores = {
            str(name): FromStore(sources, str(name)) for name in read_table(WorkFolder(sources).slides)["slide_id"]
        }
        return {f"slide {name}": fingerprint(store.stamp.inputs) for name, store in stores.items()}
    found = {}
    for row in sources:
        try:
            masks = [fingerprint_file(row.tissue_mask)] if row.tissue_mask else []
            with open_row(row, fallback_mpp=slide_mpp) as slide:
                content = slide.fingerprint
        except PathopatchError as error:  # asked about, it fails alone
            masks, content = [], str(error)
        found[f"slide {row.slide_id}"] = fingerprint([row.patient_id, row.block, content, *masks])
    return found


def opened_work(work: Path) -> list[Opened]:
    """Return the tiled slides of a work folder."""
    slides = read_table(WorkFolder(work).slides)

    def opened(slide_id: str) -> AbstractContextManager[FromStore]:
        return nullcontext(FromStore(work, slide_id))

    return [(about, partial(opened, about["slide_id"])) for about in _with_units(slides)]


def opened_slides(
    sources: Sequence[SlideRow],
    cut: Callable[[Slide, SlideRow], FromSlide],
    *,
    channels: tuple[str, ...] | None = None,
    slide_mpp: float | None = None,
) -> list[Opened]:
    """Return slides with how `cut` cuts them; `channels` is the order of those of each, by default its own."""

    @contextmanager
    def opened(row: SlideRow) -> Iterator[FromSlide]:
        with open_row(
            row if channels is None else replace(row, channel_order=channels), fallback_mpp=slide_mpp
        ) as slide:
            yield cut(slide, row)

    openers = [partial(opened, row) for row in sources]
    return list(zip(_with_units(_listed(sources)), openers, strict=True))


def survey(
    opened: Sequence[Opened],
    visit: Callable[[Sample, int], None],
    *,
    per_slide: int,
    seed: int,
    progress: Progress | None = None,
    **drawing: Any,
) -> dict[str, Any]:
    """Draw patches of each slide, and give them to `visit` with a seed of their own; a slide that fails fails alone.

    `drawing` are further arguments of `draw`. Returns what the patches are of: ``given`` (numbers of slides, patients,
    or of what ``unit`` names, and patches with tissue), ``backgrounds``, ``mpp``, ``failed`` (slides that could not be
    read or asked about, with the reason) and ``not_drawn`` (numbers by the reason). InputMissingError if all failed.
    """
    failed, given, not_drawn = dict[str, str](), list[pd.DataFrame](), Counter[str]()
    grounds, scales = set[str](), list[float]()  # of the slides that could be asked about
    n_slides = Counter(about["unit"] for about, _ in opened)
    most_of_unit = 2 * per_slide * float(np.median(list(n_slides.values())))  # one patient must not outweigh all
    for number, (about, opener) in enumerate(opened):
        count = min(per_slide, math.ceil(most_of_unit / n_slides[about["unit"]]))
        try:
            with opener() as source:
                sample = draw(source, about, count=count, seed=seed + number, **drawing)
            visit(sample, seed + number)
        except PathopatchError as error:
            failed[about["slide_id"]] = str(error)
            continue
        finally:
            if progress is not None:
                progress("slides", number + 1, len(opened))
        given.append(sample.given)
        not_drawn.update(sample.left_out)
        grounds.add(sample.kind.background)
        scales.extend([] if source.mpp is None else [source.mpp])
    if not given:
        raise InputMissingError(
            f"no slide could be asked about: {next(iter(failed.values()), 'there is none')}",
            remedy="give slides that the model can predict",
        )
    with_tissue = pd.concat(given, ignore_index=True)
    return {
        "unit": unit_noun(with_tissue),
        "given": {
            "patches": len(with_tissue),
            "patients": with_tissue["unit"].nunique(),
            "slides": with_tissue["slide_id"].nunique() + len(failed),
        },
        "backgrounds": sorted(grounds),
        "mpp": [min(scales), max(scales)] if scales else None,
        "failed": failed,
        "not_drawn": not_drawn,
    }


def draw(
    source: FromSlide | FromStore,
    about: Mapping[str, str],
    *,
    side_of: Callable[[int], int],
    min_scanned: float,
    count: int,
    blanks: int = BLANKS,
    seed: int,
) -> Sample:
    """Return patches of a slide spread over the tissue area, and some that are blank or hold little tissue.

    `about` has what `IDS` names, and the unit. At most `count` are spread, and of a set as many for each slide that
    its patches were cut from. Patches of a side in px become those of `side_of` it.
    """
    rng = np.random.default_rng((seed, 1))
    if isinstance(source, FromStore):
        table = source.table(min_scanned=min_scanned)
        fractions, stored = table["tissue_fraction"].to_numpy(np.float64), source.store.rows(table["patch_id"].tolist())
        listed = table[[name for name in (*IDS, "label") if name in table]].reset_index(drop=True)
        # The blocks of several slides were joined by their patients; those of a set are joined here.
        listed = listed.assign(slide_id=slides_of(table).to_numpy(), unit=about["unit"] or units_of(table).to_numpy())
        count *= max(1, listed["slide_id"].nunique())
        drawn = rows = _spread(fractions, listed["unit"].to_numpy(np.str_), count, blanks, rng)
        chosen, scanned = stored[rows], table["scanned_fraction"].to_numpy(np.float64)[rows]
        pixels, tissue = source.store.read(chosen), source.store.masks(chosen, "tissue")
    else:
        fractions = source.overview_fractions()
        listed = pd.DataFrame(about, index=range(len(fractions)))
        drawn = _spread(fractions, listed["unit"].to_numpy(np.str_), count, blanks, rng)
        batches = list(source.batches(rows=drawn, min_scanned=min_scanned))
        chosen = rows = np.concatenate([np.empty(0, np.int64), *(drawn[batch.rows] for batch in batches)])
        scanned = np.concatenate([np.empty(0), *(batch.scanned_fraction for batch in batches)])
        if batches:
            pixels = np.concatenate([batch.patches for batch in batches])
            tissue = np.concatenate([unpack_masks(batch.tissue_mask, pixels.shape[-1]) for batch in batches])
    if not len(rows):
        raise InputUnsupportedError(
            "no patch was scanned so far that the model would predict it",
            place=source.slide_id,
            remedy="leave the slide out",
        )
    side = side_of(pixels.shape[-1])
    scaled = np.stack([scale(patch, source.windows) for patch in pixels])
    masks, area = masks_and_area(tissue, side)
    holds, given = fractions >= LEAST_AREA, listed[fractions >= BLANK]
    is_asked = holds[rows] & (area >= LEAST_AREA)
    names = [f"{source.slide_id}@{x},{y}" for x, y in source.origins[chosen].tolist()]
    return Sample(
        slide_id=source.slide_id,
        about=listed.iloc[rows].assign(patch_id=names),
        pixels=resize_area(scaled, side),
        tissue=masks,
        is_asked=is_asked,
        scanned=scanned,
        given=given,
        left_out={
            LITTLE_TISSUE: int(len(given) - holds.sum() + holds[rows].sum() - is_asked.sum()),
            "hardly scanned": int(holds[drawn].sum() - holds[rows].sum()),
            "not drawn": int(holds.sum() - holds[drawn].sum()),
        },
        kind=_kind(source),
    )


def _spread(
    fractions: NDArray[np.float64], units: NDArray[np.str_], count: int, blanks: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows of at most `count` patches, and of some with less tissue than can be set.

    Their tissue fractions (N,) are spread evenly, and at each tenth of them the units (N,) take turns.
    """
    rows = rng.permutation(len(fractions))
    tenths = np.floor(10 * fractions).clip(0, 9)
    turn = pd.Series(tenths[rows]).groupby([units[rows], tenths[rows]]).cumcount().to_numpy()
    in_turn = rows[np.argsort(turn, kind="stable")]
    turn = pd.Series(tenths[in_turn]).groupby(tenths[in_turn]).cumcount().to_numpy()
    order = in_turn[np.lexsort((tenths[in_turn], turn))]  # one of each tenth, then the second of each …
    drawn = order[fractions[order] >= LEAST_AREA][:count]
    is_blank = fractions[rows] < BLANK
    blank, little = rows[is_blank], rows[~is_blank & (fractions[rows] < LEAST_AREA)]
    return np.sort(np.concatenate([drawn, blank[:blanks], little[:blanks]])).astype(np.int64)


def _kind(source: FromSlide | FromStore) -> PatchKind:
    if isinstance(source, FromSlide):
        mpp = None if source.mpp is None else source.mpp * source.grid.downsample
        return PatchKind(tuple(source.channels), source.is_rgb, mpp, source.slide.background, is_ready=False)
    about = source.store.attributes
    channels, is_ready = tuple(about["channels"]), bool(about.get("is_ready_set"))
    return PatchKind(channels, about["is_rgb"], about["target_mpp"], str(about["background"]), is_ready)


def _listed(sources: Sequence[SlideRow]) -> pd.DataFrame:
    """Return slide_id, patient_id and, where blocks are given, block of some slides."""
    table = pd.DataFrame([(row.slide_id, row.patient_id, row.block) for row in sources], columns=IDS)
    return table if (table[BLOCK] != "").all() else table.drop(columns=BLOCK)


def _with_units(slides: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return what `IDS` names of each slide, and its unit; that is "" of a set of several patients."""
    listed = slides[[name for name in IDS if name in slides]].astype(str)
    return listed.assign(unit=units_of(slides).where(listed["patient_id"] != "", "")).to_dict("records")
