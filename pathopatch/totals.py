"""What do many predicted slides come to? ``cohort.csv``, a row a slide, and ``patients.csv``, a row a patient.

Both are made of the slides' status files alone, for every slide that was ever predicted into a work folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pathopatch import files, provenance
from pathopatch.heatmaps.summary import SUMMARY

COUNTS = ("patches", "predicted", "tumour")
COHORT = ("slide_id", "patient_id", "state", "code", *COUNTS, *SUMMARY, "warnings")
"""Columns of ``cohort.csv``; areas in mm2, shares in [0, 1], empty where a slide has no such number."""
PATIENTS = (
    "patient_id", "slides", "done", "failed", *COUNTS, "tissue_mm2", "positive_mm2", "positive_tissue_mm2",
    "positive_share", "largest_region_mm2", "flagged_share",
)  # fmt: skip
"""Columns of ``patients.csv``: sums over the slides that are done, and of the largest region the largest."""
_GOOD = ("done", "done_empty")


def write_cohort(out: Path) -> None:
    """Write both tables of a work folder, each by rename."""
    slides = cohort_table(out)
    for name, table in (("cohort.csv", slides), ("patients.csv", patient_table(slides))):
        files.write_bytes(out / name, table.to_csv(index=False, lineterminator="\n", float_format="%.9g").encode())


def cohort_table(out: Path) -> pd.DataFrame:
    """Return a row for each slide of a work folder that was predicted, or failed to be; columns `COHORT`.

    Parameters
    ----------
    out : Path
        Work folder.
    """
    rows = []
    for path in sorted((out / "status").glob("*.json")):
        if entry := provenance.read_status(out, path.stem).get("predict"):
            rows.append(_row(path.stem, entry))
    table = pd.DataFrame(rows, columns=list(COHORT))
    return table.astype(dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(SUMMARY, "float64"))


def _row(slide_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return what a slide's status says; a slide that failed shows no numbers of an earlier run."""
    found = {"slide_id": slide_id, "patient_id": entry.get("patient_id", "")}
    found |= {name: entry.get(name, "") for name in ("state", "code")}
    found["warnings"] = "; ".join(entry.get("warnings", ()))
    return {**found, **entry.get("counts", {}), **entry.get("summary", {})}


def patient_table(slides: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each patient of some slides; columns `PATIENTS`.

    Parameters
    ----------
    slides : DataFrame
        As `cohort_table` returns it. Slides without a patient are left out.
    """
    known = slides[slides["patient_id"] != ""]
    rows = [_patient(str(name), part) for name, part in known.groupby("patient_id", sort=True)]
    return pd.DataFrame(rows, columns=list(PATIENTS))


def _patient(name: str, slides: pd.DataFrame) -> dict[str, Any]:
    """Return one patient's row; flagged patches count over all predicted ones."""
    done = slides[slides["state"].isin(_GOOD)]
    sums = {each: int(done[each].sum()) for each in COUNTS}
    areas = {each: float(done[each].sum()) for each in ("tissue_mm2", "positive_mm2", "positive_tissue_mm2")}
    flagged = float((done["flagged_share"].fillna(0.0) * done["predicted"].astype("float64")).sum())
    return {
        "patient_id": name,
        "slides": len(slides),
        "done": len(done),
        "failed": int((slides["state"] == "failed").sum()),
        **sums,
        **areas,
        "positive_share": areas["positive_tissue_mm2"] / areas["tissue_mm2"] if areas["tissue_mm2"] else None,
        "largest_region_mm2": float(done["largest_region_mm2"].max()) if len(done) else None,
        "flagged_share": flagged / sums["predicted"] if sums["predicted"] else None,
    }
