"""How does what was read leave for other programs? The command `export`, one function a format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from pathopatch.batch import open_row
from pathopatch.cohort import slides_to_predict
from pathopatch.errors import InputUnsupportedError
from pathopatch.progress import Progress


def export_ome_zarr(
    source: str,
    path: Path | None = None,
    *,
    version: Literal["0.4", "0.5"] = "0.5",
    slide_id: str | None = None,
    slide_mpp: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a whole slide as an OME-Zarr pyramid for other viewers; return its folder, ``<slide_id>.ome.zarr`` if None.

    Raises
    ------
    InputUnsupportedError
        `source` is a manifest, or something else than an export stands at `path`.
    """
    import numpy as np

    from pathopatch.config import IntensityConfig
    from pathopatch.patches import intensity
    from pathopatch.slides.omezarr_export import export_ome_zarr as write

    if source.lower().endswith(".csv"):
        raise InputUnsupportedError("a manifest, not a slide", place=source, remedy="export its slides one by one")
    (row,) = slides_to_predict(source, slide_id=slide_id)
    path = Path(f"{row.slide_id}.ome.zarr") if path is None else path
    with open_row(row, fallback_mpp=slide_mpp) as slide:
        overview, _, _ = slide.read_overview()
        everywhere = np.ones(overview.shape[1:], np.bool_)
        windows = intensity.windows(overview, everywhere, rule=IntensityConfig(), is_rgb_uint8=slide.is_rgb)
        done = None if progress is None else partial(progress, "export")
        write(slide, path, version=version, name=row.slide_id, windows=windows, force=force, progress=done)
    return path
