"""Encode the patches of slides, of a manifest or of a tiled work folder: the command `encode`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import BatchOptions, EncodeConfig, TileConfig, mpp_agrees
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import inside, write_csv
from pathopatch.core.task import Outcome, Progress, SlideTask
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.cohort import is_feature_cohort
from pathopatch.features.encode import STAGE, PixelSource
from pathopatch.patches.source import FromSlide, FromStore
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import is_tiled
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run import DEFAULT_BATCH, chosen, run_slides, workers_for
from pathopatch.stages.batch.slide_table import open_row
from pathopatch.stages.clean import remove_stale_files
from pathopatch.stages.encoder import encode_source, prepare_encoder
from pathopatch.stages.find_slides import slides_to_predict


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What became of the slides, and where their features are."""

    outcomes: list[Outcome]
    folder: Path
    labels: Path | None  # of the patches of a tiled work folder, for `audit --features`; None: they have none
    notes: tuple[str, ...]  # what a user must know of the encoder and of the patches


def encode_cohort(
    source: str,
    config: EncodeConfig,
    out: Path | None = None,
    batch: BatchOptions = DEFAULT_BATCH,
    *,
    tiling: TileConfig | None = None,
    slide_id: str | None = None,
    slide_mpp: float | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Encode slides into ``features/<encoder key>/`` of a work folder; a finished slide is left as it is.

    `source` is a tiled work folder, whose stored patches are encoded as they are, a manifest, or a slide; `out` is by
    default the tiled one. `tiling` has the rules of tissue and intensity; size and scale of patches are the encoder's.
    `slide_mpp` is of slides whose files state none. PathopatchError if the encoder, its weights, the device or the
    source are refused, before any slide is opened.
    """
    # Here rather than in the processes: what is wrong with the command is one error, not one per slide.
    encoder = prepare_encoder(config, batch)
    tiled = _tiled_folder(source)
    out = out or tiled
    if out is None:
        raise InputMissingError("no folder for the features", place="--out", remedy="give -o WORK")
    opened: dict[str, Callable[[], AbstractContextManager[PixelSource]]]
    if tiled is not None:
        slide_ids, notes = require_tiled(tiled, encoder.mpp, encoder.patch_px)
        opened = {name: partial(_stored, tiled, name) for name in slide_ids}
    else:
        rows, notes = slides_to_predict(source, slide_id=slide_id), []
        opened = {row.slide_id: partial(_cut, row, encoder.tiling(tiling), slide_mpp) for row in rows}
    write = partial(encode_source, config=encoder.config, out=out, force=batch.force)
    tasks = [
        SlideTask(slide_id=name, stage=STAGE, out=out, open=source_of, write=write, force=batch.force)
        for name, source_of in opened.items()
    ]
    tasks = chosen(tasks, batch)
    with workers_for(tasks, batch) as processes:
        outcomes = run_slides(out, STAGE, tasks, processes, progress=progress)
    folder = encoder.file(out, "slide").parent
    remove_stale_files(folder)
    labels = None if tiled is None else _write_labels(tiled, list(opened), out, config)
    return Encoded(outcomes=outcomes, folder=folder, labels=labels, notes=(*encoder.notes, *notes))


@contextmanager
def _stored(tiled: Path, slide_id: str) -> Iterator[FromStore]:
    yield FromStore(tiled, slide_id)


@contextmanager
def _cut(row: SlideRow, tiling: TileConfig, slide_mpp: float | None) -> Iterator[FromSlide]:
    with open_row(row, fallback_mpp=slide_mpp) as slide:
        yield FromSlide(slide, row.slide_id, tiling, tissue_mask=row.tissue_mask)


def _tiled_folder(source: str) -> Path | None:
    """Return a source as a work folder with tiled slides; None if it is none."""
    work = WorkFolder(Path(source)).tiled
    if not work.slides.is_file():
        return None
    if is_feature_cohort(work.root):
        raise InputUnsupportedError(
            "the patches of this work folder are features already", place=source, remedy="give a manifest or a slide"
        )
    return work.root


def require_tiled(work: Path, mpp: float | None, patch_px: int) -> tuple[list[str], list[str]]:
    """Return the ids of a work folder's slides, and notes; refuse slides that are not tiled, or at another um/px.

    `patch_px` is the side of a patch at `mpp` for which the encoder was made.
    """
    ids = [str(slide_id) for slide_id in read_table(WorkFolder(work).slides)["slide_id"]]
    if untiled := [slide_id for slide_id in ids if not is_tiled(work, slide_id)]:
        raise InputMissingError(
            f"not tiled: {pluralize(len(untiled), 'slide')}, such as {untiled[0]}",
            place=str(work),
            remedy="run pathopatch tile MANIFEST -o WORK, or give the manifest",
        )
    if mpp is None:
        return ids, []
    stored = {slide_id: PatchStore(WorkFolder(work).store(slide_id)).attributes for slide_id in ids}
    mpp_of = {slide_id: attributes["target_mpp"] for slide_id, attributes in stored.items()}  # None: unknown
    for slide_id, own in mpp_of.items():
        if own is not None and not mpp_agrees(own, mpp):
            raise InputUnsupportedError(
                f"the patches of slide {slide_id} are at {own:g} um/px, and the encoder takes {mpp:g}",
                place=str(work),
                remedy=f"give the manifest in place of the work folder, and its slides are cut for the encoder; "
                f"or --mpp {own:g}, and the patches are encoded as they are",
            )
    notes = []
    if sides := sorted({attributes["patch_px"] for attributes in stored.values()} - {patch_px}):
        notes.append(
            f"patches of {', '.join(map(str, sides))} px are resized: the encoder was made for {patch_px} px at "
            f"{mpp:g} um/px, so it sees them at another scale"
        )
    if None in mpp_of.values():
        notes.append(f"the um/px of the patches are unknown: features mean something only if they are about {mpp:g}")
    return ids, notes


def _write_labels(work: Path, slide_ids: Sequence[str], out: Path, config: EncodeConfig) -> Path | None:
    """Write ``labels.csv`` of the labelled patches that are encoded; return its path, None if there are none."""
    import pandas as pd

    slides = read_table(WorkFolder(work).slides).set_index("slide_id")
    tables = []
    for slide_id in slide_ids:
        table = FromStore(work, slide_id).table(min_tissue=config.min_tissue, min_scanned=config.min_scanned)
        table = table[table["label"] >= 0]
        split = table["split"] if "split" in table else str(slides.at[slide_id, "split"])
        tables.append(table[["slide_id", "x", "y", "label", "patient_id"]].assign(split=split))
    labels = pd.concat(tables, ignore_index=True)
    if labels.empty:
        return None
    if (labels["split"] == "").all():
        labels = labels.drop(columns="split")
    path = inside(out, "labels.csv")
    write_csv(path, labels)
    return path
