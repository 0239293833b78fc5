"""Show what `tile` or `predict` would do with a cohort: the option `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.workers import Workers
from pathopatch.slides.manifest import SlideRow, read_manifest
from pathopatch.stages.batch.estimate import Plan, estimate, prediction_work, tiling_work
from pathopatch.stages.batch.slide_table import measure_intensities, open_slides
from pathopatch.stages.batch.tasks import label_source
from pathopatch.stages.predict import require_unmixed
from pathopatch.stages.tile import require_one_mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pathopatch.models import Ensemble
    from pathopatch.patches import SlideAnalysis
    from pathopatch.slides import Slide


def tile_plan(manifest_path: Path, config: TileConfig, *, out: Path | None = None, force: bool = False) -> Plan:
    """Return what `tile` would do with a manifest.

    Parameters
    ----------
    manifest_path, config : Path, TileConfig
        As for the stage.
    out : Path, optional
        Work folder, in which slides may be finished already.
    force : bool
        Count stale outputs as work to redo, not as failures.

    Raises
    ------
    TableError
        Everything wrong with the manifest itself.
    InputUnsupportedError
        No target mpp was given and the slides' own differ by more than 2 %.
    StaleArtefactError
        The cohort's intensity windows in the work folder were found otherwise, and `force` is off.
    """
    from pathopatch.patches import is_finished

    rows = read_manifest(manifest_path).included
    known = config if out is None else _with_known_windows(rows, config, out, force=force)

    def is_done(row: SlideRow, slide: Slide) -> bool:
        return out is not None and is_finished(
            slide,
            known,
            out,
            slide_id=row.slide_id,
            patient_id=row.patient_id,
            labels=label_source(row),
            tissue_mask=row.tissue_mask,
            force=force,
        )

    probed = known if known.intensity.windows else _with_own_windows(known)  # windows take no other time
    plan = estimate(rows, probed, tiling_work(probed), is_done, keeps=config.store == "zarr")
    if len(plan.table):
        require_one_mpp(pd.concat([plan.table, plan.finished], ignore_index=True), config)
    return plan


def _with_known_windows(rows: Sequence[SlideRow], config: TileConfig, out: Path, *, force: bool) -> TileConfig:
    """Return the configuration with the cohort's intensity windows, if they are asked for and were found before."""
    from pathopatch.patches import cohort_config

    if config.intensity.scope == "slide":
        return config
    table, _ = open_slides(rows)
    fingerprints = dict(zip(table["slide_id"], table["fingerprint"], strict=True)) if len(table) else {}
    measured = partial(measure_intensities, config=config, workers=Workers(0))
    return cohort_config(rows, config, out, fingerprints=fingerprints, measured=measured, force=force, only_known=True)


def _with_own_windows(config: TileConfig) -> TileConfig:
    """Return the configuration with each slide's own intensity windows."""
    return config.model_copy(update={"intensity": config.intensity.model_copy(update={"scope": "slide"})})


def predict_plan(
    cohort: Sequence[SlideRow],
    models: Sequence[Path],
    config: PredictConfig,
    *,
    slide_mpp: float | None = None,
    out: Path | None = None,
    force: bool = False,
) -> Plan:
    """Return what `predict` would do with slides under a bundle's geometry; the gigabytes are read, not written.

    Parameters
    ----------
    cohort, models, config, slide_mpp : sequence of SlideRow, sequence of Path, PredictConfig, float
        As for the stage.
    out : Path, optional
        Work folder, in which slides may be finished already.
    force : bool
        Count stale outputs as work to redo, not as failures.
    """
    from pathopatch.models import check_bundles, check_slide
    from pathopatch.models.spec import tiling_of

    if out is not None:
        require_unmixed(out, deidentify=config.deidentify)
    spec = check_bundles(models)
    settings = tiling_of(spec, config)

    @cache
    def network() -> Ensemble:  # when the first slide has passed: it loads torch, which takes seconds
        from pathopatch.models import load_ensemble

        return load_ensemble(models, device=config.device, precision=config.precision)

    def is_done(row: SlideRow, slide: Slide) -> bool:
        check_slide(spec, slide)
        if out is None:
            return False
        from pathopatch.heatmaps.artefacts import is_predicted

        return is_predicted(
            slide, network(), out, slide_id=row.slide_id, tissue_mask=row.tissue_mask, config=config, force=force
        )

    def work(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> int:
        return prediction_work(network(), config)(slide, analysis, origins)

    share = config.max_bad_tiles
    return estimate(cohort, settings, work, is_done, channels=spec.channels, slide_mpp=slide_mpp, share=share)
