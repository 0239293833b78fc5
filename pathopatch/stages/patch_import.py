"""Store a set of ready patches as if it were one tiled slide: the command `tile --patches`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pathopatch.core.config import ReadyConfig, TileConfig
from pathopatch.core.progress import Progress
from pathopatch.stages.batch.slide_table import write_slides
from pathopatch.stages.batch.tasks import Outcome


def import_patches(
    source: Path,
    work: Path,
    config: TileConfig,
    *,
    ready: ReadyConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Store a set of ready patches as if it were one tiled slide; return its outcome.

    The work folder then holds this set and nothing else: slides that it had are no longer in the cohort.

    Raises
    ------
    PathopatchError
        As `pathopatch.patches.tile_patches`: a set has no part that could fail alone.
    """
    from pathopatch.patches import tile_patches

    def report_patches(done: int, total: int) -> None:
        if progress:
            progress("tile", done, total)

    result, facts = tile_patches(source, config, work, ready=ready, force=force, progress=report_patches)
    write_slides(work, pd.DataFrame([facts]), force=force)
    counts = {"patches": result.patches}
    return [Outcome(slide_id=result.slide_id, state=result.state, counts=counts, warnings=result.warnings)]
