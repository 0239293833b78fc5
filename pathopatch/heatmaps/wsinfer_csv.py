"""Write predictions as the table of wsinfer: ``minx,miny,width,height,prob_<class>``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd


def write_wsinfer_csv(
    path: Path, predictions: pd.DataFrame | Iterable[pd.DataFrame], *, class_names: Sequence[str]
) -> None:
    """Write one row per predicted patch, in level-0 px, with the probability of each class.

    `predictions` has x, y, width, height (level-0 px) and probability (of the second class), in one table or in parts.
    """
    negative, positive = class_names
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["minx", "miny", "width", "height", f"prob_{negative}", f"prob_{positive}"])
        for part in [predictions] if isinstance(predictions, pd.DataFrame) else predictions:
            columns = (part[name].tolist() for name in ("x", "y", "width", "height", "probability"))
            writer.writerows(
                [x, y, width, height, f"{1.0 - probability:.9g}", f"{probability:.9g}"]
                for x, y, width, height, probability in zip(*columns, strict=True)
            )
