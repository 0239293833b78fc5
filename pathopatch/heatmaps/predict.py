"""What a model says of each patch of a slide, as a table.

Geometry, tissue and intensity rule are those of the model's bundle, through the same code that tiles for training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pathopatch.config import PredictConfig, RegistrationConfig, TileConfig
from pathopatch.errors import CheckpointIncompatibleError, InputUnsupportedError, NonFiniteError
from pathopatch.manifest import slide_id_from_path
from pathopatch.models.bundle import PatchClassifier, check_slide
from pathopatch.models.spec import BundleSpec
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, iterate_patches
from pathopatch.patches.intensity import scale
from pathopatch.slides import Slide

Progress = Callable[[int, int], None]
"""Called with the number of grid positions done, and of all."""

DEFAULTS = PredictConfig()
_ANY_TISSUE = 1e-12  # below the fraction of a single pixel

_COLUMNS = {
    "patch_id": "str", "x": "int64", "y": "int64", "width": "int64", "height": "int64",
    "tissue_fraction": "float64", "logit": "float64", "probability": "float64",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """All that was found on a slide.

    Parameters
    ----------
    table : DataFrame
        As `predict_slide` returns it.
    analysis : SlideAnalysis
        Grid, tissue and intensity windows.
    tissue_fraction : ndarray of float64, shape (N,)
        Of every grid position, in the order of the grid's origins, in [0, 1].
    """

    table: pd.DataFrame
    analysis: SlideAnalysis
    tissue_fraction: NDArray[np.float64]


def tiling_of(spec: BundleSpec, config: PredictConfig) -> TileConfig:
    """Return how a slide is cut for a model.

    Parameters
    ----------
    spec : BundleSpec
        The model's.
    config : PredictConfig
        Its `stride_px` replaces the model's.

    Raises
    ------
    InputUnsupportedError
        The stride exceeds the patch.
    """
    stride_px = spec.stride_px if config.stride_px is None else config.stride_px
    if stride_px > spec.patch_px:
        raise InputUnsupportedError(
            f"stride of {stride_px} px, patches have {spec.patch_px}",
            place="--stride-px",
            remedy=f"give at most {spec.patch_px}: the slide would not be covered",
        )
    return TileConfig(
        patch_px=spec.patch_px,
        stride_px=stride_px,
        mpp=spec.mpp,
        store="none",
        tissue=spec.tissue,
        intensity=spec.intensity,
        registration=RegistrationConfig(align=spec.align),
    )


def predict_slide(
    slide: Slide,
    model: PatchClassifier,
    *,
    slide_id: str | None = None,
    tissue_mask: Path | None = None,
    config: PredictConfig = DEFAULTS,
) -> pd.DataFrame:
    """Return what a model says of each patch of a slide that holds enough tissue.

    Parameters
    ----------
    slide : Slide
        An open slide.
    model : PatchClassifier
        From `load_model`.
    slide_id : str, optional
        First part of each patch_id; the first file's stem if not given.
    tissue_mask : Path, optional
        Raster that says what is tissue; found on the slide if not given.
    config : PredictConfig
        Its device and precision are the model's already and not read here.

    Returns
    -------
    DataFrame
        patch_id; x, y (origin) and width, height, level-0 px, of the whole patch even where it overhangs;
        tissue_fraction; logit = z1 - z0; probability = sigmoid(logit / temperature). Row by row of the grid; no row,
        but all columns, where there is no tissue.

    Raises
    ------
    ChannelMismatchError, CheckpointIncompatibleError, MppMissingError
        The model was not made for such a slide.
    InputUnsupportedError
        The stride exceeds the patch.
    InputCorruptError
        The slide cannot be decoded.
    NonFiniteError
        The model returned NaN or infinity.
    """
    identity = slide_id_from_path(slide.paths[0]) if slide_id is None else slide_id
    return predict_patches(slide, model, identity, config, tissue_mask=tissue_mask).table


def predict_patches(
    slide: Slide,
    model: PatchClassifier,
    slide_id: str,
    config: PredictConfig,
    *,
    tissue_mask: Path | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Return the predictions of a slide's patches and the tissue of all of them; arguments and errors as above."""
    spec = model.spec
    if len(spec.class_names) != 2:
        raise CheckpointIncompatibleError(
            f"the model has classes {spec.class_names}", place="class_names", remedy="use a model of two classes"
        )
    check_slide(spec, slide)
    analysis = analyse_slide(slide, tiling_of(spec, config), tissue_mask=tissue_mask)
    origins = analysis.grid.origins()  # (N, 2)
    least = spec.min_tissue if config.min_tissue is None else config.min_tissue
    tissue, logits = np.zeros(len(origins)), np.full(len(origins), np.nan)
    is_wanted = np.zeros(len(origins), np.bool_)
    # Patches without any tissue are left unread where nothing is asked of them; their fraction is 0.
    read_from = 0.0 if config.all_patches or least == 0 else _ANY_TISSUE
    with _threads(config.threads):
        for rows, patches, fractions in iterate_patches(slide, analysis, min_tissue=read_from):
            tissue[rows] = fractions
            wanted = np.ones(len(rows), np.bool_) if config.all_patches else fractions >= least
            is_wanted[rows] = wanted
            logits[rows[wanted]] = _margins(model, patches[wanted], analysis.windows, batch=config.batch)
            if progress is not None:
                progress(int(rows[-1]) + 1, len(origins))
    if progress is not None:
        progress(len(origins), len(origins))
    table = _table(slide_id, analysis.grid.span_px, origins[is_wanted], tissue[is_wanted], logits[is_wanted], spec)
    return Prediction(table=table, analysis=analysis, tissue_fraction=tissue)


def _margins(
    model: PatchClassifier, patches: NDArray[np.generic], windows: NDArray[np.float64], *, batch: int
) -> NDArray[np.float64]:
    """Return z1 - z0 of patches in the slide's type, at most `batch` of them in floating point at a time."""
    margins = np.empty(len(patches))
    for start in range(0, len(patches), batch):
        part = slice(start, start + batch)
        logits = model.predict_logits(scale(patches[part], windows), forward_batch=batch).astype(np.float64)
        margins[part] = logits[:, 1] - logits[:, 0]
    return margins


def _table(
    slide_id: str,
    span_px: int,
    origins: NDArray[np.int64],
    tissue: NDArray[np.float64],
    logits: NDArray[np.float64],
    spec: BundleSpec,
) -> pd.DataFrame:
    """Return the predictions as a table with typed columns, also if it is empty."""
    names = [f"{slide_id}@{x},{y}" for x, y in origins]
    if not np.isfinite(logits).all():
        bad = [name for name, is_finite in zip(names, np.isfinite(logits), strict=True) if not is_finite]
        raise NonFiniteError(
            f"{len(bad)} logits are NaN or infinite: {', '.join(bad[:5])}{' …' if len(bad) > 5 else ''}",
            place=slide_id,
            remedy="look for NaN pixels in the slide and for NaN weights in the model",
        )
    values = (names, origins[:, 0], origins[:, 1], span_px, span_px, tissue, logits, sigmoid(logits / spec.temperature))
    return pd.DataFrame(dict(zip(_COLUMNS, values, strict=True))).astype(_COLUMNS)


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * z))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads of the processor; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
