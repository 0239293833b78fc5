"""The prediction of one slide, for notebooks and other code: made from a slide, or read from an output folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import ChannelMismatchError, InputCorruptError, InputMissingError, InputUnsupportedError
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder
from pathopatch.heatmaps import FACTS, FLAGS
from pathopatch.heatmaps.colors import MAP_OPACITY, ground_of, heat_colormap
from pathopatch.heatmaps.facts import HEATMAP, HeatmapFacts, heatmap_damages, read_facts
from pathopatch.heatmaps.overlay import cells_under
from pathopatch.heatmaps.predict import DEFAULTS, predict_patches, slide_source
from pathopatch.heatmaps.pyramids import read_ome_tiff
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.leakage import leakage, leakage_warning
from pathopatch.models.loading import load_ensemble
from pathopatch.patches.annotations.polygons import border_lines
from pathopatch.slides import Slide, in_order, open_slide
from pathopatch.slides.background import Polarity
from pathopatch.slides.composite import Picture, compose, shrunk
from pathopatch.slides.slide_paths import slide_id_from_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MapName = Literal["probability", "tissue_fraction", "coverage", "spread", "scanned_fraction"]
_PICTURE_PX = 1024  # longest side of the slide's picture: as large as a notebook shows
_FROM_MM = 2000.0  # um: longer slides have axes in mm


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
        ``probability``, ``tissue_fraction`` and ``coverage``, of an ensemble ``spread``, and ``scanned_fraction`` of a
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
    picture : ndarray of uint8, shape (h, w, 3), or None
        The slide at low resolution; None where it is not at hand.
    background : str
        The slide's background, "bright" or "dark", which chooses the map's colours on its picture.
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
    picture: Picture | None = None
    background: str = "bright"
    leakage: str = ""

    @property
    def is_positive(self) -> NDArray[np.bool_]:
        """Which patches are called the second class, (M,)."""
        return np.asarray(self.table["logit"] > self.decision_threshold, np.bool_)

    @property
    def _ground(self) -> Polarity:
        """The ground that the map is drawn on."""
        return "bright" if self.picture is None else ground_of(self.background)

    def plot(self, which: MapName = "probability", *, axes: Axes | None = None) -> Axes:
        """Draw a map over the slide with matplotlib, and return its axes.

        Parameters
        ----------
        which : {"probability", "tissue_fraction", "coverage", "spread", "scanned_fraction"}
            The map. On the probability, cells above the decision are outlined.
        axes : matplotlib Axes, optional
            Where to draw; by default a new figure of pyplot.

        Raises
        ------
        InputUnsupportedError
            There is no such map: only ensembles have a spread, only slides with unscanned parts a scanned fraction.
        """
        from matplotlib.collections import LineCollection

        if which not in self.maps:
            raise InputUnsupportedError(f"no map {which!r}", place="which", remedy=f"use {', '.join(self.maps)}")
        name = which.replace("_", " ")
        title, label, outlined_above = name, name, None
        if which == "probability":
            of = f"{self.is_positive.sum()} of {len(self.table)} patches {self.class_names[1]}"
            title = f"{of} (above {self.decision_probability:.2f})"
            label, outlined_above = f"{self.class_names[1]} probability", self.decision_probability
        if axes is None:
            import matplotlib.pyplot as plt  # here: it chooses a backend, and notebooks show its figures by themselves

            _, axes = plt.subplots(layout="constrained")
        values, size_um = self.maps[which], [side * self.mpp for side in self.size_px]
        per_unit, unit = (1000.0, "mm") if max(size_um) > _FROM_MM else (1.0, "um")
        (width, height), cell = (length / per_unit for length in size_um), self.cell_px * self.mpp / per_unit
        if self.picture is not None:
            axes.imshow(self.picture, extent=(0, width, height, 0), interpolation="nearest")
        ny, nx = values.shape
        image = axes.imshow(
            np.ma.masked_invalid(values),
            cmap=heat_colormap(self._ground, 1.0 if self.picture is None else MAP_OPACITY),
            vmin=0,
            vmax=None if which == "spread" else 1.0,  # the top of a spread has no meaning of its own
            extent=(0, nx * cell, ny * cell, 0),
            interpolation="nearest",
        )
        area = cell * border_lines(np.isfinite(values))
        axes.add_collection(LineCollection(list(area), colors="grey", linewidths=0.8, linestyles="dashed"))
        if outlined_above is not None:
            lines = cell * border_lines(values > outlined_above)
            axes.add_collection(LineCollection(list(lines), colors="black", linewidths=2.2))
            axes.add_collection(LineCollection(list(lines), colors="white", linewidths=1.0))
        axes.set(xlim=(0, width), ylim=(height, 0), xlabel=unit, ylabel=unit)
        leaks = f"\nmodel was {self.leakage} this slide" if leakage_warning(self.leakage) else ""
        # A slide's name may hold a dollar sign, which would start a formula.
        axes.set_title(f"{self.slide_id}\n{title}{leaks}", fontsize="medium", parse_math=False)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label(label, parse_math=False)
        across, down = (cell / length for length in (width, height))
        bar.ax.set_facecolor(_under_map(self.picture, values, (down, across)))
        return axes

    def __repr__(self) -> str:
        return f"<SlidePrediction {self.slide_id!r}: {self._counts()}>"

    def _counts(self) -> str:
        return f"{pluralize(len(self.table), 'patch')} predicted, {int(self.is_positive.sum())} {self.class_names[1]}"


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
    with _opened_slide(slide) as opened:
        identity = slide_id_from_path(opened.paths[0]) if slide_id is None else slide_id
        mask = None if tissue_mask is None else Path(tissue_mask)
        source = slide_source(opened, ensemble.spec, identity, config, tissue_mask=mask)
        prediction = predict_patches(source, ensemble, config)
        canvas, spec = prediction.canvas, ensemble.spec
        cells, names = prediction.maps()
        return SlidePrediction(
            slide_id=identity,
            table=pd.concat(prediction.tables(), ignore_index=True),
            maps=dict(zip(names, cells, strict=True)),
            cell_px=prediction.grid.stride,
            size_px=canvas.size_px,
            mpp=canvas.mpp,
            class_names=spec.class_names,
            decision_threshold=spec.decision_threshold,
            decision_probability=prediction.decision_probability,
            picture=compose(shrunk(canvas.overview, _PICTURE_PX), canvas.windows, is_rgb=canvas.is_rgb),
            background=canvas.slide_background,
            leakage=leakage([member.spec for member in ensemble.members], source.contents),
        )


def read_prediction(
    out: Path | str, slide_id: str | None = None, *, slide: Slide | Path | str | Mapping[str, Path | str] | None = None
) -> SlidePrediction:
    """Return a prediction that `pathopatch predict` wrote.

    Parameters
    ----------
    out : path
        The output folder.
    slide_id : str, optional
        The slide; not needed in a folder of one slide.
    slide : Slide, path, or mapping of str to path, optional
        The slide itself, to draw the map on; on white without it.

    Raises
    ------
    InputMissingError
        There is no prediction of such a slide; those that are there are named.
    InputUnsupportedError
        There are several and none is named, or `slide` has another size than the one that was predicted.
    InputCorruptError
        Files are missing, or are not as they were written.
    ChannelMismatchError
        `slide` has other channels than the one that was predicted.

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
        picture=None if slide is None else _picture(slide, facts),
        background=facts["background"],
        leakage=facts["leakage"],
    )


def _under_map(
    picture: Picture | None, values: NDArray[np.float64], cell: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the median colour of the slide under a map, on which the colour bar shows the map's own colours.

    `cell` is a cell's (height, width) as shares of the slide. White without a picture, and where cells are smaller than
    its pixels.
    """
    under = np.full((1, 3), 255)  # white
    if picture is not None:
        height, width = picture.shape[:2]
        row, column = cells_under((height, width), (cell[0] * height, cell[1] * width), values.shape)
        seen = picture[np.isfinite(values)[row][:, column]]
        under = seen if len(seen) else under
    red, green, blue = np.median(under, axis=0) / 255
    return (float(red), float(green), float(blue))


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


def _picture(slide: Slide | Path | str | Mapping[str, Path | str], facts: HeatmapFacts) -> Picture:
    """Return the picture of a slide, in the colours and windows of its prediction."""
    with _opened_slide(slide) as opened:
        if opened.size != tuple(facts["size_px"]):
            raise InputUnsupportedError(
                f"the slide has {opened.size[0]} x {opened.size[1]} px, the predicted one "
                f"{facts['size_px'][0]} x {facts['size_px'][1]} px",
                place=str(opened.paths[0]),
                remedy="give the slide that was predicted",
            )
        opened = in_order(opened, facts["channels"])
        if list(opened.channels) != facts["channels"]:
            raise ChannelMismatchError(
                f"the slide has channels {', '.join(opened.channels)}, the predicted one "
                f"{', '.join(facts['channels'])}",
                place=str(opened.paths[0]),
                remedy="give the slide that was predicted",
            )
        overview, _, _ = opened.read_overview(_PICTURE_PX)
        return compose(overview, np.array(facts["intensity_windows"], np.float64), is_rgb=opened.is_rgb)


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


@contextmanager
def _opened_slide(slide: Slide | Path | str | Mapping[str, Path | str]) -> Iterator[Slide]:
    """Open a slide that is named by its files, and close it again; one that is open stays so."""
    if isinstance(slide, Slide):
        yield slide
        return
    with open_slide(slide) as opened:
        yield opened
