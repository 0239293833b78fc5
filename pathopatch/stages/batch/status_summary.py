"""Count the slides of a work folder by state, and collect the errors of those that failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathopatch.core.config import UNCERTAIN_BELOW
from pathopatch.core.errors import InputMissingError, Remark, merged, shared_text
from pathopatch.core.status import FINISHED, TERMINAL_STATES, StatusTable

if TYPE_CHECKING:
    import pandas as pd

STATES = (*TERMINAL_STATES, "running")
"""In the order in which they are shown; `running` is also what a killed process leaves."""
_COLUMNS = ("state", "code", "message", "patches", "predicted", "tumour", "seconds", "ended", "tissue_confidence")
_SHOWN = ("slide_id", "stage", "state", "code", "patches", "predicted", "tumour", "seconds")
_FEW = 40  # slides: so many are listed without being asked for


@dataclass(frozen=True, kw_only=True)
class StatusSummary:
    """What became of the slides of a work folder.

    Parameters
    ----------
    table : DataFrame
        slide_id, stage, state, code, message, patches, predicted, tumour, seconds, ended, tissue_confidence; a row a
        slide and stage.
    counts : DataFrame
        Slides by stage (rows) and state (columns).
    """

    table: pd.DataFrame
    counts: pd.DataFrame

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of what failed."""
        return self.table[self.table["state"] == "failed"]

    @property
    def exit_code(self) -> int:
        """As of a run: 0 when every slide is done, 3 when some are not, 1 when none is."""
        good = int(self.counts[list(FINISHED)].to_numpy().sum())
        if good == len(self.table):
            return 0
        return 3 if good else 1

    def text(self, *, all_slides: bool = False) -> str:
        """Return table and totals in words; of many slides those that are not done, unless all are asked for."""
        lines = []
        is_few = self.table["slide_id"].nunique() <= _FEW
        rows = self.table if all_slides or is_few else self.table[~self.table["state"].isin(FINISHED)]
        if len(rows):
            lines += [_columns(rows), ""]
        lines.append(f"{self.table['slide_id'].nunique():,} slides")
        for stage, row in self.counts.iterrows():
            states = ", ".join(f"{count:,} {state}" for state, count in row.items() if count)
            patches = self.table.loc[self.table["stage"] == stage, "patches"].sum()
            lines.append(f"{stage}: {states}; {int(patches):,} patches")
        lines += _uncertain(self.table)
        failed = self.failed
        if len(failed):
            each = failed.assign(code=failed["code"].astype(object).fillna("")).drop_duplicates(["slide_id", "code"])
            codes = each["code"].value_counts(sort=True)  # of slides, whichever stages failed
            lines.append("failed, by code: " + ", ".join(f"{count:,} {code}" for code, count in codes.items()))
        return "\n".join(lines)


def status_summary(out: Path) -> StatusSummary:
    """Return what became of the slides of a work folder, from their statuses alone.

    Parameters
    ----------
    out : Path
        Folder that ``tile`` or ``predict`` wrote to.

    Raises
    ------
    InputMissingError
        Nothing was worked on there.
    InputCorruptError
        Rolled statuses cannot be read.
    """
    table = StatusTable(out, _COLUMNS).read()
    if table.empty:
        raise InputMissingError(
            "no slide was worked on here", place=str(out), remedy="name the folder of pathopatch tile or predict"
        )
    counts = table.groupby(["stage", "state"]).size().unstack(fill_value=0)
    return StatusSummary(table=table, counts=counts.reindex(columns=list(STATES), fill_value=0))


def _uncertain(table: pd.DataFrame) -> list[str]:
    """Return how many slides' tissue is uncertain, and which; nothing where no status says how sure it is."""
    rated = table[table["tissue_confidence"].notna()]
    if rated.empty:
        return []
    names = rated.loc[rated["tissue_confidence"].astype(float) < UNCERTAIN_BELOW, "slide_id"].tolist()
    line = f"tissue: {len(names):,} of {len(rated):,} slides uncertain"
    if names:
        more = f" and {len(names) - _FEW:,} more" if len(names) > _FEW else ""
        line += f": {', '.join(names[:_FEW])}{more}; look at them with pathopatch tissue"
    return [line]


def _columns(rows: pd.DataFrame) -> str:
    """Return rows as aligned text, empty where nothing is known, and below them the messages of failures."""
    shown = rows[list(_SHOWN)].astype(dict.fromkeys(("patches", "predicted", "tumour"), "Int64"))
    table: str = shown.astype(object).where(shown.notna(), "").to_string(index=False)
    messages = zip(rows["slide_id"], rows["message"].astype(object).fillna(""), strict=True)
    remarks = [
        Remark(slide, f"{slide}: {message}", shared_text(message, slide)) for slide, message in messages if message
    ]
    return "\n".join([table, *([""] if remarks else []), *merged(remarks, "slide")])
