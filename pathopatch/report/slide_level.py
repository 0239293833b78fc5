"""Show classification at slide level: AUROC by pooling, what tissue alone tells, and maps of the attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch.core.work_folder import WorkFolder
from pathopatch.evaluation.slide_level import MEASURES, VERDICTS
from pathopatch.report.collect import Study

_MOST_MAPS = 2  # of one set of results: slides of the highest probability


def slide_level(study: Study) -> dict[str, Any]:
    """Return the results of each ``slide_level/<name>`` and its maps; empty where there are none."""
    pictures: dict[str, bytes] = {}
    parts = []
    for number, (name, results) in enumerate(study.slide_levels.items(), 1):
        paths = _maps(WorkFolder(study.root).slide_level(name))
        files = {f"attention_{number}_{path.name}": path for path in paths}
        pictures |= {file: path.read_bytes() for file, path in files.items()}
        parts.append(
            {
                "name": name,
                "summary": results["summary"],
                "notes": results["notes"],
                "methods": results["methods"],
                "tissue": [_tissue(measure, row) for measure, row in results["tissue_alone"].items()],
                "maps": [{"file": file, "slide_id": path.stem} for file, path in files.items()],
            }
        )
    return {"parts": parts, "pictures": pictures} if parts else {}


def _tissue(measure: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "measure": MEASURES[measure], "verdict": VERDICTS.get(row["verdict"], "too few patients")}


def _maps(folder: Path) -> list[Path]:
    """Return the maps of the slides that attention pooling gives the highest probability."""
    table = pd.read_csv(folder / "predictions.csv", dtype={"slide_id": str})
    ordered = table[table["pooling"] == "attention"].sort_values("probability", ascending=False, kind="stable")
    paths = [folder / "attention" / f"{slide_id}.png" for slide_id in ordered["slide_id"]]
    return [path for path in paths if path.is_file()][:_MOST_MAPS]
