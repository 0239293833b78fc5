"""Encode the patches of slides, of a manifest or of a tiled work folder: the command `encode`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EncodeConfig, TileConfig, mpp_agrees
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import inside, write_csv
from pathopatch.core.progress import Progress
from pathopatch.core.task import Outcome, SlideTask
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.features.cohort import is_feature_cohort
from pathopatch.features.encode import STAGE, PixelSource
from pathopatch.patches.source import FromSlide, FromStore
from pathopatch.patches.store import PatchStore
from pathopatch.patches.tile import is_tiled
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages.batch.run import failed_before, logged, progress_counter, run_slides, workers_for
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
    *,
    tiling: TileConfig | None = None,
    slide_id: str | None = None,
    slide_mpp: float | None = None,
    workers: int = 1,
    limit_s: float | None = None,
    limit_bytes: float | None = None,
    only_failed: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Encoded:
    """Encode slides into ``features/<encoder key>/`` of a work folder; a finished slide is left as it is.

    The stored patches of a tiled work folder are encoded as they are cut where they have the encoder's um/px or the one
    that is asked for; otherwise its slides are cut anew. `source` is a tiled work folder, a manifest, or a slide; `out`
    by default the tiled one. `tiling` has the rules of tissue and intensity; the patches' size and scale are the
    encoder's. `slide_mpp` is of slides whose files state none. Limits and `only_failed` are those of `tile_cohort`.
    PathopatchError if the encoder, its weights, the devices or the source are refused, before any slide is opened.
    """
    # Here rather than in the processes: what is wrong with the command is one error, not one per slide.
    encoder = prepare_encoder(config, workers=workers, limit_s=limit_s, limit_bytes=limit_bytes)
    tiled = _tiled_folder(source)
    slides, notes = ([], []) if tiled is None else _tiled_slides(tiled, encoder.mpp, encoder.patch_px)
    out = out or tiled
    if out is None:
        raise InputMissingError("no folder for the features", place="--out", remedy="give -o WORK")
    if tiled is None:
        slides = list(slides_to_predict(source, slide_id=slide_id))
    are_cut = any(isinstance(slide, SlideRow) for slide in slides)
    tiling = encoder.tiling(tiling) if are_cut else TileConfig()
    tasks = [_encode_task(slide, tiled, tiling, encoder.config, out, force, slide_mpp) for slide in slides]
    tasks = failed_before(tasks) if only_failed else tasks
    count = max(workers, len(encoder.config.devices))
    with (
        workers_for(tasks, count, limit_s=limit_s, limit_bytes=limit_bytes) as processes,
        logged(out, STAGE, progress_counter(STAGE, len(tasks), progress), slides=len(tasks)) as on_done,
    ):
        outcomes = run_slides(tasks, workers=processes, on_done=on_done, progress=progress)
    folder = encoder.file(out, "slide").parent
    remove_stale_files(folder)
    stored = [slide for slide in slides if isinstance(slide, str)]
    labels = _write_labels(tiled, stored, out, config) if tiled and stored else None
    return Encoded(outcomes=outcomes, folder=folder, labels=labels, notes=(*encoder.notes, *notes))


def _encode_task(
    slide: SlideRow | str,
    tiled: Path | None,
    tiling: TileConfig,
    config: EncodeConfig,
    out: Path,
    force: bool,
    slide_mpp: float | None,
) -> SlideTask[PixelSource]:
    """Return the task of a row of a manifest, cut as `tiling` says, or of a slide of a tiled work folder by its id."""
    write = partial(encode_source, config=config, out=out, force=force)
    if isinstance(slide, str):
        assert tiled is not None
        return SlideTask(
            slide_id=slide, stage=STAGE, out=out, open=partial(_stored, tiled, slide), write=write, force=force
        )
    opened = partial(_cut, slide, tiling, slide_mpp)
    return SlideTask(slide_id=slide.slide_id, stage=STAGE, out=out, open=opened, write=write, force=force)


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


def _tiled_slides(work: Path, mpp: float | None, patch_px: int) -> tuple[list[SlideRow | str], list[str]]:
    """Return the tiled slides of a work folder, and notes: by id where their patches fit, else as slides to cut anew.

    `patch_px` is the side of a patch at `mpp` for which the encoder was made.
    """
    table = read_table(WorkFolder(work).slides)
    ids = [str(slide_id) for slide_id in table["slide_id"]]
    if untiled := [slide_id for slide_id in ids if not is_tiled(work, slide_id)]:
        raise InputMissingError(
            f"not tiled: {pluralize(len(untiled), 'slide')}, such as {untiled[0]}",
            place=str(work),
            remedy="run pathopatch tile MANIFEST -o WORK, or give the manifest",
        )
    stored = {slide_id: PatchStore(WorkFolder(work).store(slide_id)).attributes for slide_id in ids}
    mpp_of = {slide_id: attributes["target_mpp"] for slide_id, attributes in stored.items()}  # None: unknown
    slides: list[SlideRow | str] = [
        slide_id if mpp is None or own is None or mpp_agrees(own, mpp) else _slide_of(work, slide_id, stored[slide_id])
        for slide_id, own in mpp_of.items()
    ]
    notes = []
    sides = sorted({stored[slide]["patch_px"] for slide in slides if isinstance(slide, str)} - {patch_px})
    if mpp is not None and sides:
        notes.append(
            f"patches of {', '.join(map(str, sides))} px are resized: the encoder was made for {patch_px} px at "
            f"{mpp:g} um/px, so it sees them at another scale"
        )
    if anew := sum(isinstance(slide, SlideRow) for slide in slides):
        notes.append(
            f"the patches of {pluralize(anew, 'slide')} are not at {mpp:g} um/px: their slides are cut anew, so that "
            "labels and groups of the work folder are of other patches; give --mpp to encode its own"
        )
    if mpp is not None and None in mpp_of.values():
        notes.append(f"the um/px of the patches are unknown: features mean something only if they are about {mpp:g}")
    return slides, notes


def _slide_of(work: Path, slide_id: str, stored: Mapping[str, Any]) -> SlideRow:
    """Return a tiled slide, by the attributes of its store, as a row of a manifest."""
    if "source" not in stored or stored["tissue"].get("is_supplied"):
        raise InputUnsupportedError(
            f"slide {slide_id} cannot be cut at another scale: "
            + ("its tissue mask is not kept" if "source" in stored else "its patches are as they are"),
            place=str(work),
            remedy="give the manifest, or --mpp of the patches as they are",
        )
    record = stored["source"]
    return SlideRow(
        row=1,
        slide_id=slide_id,
        patient_id=slide_id,
        source=record["path"],
        mpp=record["mpp"],
        channels=tuple(record["channels"]),
        background=record["background"],
    )


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
