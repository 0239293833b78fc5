"""The prediction of one slide, for notebooks and other code: made from a slide, or read from an output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps import FACTS, FLAGS
from pathopatch.heatmaps.facts import HEATMAP, heatmap_damages, read_facts
from pathopatch.heatmaps.predict import DEFAULTS, predict_patches, slide_source
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.leakage import leakage, leakage_warning
from pathopatch.models.loading import load_ensemble
from pathopatch.slides import Slide, open_slide
from pathopatch.slides.slide_paths import slide_id_from_path


@dataclass(frozen=True, kw_only=True, eq=False)
class SlidePrediction:
    """The prediction of one slide: M patches, and maps of (ny, nx) cells.

    Attributes
    ----------
    slide_id : str
        The slide.
    table : DataFrame
        A row per predicted patch, see `predict_slide`.
    maps : mapping of str to ndarray of float, shape (ny, nx)
        ``probability`` and ``tissue_fraction``, of an ensemble ``spread``, and ``scanned_fraction`` of a
        slide that was not scanned everywhere; NaN where nothing was predicted. Cell (0, 0) starts at the
        slide's top-left corner.
    cell_px : float
        Side of a cell, level-0 px.
    size_px : (int, int)
        Width and height of the slide, level-0 px.
    mpp : float
        Micrometres per level-0 px.
    class_names : tuple of str
        Names of the two classes; probabilities are of the second.
    decision_threshold : float
        On the logit: patches above it are of the second class.
    decision_probability : float
        The same on the probability.
    leakage : str
        What the model has to do with this slide: "trained on", "selected on", "not known" (it lists no slides), or "".
    """

    slide_id: str
    table: pd.DataFrame
    maps: Mapping[str, NDArray[np.float64]]
    cell_px: float
    size_px: tuple[int, int]
    mpp: float
    class_names: tuple[str, ...]
    decision_threshold: float
    decision_probability: float
    leakage: str = ""

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        """Which patches are called the second class, (M,)."""
        return np.asarray(self.table["logit"] > self.decision_threshold, np.bool_)

    def __repr__(self) -> str:
        counts = f"{pluralize(len(self.table), 'patch')} predicted, {int(self.is_positive.sum())} {self.class_names[1]}"
        leaks = f", by a model that was {self.leakage} this slide" if leakage_warning(self.leakage) else ""
        return f"<SlidePrediction {self.slide_id!r}: {counts}{leaks}>"


def predict_slide(
    slide: Slide | Path | str | Mapping[str, Path | str],
    model: PatchClassifier | Ensemble | Path | str | Sequence[Path | str],
    *,
    slide_id: str | None = None,
    tissue_mask: Path | str | None = None,
    config: PredictConfig = DEFAULTS,
) -> SlidePrediction:
    """Predict each patch of a slide that holds enough tissue, and write nothing.

    Parameters
    ----------
    slide : Slide, path, or mapping of str to path
        An open slide, or what `open_slide` takes.
    model : PatchClassifier, Ensemble, path, or sequence of paths
        From `load_model`, several that see the same patches, or the folders of their bundles.
    slide_id : str, optional
        First part of each patch_id; the first file's stem if not given.
    tissue_mask : path, optional
        Raster or outlines of the tissue; found on the slide if not given.
    config : PredictConfig
        Its device, runtime, precision and threads count for folders of bundles; an open model has them already.

    Returns
    -------
    SlidePrediction
        The columns of its table: patch_id; x, y (origin) and width, height, level-0 px, of the whole patch even where
        it overhangs; tissue_fraction; logit = z1 - z0; probability = sigmoid(logit / temperature); of an ensemble the
        mean of the members' logits over their temperatures, its sigmoid, and spread, the standard deviation of their
        probabilities; saturated_fraction and sharpness as `tile` measures them; and a boolean column ``flag_<reason>``
        for each of `pathopatch.heatmaps.FLAGS`, missing where it cannot be decided. Row by row of the grid; without
        tissue no row, but all columns.

    Raises
    ------
    ChannelMismatchError, CheckpointIncompatibleError, MppMissingError, InputUnsupportedError
        The model was not made for such a slide, or the stride exceeds the patch.
    InputCorruptError
        More of the slide cannot be decoded than `config` allows.
    NonFiniteError
        The model returned NaN or infinity.
    PathopatchError
        As `open_slide` and `load_model`, for paths.

    Examples
    --------
    >>> from pathopatch.demo import EXAMPLE, EXAMPLE_MODEL
    >>> files = {name: EXAMPLE / f"example_{name}.tif" for name in ("CARS", "TPEF", "SHG")}
    >>> prediction = pathopatch.predict_slide(files, EXAMPLE_MODEL)
    >>> prediction.maps["probability"].shape == prediction.maps["tissue_fraction"].shape
    True
    """
    ensemble = _opened_model(model, config)
    with nullcontext(slide) if isinstance(slide, Slide) else open_slide(slide) as opened:
        identity = slide_id_from_path(opened.paths[0]) if slide_id is None else slide_id
        mask = None if tissue_mask is None else Path(tissue_mask)
        source = slide_source(opened, ensemble.spec, identity, config, tissue_mask=mask)
        prediction = predict_patches(source, ensemble, config)
        grid, spec = prediction.grid, ensemble.spec
        cells, names = prediction.maps()
        return SlidePrediction(
            slide_id=identity,
            table=pd.concat(prediction.tables(), ignore_index=True),
            maps=dict(zip(names, cells, strict=True)),
            cell_px=grid.stride,
            size_px=(grid.width, grid.height),
            mpp=prediction.mpp,
            class_names=spec.class_names,
            decision_threshold=spec.decision_threshold,
            decision_probability=prediction.decision_probability,
            leakage=leakage([member.spec for member in ensemble.members], source.contents),
        )


def read_prediction(out: Path | str, slide_id: str | None = None) -> SlidePrediction:
    """Return a prediction that `pathopatch predict` wrote.

    Parameters
    ----------
    out : path
        The output folder.
    slide_id : str, optional
        The slide; not needed in a folder of one slide.

    Raises
    ------
    InputMissingError
        There is no prediction of such a slide; those that are there are named.
    InputUnsupportedError
        There are several and none is named.
    InputCorruptError
        Files are missing, or are not as they were written.

    Examples
    --------
    >>> pathopatch.read_prediction("out", "example").class_names
    ('non-tumour', 'tumour')
    """
    work = WorkFolder(Path(out))
    identity = _predicted_slide(work.root, slide_id)
    folder, table_path = work.heatmap(identity), work.predictions(identity)
    if problems := heatmap_damages(folder, table_path, exports=(HEATMAP,)):
        raise InputCorruptError(
            f"the prediction is damaged: {'; '.join(problems)}", place=str(folder), remedy="predict the slide again"
        )
    facts, heatmap = read_facts(folder), read_ome_tiff(folder / HEATMAP)
    width, height = facts["size_px"]
    return SlidePrediction(
        slide_id=identity,
        # Parquet does not tell a flag that is always known from plain truth values.
        table=read_table(table_path).astype({f"flag_{name}": "boolean" for name in FLAGS}),
        maps=dict(zip(heatmap.channels, heatmap.levels[0].astype(np.float64), strict=True)),
        cell_px=facts["cell_px"],
        size_px=(width, height),
        mpp=facts["mpp"],
        class_names=tuple(facts["class_names"]),
        decision_threshold=facts["decision_threshold"],
        decision_probability=facts["decision_probability"],
        leakage=facts["leakage"],
    )


def _predicted_slide(out: Path, slide_id: str | None) -> str:
    """Return the id of the slide to read; refuse one that is not there, or to choose among several."""
    ids = sorted(path.parent.name for path in out.glob(f"heatmaps/*/{FACTS}"))
    listed = ", ".join(ids[:10]) + (", …" if len(ids) > 10 else "")
    if slide_id is None and len(ids) > 1:
        raise InputUnsupportedError(
            f"{pluralize(len(ids), 'slide')} are predicted here", place=str(out), remedy=f"name one of {listed}"
        )
    if not ids or slide_id not in (None, *ids):
        what = "no prediction" if slide_id is None else f"no prediction of {slide_id!r}"
        remedy = f"name one of {listed}" if ids else "name the folder that pathopatch predict wrote"
        raise InputMissingError(what, place=str(out), remedy=remedy)
    return slide_id or ids[0]


def _opened_model(
    model: PatchClassifier | Ensemble | Path | str | Sequence[Path | str], config: PredictConfig
) -> Ensemble:
    """Return a model as an ensemble; bundles are opened as the configuration says."""
    if isinstance(model, PatchClassifier):
        model = Ensemble([model])
    if isinstance(model, Ensemble):
        if model.area_correct != config.area_correct:
            raise InputUnsupportedError(
                f"the model was opened with area_correct={model.area_correct!r}, the settings say "
                f"{config.area_correct!r}",
                place="[predict] area_correct",
                remedy="give the folder of the bundle, or the same to load_ensemble and PredictConfig",
            )
        return model
    folders = [model] if isinstance(model, str | Path) else model
    names = ("device", "precision", "runtime", "threads", "area_correct")
    return load_ensemble(folders, **{name: getattr(config, name) for name in names})
