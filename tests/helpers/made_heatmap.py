"""What `predict` writes of a slide for QuPath, made by hand: two patches, one of them tumour."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from shapely.geometry import box

from pathopatch.core.artefacts import Stamp, file_marks, write_table
from pathopatch.core.files import write_json
from pathopatch.core.status import update_status
from pathopatch.heatmaps.patch_exports import PositiveRegions, write_regions

SIZE, BOUNDS = (100, 90), (30, 10, 60, 70)
"""Width and height of the slide; x, y, width and height of its scanned part; level-0 px."""
_TABLE = pd.DataFrame(
    {
        "patch_id": ["a@32,32", "a@48,32"], "x": [32, 48], "y": [32, 32], "width": 16, "height": 16,
        "tissue_fraction": [0.5, 1.0], "scanned_fraction": 1.0, "logit": [-1.0, 0.3], "probability": [0.25, 0.6],
    }
)  # fmt: skip


def write_heatmap(out: Path, slide_id: str, source: str | dict[str, str] | None = None, **changed: object) -> None:
    """Write a slide's heatmap and its status, which names `source` unless it is None; `changed` are facts."""
    folder = out / "heatmaps" / slide_id
    folder.mkdir(parents=True)
    identity = {"slide_id": slide_id, "run": "m", "origin": BOUNDS[:2]}
    stamp = Stamp(stage="predict", settings={"tiling": {}}, inputs={"model": "m"})
    table = out / "predictions" / f"{slide_id}.parquet"
    table.parent.mkdir(exist_ok=True)
    write_table(table, _TABLE, stamp)
    square = PositiveRegions(polygons=[box(48, 32, 64, 48)], area_mm2=pd.array([0.1]), mean_probability=pd.array([0.6]),
                             cells=pd.array([1]))  # fmt: skip
    write_regions(folder / "regions.geojson.gz", square, class_name="tumour", **identity)
    facts = {
        "size_px": SIZE, "bounds_px": BOUNDS, "mpp": 0.5, "channels": ["R", "G", "B"], "dtype": "uint8",
        "background": "bright", "downsample": 1.0, "patch_px": 16, "stride_px": 16, "method": "gerne",
        "summary": {"positive_share": 0.25}, "class_names": ["no", "tumour"], "decision_threshold": 0.0,
        "outputs": file_marks({"regions.geojson.gz": folder / "regions.geojson.gz", "predictions": table}),
        "stamp": stamp.to_dict(),
    }  # fmt: skip
    write_json(folder / "heatmap.json", facts | changed)
    update_status(out, slide_id, "predict", {"state": "done"} | ({} if source is None else {"source": source}))
