"""Run the demo: every stage on one cohort; ``pipelines/area-benchmark`` has such cohorts of several seeds."""

from __future__ import annotations

import os
from pathlib import Path

from pathopatch.core.config import RECOMMENDED, GroupsConfig, StudyConfig, TileConfig, TrainConfig
from pathopatch.core.method_names import MethodName
from pathopatch.core.task import Progress
from pathopatch.core.work_folder import WorkFolder
from pathopatch.demo.slides import CohortSpec, make_cohort
from pathopatch.evaluation.compare import comparison_text
from pathopatch.stages.audit import audit_text
from pathopatch.stages.study import run_study
from pathopatch.stages.train import require_training

THRESHOLDS = (0.25, 0.5)
METHODS: tuple[MethodName, ...] = ("erm", "resample", "gerne")


def run_demo(work: Path, *, jobs: int = 0, force: bool = False, progress: Progress | None = None) -> str:
    """Make the cohort of seed 0 in ``cohort/``, run every stage on it, and return tables and paths of the pictures.

    `jobs` is the number of parallel training runs, 0 for one per core; `force` replaces outputs of other settings.
    """
    require_training()
    spec = CohortSpec()
    study = StudyConfig(
        manifest=make_cohort(work / "cohort", seed=0, spec=spec, progress=progress),
        work=work,
        tile=TileConfig(patch_px=spec.field_px),
        groups=GroupsConfig(thresholds=THRESHOLDS),
        methods=METHODS,
        runs=(RECOMMENDED,),
        train=TrainConfig(frozen=True),
        jobs=jobs or os.cpu_count() or 1,
    )
    result = run_study(study, workers=study.jobs, force=force, progress=progress)
    slides = sorted({outcome.slide_id for outcome in result.outcomes if outcome.state != "failed"})
    assert result.comparison is not None  # all stages were run
    pictures = [WorkFolder(work).heatmap(slide) / "overlay.png" for slide in slides]
    return "\n".join(
        [
            audit_text(work),
            "",
            comparison_text(work, result.comparison),
            "",
            "heatmaps:",
            *(f"  {picture}" for picture in pictures if picture.is_file()),
            f"report: {work / 'report' / 'index.html'}",
        ]
    )
