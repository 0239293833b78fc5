"""Predict a slide from the features of its patches, and write the outputs that `predict_to` writes from pixels.

The map's cells have the step between neighbouring patches. Patches on a grid from the slide's corner are stitched as
those of a slide are. The patches of other tools may lie on several grids: then each counts in the cell nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas.arrays import BooleanArray

from pathopatch.core.artefacts import Stamp, content_fingerprints
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError, MppMissingError, NonFiniteError
from pathopatch.features.readers.folder import files_fingerprint
from pathopatch.features.slide_features import SlideFeatures
from pathopatch.features.tissue import measure_tissue
from pathopatch.heatmaps import FLAGS
from pathopatch.heatmaps.artefacts import STAGE, PredictResult, model_fingerprint, slide_fingerprint, write_outputs
from pathopatch.heatmaps.predict import Prediction, with_optional_maps
from pathopatch.heatmaps.stitch import coverage, mean_of_nearest, stitch
from pathopatch.models.forward import Ensemble
from pathopatch.models.spec import BundleSpec, check_features, patch_limits
from pathopatch.patches.analysis import SlideAnalysis, analyse_slide
from pathopatch.patches.grid import Grid
from pathopatch.patches.tissue import TissueModel
from pathopatch.slides.resolution import RGB, Level, SlideFacts, resolution
from pathopatch.slides.slide import Slide

_ROWS = 4096  # features that become float32 at a time
_SHEET_PX = 1536  # longest side of the white sheet that stands for a slide
_OFF_GRID_PX = 1.0  # a patch further from its grid than rounding explains lies on another one
_ROUNDING_PX = 0.5
_LEAST_SHARE = 0.05  # of the distances of neighbouring patches, which the step between them has
_MOST_CELLS = 8  # of a patch's side: patches that overlap more have cells of their own size
_NO_SLIDE = "no slide was given: the map is drawn on white"
_NO_TISSUE = "the tissue fractions are not known: no area of tissue is stated"


class BlankSlide(Slide):
    """A white sheet of a slide's size, for features whose slide is not at hand."""

    def __init__(self, path: Path, *, size: tuple[int, int], mpp: float) -> None:
        facts = SlideFacts(
            channels=RGB,
            dtype=np.dtype(np.uint8),
            levels=(Level(*size, 1.0),),
            resolution=resolution(mpp, mpp, source="the feature file"),
            paths=(path,),
        )
        super().__init__(facts, {"path": path, "size": size}, mpp=mpp, background="bright")

    def _read_level(self, left: int, top: int, width: int, height: int, level: int) -> tuple[Any, None]:
        return np.full((3, height, width), 255, np.uint8), None

    def close(self) -> None:
        """Do nothing: no file is open."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeaturePrediction(Prediction):
    """The predictions of patches behind features: `tissue_fraction` is that of N patches, NaN where it is not known."""

    places: NDArray[np.int64]  # (N, 2): their corners, level-0 px

    def maps(self) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """Return the maps (C, ny, nx) and their names; where there is no patch, there is no tissue."""
        grid, (x, y) = self.analysis.grid, self.origins.T
        all_x, all_y = self.places.T
        place = stitch if self.placement == "grid" else mean_of_nearest
        probability, spread = (place(grid, x, y, np.asarray(self.columns[name])) for name in ("probability", "spread"))
        tissue, scanned = self.tissue_maps(partial(place, grid, all_x, all_y))
        if not len(self.places) or np.isfinite(self.tissue_fraction).any():
            tissue[np.isnan(place(grid, all_x, all_y, np.ones(len(self.places))))] = 0.0
        if self.placement == "grid":
            covered = coverage(grid, x, y, np.asarray(self.columns["probability"]))
        else:
            covered = np.isfinite(probability).astype(np.float64)
        return with_optional_maps([probability, tissue, covered], spread, scanned)

    def unreadable_cells(self, tissue: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return that no cell is unreadable: a fraction may be unknown, the features are not."""
        return np.zeros(tissue.shape, np.bool_)


def predict_features_to(
    features: SlideFeatures,
    model: Ensemble,
    out: Path,
    *,
    slide: Slide | None = None,
    patient_id: str = "",
    config: PredictConfig,
    force: bool = False,
) -> PredictResult:
    """Predict a slide from its features and write its table, heatmap and status, unless they are up to date.

    `features` are in level-0 pixels, see `SlideFeatures.in_level0_px`. `slide` is what they were made of: it is drawn
    under the map, a white sheet by default, and its tissue is measured where the features have no tissue fractions.
    Without these `config.min_tissue` has no effect. All else is as for `predict_to`.

    Raises
    ------
    CheckpointIncompatibleError
        The features are of another encoder, or the model takes patches.
    InputUnsupportedError
        The features have no coordinates or no size, or are of a slide of another size; the model's threshold depends on
        unknown tissue fractions; or the settings need pixels (``tta``, ``deidentify``, ``stride_px``).
    MppMissingError, NonFiniteError
        Nobody states um/px; the model returned NaN or infinity.
    """
    spec = model.spec
    warnings = [*check_features(spec, features.encoder.to_dict(), place=str(features.path)), *features.notes]
    refuse_settings(config)
    if slide is None:
        sheet: Slide = _sheet(features)
        warnings.append(_NO_SLIDE)
    else:
        sheet = slide
        features.require_size(slide.size, place=str(slide.paths[0]))
    grid, is_on_grid = grid_of_patches(features, sheet.size)

    def predict() -> tuple[Prediction, list[str]]:
        tissue, scanned = _tissue_fractions(features, slide, grid)
        analysis = _analysis(sheet, grid, is_blank=slide is None)
        columns, rows = _columns(features, model, tissue, scanned, config)
        prediction = FeaturePrediction(
            slide_id=features.slide_id,
            analysis=analysis,
            tissue_fraction=tissue,
            scanned_fraction=scanned,
            places=whole_px(features),
            origins=whole_px(features)[rows],
            columns=columns,
            decision_probability=_decision_probability(spec),
            unreadable=0,
            placement="grid" if is_on_grid else "nearest",
        )
        return prediction, [_NO_TISSUE] if len(tissue) and np.isnan(tissue).all() else []

    own_files = files_fingerprint([features.path, *features.companions])

    def make_stamp() -> Stamp:
        settings = {
            "all_patches": config.all_patches,
            **patch_limits(spec, config),
            "mpp": sheet.mpp,
            "flags": config.flags,
        }
        inputs = {"slide": own_files, "model": model_fingerprint(model)}
        if slide is not None:
            inputs["picture"] = slide_fingerprint(slide)
        return Stamp(stage=STAGE, settings=settings, inputs=inputs)

    about = {"patient_id": patient_id, "source": str(features.path) if slide is None else slide.source}
    return write_outputs(
        sheet,
        model,
        out,
        slide_id=features.slide_id,
        warnings=warnings,
        make_stamp=make_stamp,
        predict=predict,
        fingerprints=[own_files, features.slide_content, *([] if slide is None else content_fingerprints(slide.paths))],
        about=about,
        drawn_name=features.slide_id,
        force=force,
    )


def grid_of_patches(features: SlideFeatures, size: tuple[int, int]) -> tuple[Grid, bool]:
    """Return a grid of cells of the step between neighbouring patches, and whether the patches lie on it.

    `size` is the slide's (width, height), level-0 px. The step is a real number: coordinates in micrometres are whole
    in micrometres alone. InputUnsupportedError for a single patch whose side is not known.
    """
    x, y = _xy(features)
    step = _step(x, y)
    side = features.side or step
    if step < side / _MOST_CELLS:
        step = side
    if not step or not side:
        raise InputUnsupportedError(
            "the side of the patches is not known",
            place=str(features.path),
            remedy="keep the tool's files of coordinates beside its features",
        )
    width, height = size
    ratio = max(1, round(side / step))
    if abs(side / step - ratio) * step > _OFF_GRID_PX:  # patches that overlap by another part than a whole number
        grid = Grid(width=width, height=height, downsample=1.0, patch_px=round(side), stride_px=round(step))
    else:
        grid = Grid(width=width, height=height, downsample=step, patch_px=ratio, stride_px=1)
    starts_x, starts_y = (np.floor(np.arange(n) * grid.stride + 0.5) for n in (grid.nx, grid.ny))
    origins = whole_px(features)
    is_on_grid = bool(np.isin(origins[:, 0], starts_x).all() and np.isin(origins[:, 1], starts_y).all())
    return grid, is_on_grid and len(np.unique(origins, axis=0)) == len(origins)


def _step(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the distance of neighbouring patches, 0 where no two are in a row or column."""
    distances = []
    for along, across in ((x, y), (y, x)):
        order = np.lexsort((along, np.round(across)))
        is_neighbour = np.diff(np.round(across[order])) == 0
        distances.append(np.diff(along[order])[is_neighbour])
    found = np.concatenate(distances)
    found = found[found > _OFF_GRID_PX]
    if not len(found):
        return 0.0
    values, counts = np.unique(np.round(found), return_counts=True)
    # Patches of two grids may stand in one row, at any distance; that is rare.
    step = float(values[counts >= _LEAST_SHARE * counts.sum()].min(initial=values[counts.argmax()]))
    step = float(found[np.abs(found - step) <= _OFF_GRID_PX].mean())
    span = float(np.ptp(x))
    exact = span / max(1, round(span / step))  # of whole pixels, where the step is not: their rounding has no effect
    return exact if abs(exact - step) <= _ROUNDING_PX else step


def _xy(features: SlideFeatures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if features.x is None or features.y is None:
        raise InputUnsupportedError(
            "features without coordinates: no map can be drawn",
            place=str(features.path),
            remedy="keep the tool's files of coordinates beside its features",
        )
    return features.x, features.y


def whole_px(features: SlideFeatures) -> NDArray[np.int64]:
    """Return the patches' corners, (N, 2), in whole level-0 px."""
    return np.floor(np.stack(_xy(features), axis=1) + 0.5).astype(np.int64)


def _sheet(features: SlideFeatures) -> BlankSlide:
    """Return a white sheet of the slide's size."""
    if features.mpp is None:
        raise MppMissingError(
            "um/px of level 0 is not known: the map has no scale",
            place=str(features.path),
            remedy="give --slide-mpp, or name the folder of the slides with --slides",
        )
    return BlankSlide(features.path, size=size_of(features), mpp=features.mpp)


def size_of(features: SlideFeatures) -> tuple[int, int]:
    """Return the slide's (width, height), level-0 px: as its features state it, else as its patches reach."""
    if features.size_px is not None:
        return features.size_px
    x, y = _xy(features)
    side = features.side or _step(x, y) or 1.0
    width, height = (int(np.ceil(values.max() + side)) if len(values) else 1 for values in (x, y))
    return width, height


def _tissue_fractions(
    features: SlideFeatures, slide: Slide | None, grid: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the tissue and the scanned fraction of each patch, (N,) each, stored or measured.

    Where neither is possible, the tissue is NaN and all counts as scanned.
    """
    scanned = np.ones(len(features)) if features.scanned_fraction is None else features.scanned_fraction
    if features.tissue_fraction is not None:
        return features.tissue_fraction.astype(np.float64), scanned.astype(np.float64)
    if slide is None or len(features) == 0:
        return np.full(len(features), np.nan), scanned.astype(np.float64)
    x, y = whole_px(features).T
    return measure_tissue(slide, x, y, grid.extent)


def _analysis(slide: Slide, grid: Grid, *, is_blank: bool) -> SlideAnalysis:
    """Return what the picture needs of a slide, with the features' grid."""
    if not is_blank:
        return replace(analyse_slide(slide, TileConfig()), grid=grid)
    scale = max(1.0, max(slide.size) / _SHEET_PX)
    width, height = (max(1, round(side / scale)) for side in slide.size)
    windows = np.array([[0.0, 255.0]] * 3)
    return SlideAnalysis(
        grid=grid,
        tissue=TissueModel(
            polarities=slide.polarities,
            windows=windows,
            threshold=None,
            mask=np.zeros((height, width), np.uint8),
            scale_x=slide.size[0] / width,
            scale_y=slide.size[1] / height,
        ),
        windows=windows,
        overview=np.full((3, height, width), 255, np.uint8),
        fill=np.full(3, 255, np.uint8),
        background="bright",
    )


def _columns(
    features: SlideFeatures,
    model: Ensemble,
    tissue: NDArray[np.float64],
    scanned: NDArray[np.float64],
    config: PredictConfig,
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return the columns of the predicted patches, (M,) each, and their rows among the features."""
    limits = patch_limits(model.spec, config)
    # Patches of unknown tissue are predicted.
    rows = np.flatnonzero(~(tissue < limits["min_tissue"]) & (scanned >= limits["min_scanned"]))
    parts = [_forward(features.features[part], model) for part in _parts(rows)]
    logit, probability, spread = (np.concatenate(values) for values in zip(*parts, strict=True))
    if not np.isfinite(logit).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(logit)).sum())} logits are NaN or infinite",
            place=features.slide_id,
            remedy="look for NaN weights in the model",
        )
    unknown = np.full(len(rows), np.nan)
    raised = _flags(tissue[rows], probability, spread, _decision_probability(model.spec), config)
    columns: dict[str, Any] = {
        "logit": logit, "probability": probability, "spread": spread, "tissue_fraction": tissue[rows],
        "scanned_fraction": scanned[rows],
        "saturated_fraction": unknown, "sharpness": unknown,
        **{f"flag_{name}": flag for name, flag in raised.items()},
    }  # fmt: skip
    return columns, rows


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield rows a few at a time, at least one part."""
    for start in range(0, max(1, len(rows)), _ROWS):
        yield rows[start : start + _ROWS]


def _forward(
    features: NDArray[Any], model: Ensemble
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return logit, probability and spread of some features (n, D)."""
    if not len(features):
        return np.empty(0), np.empty(0), np.empty(0)
    patches = features[:, :, None, None].astype(np.float32)
    output = model.forward([member.standardised(patches) for member in model.members])
    return output.logit, output.probability, output.spread


def _flags(
    tissue: NDArray[np.float64],
    probability: NDArray[np.float64],
    spread: NDArray[np.float64],
    threshold: float,
    config: PredictConfig,
) -> dict[str, BooleanArray]:
    """Return for each of `FLAGS` the patches that have it, (M,); what pixels alone can tell is missing."""
    limits = config.flags
    with np.errstate(invalid="ignore"):
        known = {
            "low_tissue": (tissue < limits.low_tissue, np.isfinite(tissue)),
            "near_threshold": (np.abs(probability - threshold) <= limits.near_threshold, np.isfinite(probability)),
            "uncertain": (spread > limits.spread, np.isfinite(spread)),
        }
    never = np.zeros(len(tissue), np.bool_), np.zeros(len(tissue), np.bool_)
    pairs = {name: known.get(name, never) for name in FLAGS}
    return {name: BooleanArray(has & is_known, ~is_known) for name, (has, is_known) in pairs.items()}


def _decision_probability(spec: BundleSpec) -> float:
    threshold = spec.decision_probability
    assert threshold is not None  # members of an ensemble have two classes
    return threshold


def refuse_settings(config: PredictConfig) -> None:
    """Refuse settings that need pixels, with InputUnsupportedError."""
    asked = {
        "tta": config.tta,
        "stride_px": config.stride_px is not None,
        "--deidentify": config.deidentify,
        "--max-bad-tiles": bool(config.max_bad_tiles),
    }
    if names := [name for name, is_asked in asked.items() if is_asked]:
        raise InputUnsupportedError(
            f"features are predicted without {', '.join(names)}", place=names[0], remedy="leave it out"
        )
