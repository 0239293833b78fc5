"""What a model says of each patch of a slide, as a table.

Geometry, tissue and intensity rule are those of the model's bundle, through the same code that tiles for training. One
thread reads, scales and measures patches while the network computes on those before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pandas.arrays import BooleanArray
from torch import Tensor

from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import NonFiniteError
from pathopatch.core.prefetch import prefetch_items
from pathopatch.heatmaps.flags import FLAGS, flags
from pathopatch.heatmaps.tiling import tiling_of
from pathopatch.models.bundle import PatchClassifier
from pathopatch.models.compatibility import check_slide
from pathopatch.models.ensemble import Ensemble
from pathopatch.models.spec import BundleSpec
from pathopatch.patches import intensity
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide, iterate_patches
from pathopatch.patches.store_writer import measure_patch
from pathopatch.slides import Slide, TolerantSlide, in_order, tolerant
from pathopatch.slides.manifest import slide_id_from_path

Progress = Callable[[int, int], None]
"""Called with the number of grid positions done, and of all."""

DEFAULTS = PredictConfig()
_ANY_TISSUE = 1e-12  # below the fraction of a single pixel
_AHEAD = 2  # batches that are ready before the network asks for them
_CHUNK = 65536  # rows of a table at a time

_COLUMNS = {
    "patch_id": "str", "x": "int64", "y": "int64", "width": "int64", "height": "int64",
    "tissue_fraction": "float64", "logit": "float64", "probability": "float64", "spread": "float64",
    "saturated_fraction": "float64", "sharpness": "float64", **{f"flag_{name}": "boolean" for name in FLAGS},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """All that was found on a slide, a few numbers a patch.

    Parameters
    ----------
    slide_id : str
        First part of each patch_id.
    analysis : SlideAnalysis
        Grid, tissue and intensity windows.
    tissue_fraction : ndarray of float64, shape (N,)
        Of every grid position, in the order of the grid's origins, in [0, 1]; NaN where pixels cannot be decoded.
    origins : ndarray of int64, shape (M, 2)
        Of the predicted patches, in that order, level-0 px.
    columns : dict of str to ndarray, or BooleanArray, of shape (M,)
        What is known of them, by the names of the table's columns; flags may be missing.
    """

    slide_id: str
    analysis: SlideAnalysis
    tissue_fraction: NDArray[np.float64]
    origins: NDArray[np.int64]
    columns: dict[str, NDArray[Any] | BooleanArray]

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def unreadable(self) -> int:
        """Number of grid positions whose pixels cannot be decoded."""
        return int(np.count_nonzero(np.isnan(self.tissue_fraction)))

    def known(self, name: str) -> NDArray[Any]:
        """Return a column of numbers, which every prediction has."""
        return np.asarray(self.columns[name])

    def tables(self) -> Iterator[pd.DataFrame]:
        """Yield the table's rows some at a time, at least once; columns as `predict_slide` returns them."""
        span_px = self.analysis.grid.span_px
        for start in range(0, max(1, len(self)), _CHUNK):
            rows = slice(start, start + _CHUNK)
            places = self.origins[rows]
            known: dict[str, Any] = {
                "patch_id": [f"{self.slide_id}@{x},{y}" for x, y in places.tolist()],
                **{"x": places[:, 0], "y": places[:, 1], "width": span_px, "height": span_px},
                **{name: found[rows] for name, found in self.columns.items()},
            }
            yield pd.DataFrame({name: known[name] for name in _COLUMNS}, index=range(len(places))).astype(_COLUMNS)

    @property
    def table(self) -> pd.DataFrame:
        """The whole table."""
        return pd.concat(self.tables(), ignore_index=True)


def predict_slide(
    slide: Slide,
    model: PatchClassifier | Ensemble,
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
    model : PatchClassifier or Ensemble
        From `load_model`, or several that see the same patches.
    slide_id : str, optional
        First part of each patch_id; the first file's stem if not given.
    tissue_mask : Path, optional
        Raster or outlines that say what is tissue; found on the slide if not given.
    config : PredictConfig
        Its device and precision are the model's already and not read here.

    Returns
    -------
    DataFrame
        patch_id; x, y (origin) and width, height, level-0 px, of the whole patch even where it overhangs;
        tissue_fraction; logit = z1 - z0; probability = sigmoid(logit / temperature); of an ensemble the mean of the
        members' logits over their temperatures, its sigmoid, and spread, the standard deviation of their probabilities;
        saturated_fraction and sharpness as `tile` measures them; and a boolean column ``flag_<reason>`` for each of
        `pathopatch.heatmaps.flags.FLAGS`, missing where it cannot be said. Row by row of the grid; no row, but all
        columns, where there is no tissue.

    Raises
    ------
    ChannelMismatchError, CheckpointIncompatibleError, MppMissingError
        The model was not made for such a slide.
    InputUnsupportedError
        The stride exceeds the patch.
    InputCorruptError
        The slide cannot be decoded, or more of it cannot than `config` allows.
    NonFiniteError
        The model returned NaN or infinity.
    """
    identity = slide_id_from_path(slide.paths[0]) if slide_id is None else slide_id
    return predict_patches(slide, model, identity, config, tissue_mask=tissue_mask).table


def predict_patches(
    slide: Slide,
    model: PatchClassifier | Ensemble,
    slide_id: str,
    config: PredictConfig,
    *,
    tissue_mask: Path | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Return the predictions of a slide's patches and the tissue of all of them; arguments and errors as above."""
    ensemble = model if isinstance(model, Ensemble) else Ensemble([model])
    spec = ensemble.spec
    slide = tolerant(in_order(slide, spec.channels), config.max_bad_tiles)
    check_slide(spec, slide)
    analysis = analyse_slide(slide, tiling_of(spec, config), tissue_mask=tissue_mask)
    origins = analysis.grid.origins()  # (N, 2)
    tissue = np.zeros(len(origins))
    found = _Found(len(spec.channels))
    batches = _batches(slide, analysis, ensemble, config, tissue)
    if progress is not None:
        progress(0, len(origins))
    with _threads(config.threads), closing(batches), closing(prefetch_items(batches, ahead=_AHEAD)) as ready:
        for batch in ready:
            said = ensemble.forward(batch.x, tta=config.tta)
            found.add(batch, logit=said.logit, probability=said.probability, spread=said.spread)
            if progress is not None:
                progress(batch.done, len(origins))
    if progress is not None:
        progress(len(origins), len(origins))
    rows, known = found.joined()
    is_lost = _lost(slide, analysis, origins)
    tissue[is_lost] = np.nan
    rows, known = rows[~is_lost[rows]], {name: values[~is_lost[rows]] for name, values in known.items()}
    _refuse_nonfinite(slide_id, origins[rows], known["logit"])
    mean = known.pop("mean")
    raised = flags(
        tissue_fraction=tissue[rows],
        mean=mean,
        decision_probability=decision_probability(spec),
        seen=spec.seen,
        config=config.flags,
        **{name: known[name] for name in ("saturated_fraction", "sharpness", "probability", "spread")},
    )
    columns: dict[str, Any] = {**known, "tissue_fraction": tissue[rows]}
    columns |= {f"flag_{name}": each for name, each in raised.items()}
    return Prediction(
        slide_id=slide_id, analysis=analysis, tissue_fraction=tissue, origins=origins[rows], columns=columns
    )


def _lost(slide: Slide, analysis: SlideAnalysis, origins: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which patches (N,) touch what could not be decoded, in any channel."""
    if not isinstance(slide, TolerantSlide):
        return np.zeros(len(origins), np.bool_)
    moved = max((abs(move) for offset in analysis.offsets for move in offset), default=0)
    return slide.is_lost(origins - moved, analysis.grid.extent + 2 * moved)


def decision_probability(spec: BundleSpec) -> float:
    """Return above which probability a patch is of the second of two classes."""
    found = spec.decision_probability
    assert found is not None  # an ensemble's members have two classes
    return found


@dataclass(frozen=True, eq=False)
class _Batch:
    """Patches that are ready for the network.

    ``rows`` are their grid positions, ``x`` what each member takes, ``measured`` a value a patch by name; ``done`` says
    how far through the grid the reading is.
    """

    rows: NDArray[np.int64]
    x: tuple[Tensor, ...]
    measured: dict[str, NDArray[np.float64]]
    done: int


class _Found:
    """What is known of the predicted patches so far."""

    def __init__(self, channels: int) -> None:
        nothing = np.empty(0)
        self._rows: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self._columns: dict[str, list[NDArray[np.float64]]] = {
            name: [nothing] for name in ("logit", "probability", "spread", "saturated_fraction", "sharpness")
        }
        self._columns["mean"] = [np.empty((0, channels))]

    def add(self, batch: _Batch, **said: NDArray[np.float64]) -> None:
        """Add a batch with what was said of it."""
        self._rows.append(batch.rows)
        for name, values in {**batch.measured, **said}.items():
            self._columns[name].append(values)

    def joined(self) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Return the grid positions (M,) and each column (M, …)."""
        return np.concatenate(self._rows), {name: np.concatenate(parts) for name, parts in self._columns.items()}


def _batches(
    slide: Slide, analysis: SlideAnalysis, ensemble: Ensemble, config: PredictConfig, tissue: NDArray[np.float64]
) -> Generator[_Batch]:
    """Yield the patches to predict, `config.batch` at a time across the rows of the grid, and fill in `tissue` (N,)."""
    spec = ensemble.spec
    least = spec.min_tissue if config.min_tissue is None else config.min_tissue
    # Patches without any tissue are left unread where nothing is asked of them; their fraction is 0.
    read_from = 0.0 if config.all_patches or least == 0 else _ANY_TISSUE
    origins = analysis.grid.origins()
    waiting_rows, waiting = np.empty(0, np.int64), np.empty((0, *_patch_shape(slide, analysis)), slide.dtype)
    done = 0
    for rows, patches, fractions in iterate_patches(slide, analysis, min_tissue=read_from):
        tissue[rows] = fractions
        done = int(rows[-1]) + 1
        is_wanted = np.ones(len(rows), np.bool_) if config.all_patches else fractions >= least
        if not is_wanted.all():
            rows, patches = rows[is_wanted], patches[is_wanted]
        if len(waiting_rows):
            rows, patches = np.concatenate([waiting_rows, rows]), np.concatenate([waiting, patches])
        waiting_rows, waiting = rows, patches
        whole = len(waiting_rows) - len(waiting_rows) % config.batch
        for start in range(0, whole, config.batch):
            part = slice(start, start + config.batch)
            yield _ready(waiting_rows[part], waiting[part], origins, slide, analysis, ensemble, done)
        waiting_rows, waiting = waiting_rows[whole:], waiting[whole:]
    if len(waiting_rows):
        yield _ready(waiting_rows, waiting, origins, slide, analysis, ensemble, done)


def _patch_shape(slide: Slide, analysis: SlideAnalysis) -> tuple[int, int, int]:
    return len(slide.channels), analysis.grid.patch_px, analysis.grid.patch_px


def _ready(
    rows: NDArray[np.int64],
    patches: NDArray[np.generic],
    origins: NDArray[np.int64],
    slide: Slide,
    analysis: SlideAnalysis,
    ensemble: Ensemble,
    done: int,
) -> _Batch:
    """Return patches (n, C, P, P) in the slide's type as a batch, measured and scaled."""
    grid = analysis.grid
    factor = ensemble.spec.intensity.sharpness_mpp / (slide.mpp * grid.downsample)
    scaled = intensity.scale(patches, analysis.windows)
    measured = np.empty((len(rows), 2))
    for number, row in enumerate(rows.tolist()):
        x, y = origins[row].tolist()
        width, height = grid.inside(x, y)
        measured[number] = measure_patch(
            patches[number, :, :height, :width],
            scaled[number, :, :height, :width],
            analysis.windows,
            sharpness_factor=factor,
            polarities=analysis.tissue.polarities,
            scanned=partial(analysis.tissue.scanned_mask, x, y, grid.downsample, (width, height)),
        )
    values = {
        "saturated_fraction": measured[:, 0],
        "sharpness": measured[:, 1],
        "mean": scaled.mean(axis=(2, 3)).astype(np.float64),
    }
    return _Batch(rows, ensemble.standardised(scaled), values, done)


def _refuse_nonfinite(slide_id: str, origins: NDArray[np.int64], logits: NDArray[np.float64]) -> None:
    """Raise if a logit is NaN or infinite, with the patches' names."""
    is_bad = ~np.isfinite(logits)
    if is_bad.any():
        bad = [f"{slide_id}@{x},{y}" for x, y in origins[is_bad][:5].tolist()]
        raise NonFiniteError(
            f"{int(is_bad.sum())} logits are NaN or infinite: {', '.join(bad)}{' …' if is_bad.sum() > 5 else ''}",
            place=slide_id,
            remedy="look for NaN pixels in the slide and for NaN weights in the model",
        )


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
