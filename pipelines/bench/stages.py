"""Measure where the time of a prediction goes: CPU ms a patch by stage, on a made JPEG pyramid.

Functions of the package are wrapped for the time of the measurement. Nothing is read ahead, so that one stage computes
at a time and the threads of the network count as its own.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from inputs import TILE_PX, Inputs
from measure import Row, cpu_seconds
from predicting import ARCHITECTURE, write_bundle

from pathopatch.core.config import PredictConfig
from pathopatch.heatmaps import predict, prediction_files
from pathopatch.heatmaps.predict import slide_source
from pathopatch.models.forward import Ensemble, PatchClassifier
from pathopatch.models.loading import load_model
from pathopatch.patches import source
from pathopatch.patches.tissue_model import TissueModel
from pathopatch.slides import open_slide
from pathopatch.slides.segments import PageReader

_ACROSS = 32  # patches along a side of the slide
_REPEATS = 3
_TISSUE_MS = 0.6
# A stage that another one calls does not count for that one.
_STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "decode": ((PageReader, "_decoded"),),
    "tissue": ((source, "analyse_slide"), (TissueModel, "patch_mask"), (TissueModel, "scanned_mask")),
    "scale": ((predict, "scale"), (PatchClassifier, "standardised")),
    "measure": ((predict, "_prepared"), (predict, "saturated_fraction"), (predict, "sharpness")),
    "forward": ((Ensemble, "forward"),),
    "write": ((prediction_files, "write_tables"), (prediction_files, "_write_folder")),
}


class Stopwatch:
    """CPU seconds of all threads by stage, of wrapped functions that call each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._of_callees = [0.0]  # of each call in work, the seconds of other wrapped functions

    def wrapped(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            self._of_callees.append(0.0)
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent = time.process_time() - start
                self.seconds[stage] += spent - self._of_callees.pop()
                self._of_callees[-1] += spent

        return timed


def rows(inputs: Inputs) -> Iterator[Row]:
    """A row for each stage, and one for all else: the assembly of patches, and Python."""
    ensemble = Ensemble([load_model(write_bundle(inputs.folder / "bundle"), device="cpu", threads=1)])
    path = inputs.rgb_pyramid(TILE_PX * _ACROSS)
    repeats = [_stages(path, ensemble, inputs.folder / f"stages-{repeat}") for repeat in range(_REPEATS)]
    for stage in repeats[0]:
        name = f"predict, {_ACROSS**2} patches of a pyramid, {ARCHITECTURE}, {ensemble.precision}: {stage}"
        spent = statistics.median(seconds[stage] for seconds in repeats)
        goal = _TISSUE_MS if stage == "tissue" else None
        yield Row(name, 1000 * spent / _ACROSS**2, goal, "at most", "CPU ms a patch")


def _stages(path: Path, ensemble: Ensemble, out: Path) -> dict[str, float]:
    """Return the CPU seconds of one prediction by stage."""
    stopwatch = Stopwatch()

    def work() -> None:
        with open_slide(path, mpp=0.5, background="bright") as slide:
            patches_of_slide = slide_source(slide, ensemble.spec, "made", PredictConfig())
            result = prediction_files.write_prediction(patches_of_slide, ensemble, out)
        assert result.counts["predicted"] == _ACROSS**2

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(predict, "prefetch_items", lambda parts, **_: parts))
        for stage, functions in _STAGES.items():
            for owner, name in functions:
                function = stopwatch.wrapped(stage, getattr(owner, name))
                patches.enter_context(mock.patch.object(owner, name, function))
        total = cpu_seconds(work)
    by_stage = {stage: stopwatch.seconds[stage] for stage in _STAGES}
    return {**by_stage, "rest": total - sum(by_stage.values())}
