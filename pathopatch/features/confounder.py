"""Take the confounder of the robustness indices from a groups table, and measure them on a draw of its patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pathopatch.features.robustness import MOST_PATCHES, draw_patches, robustness_indices, tissue_thirds
from pathopatch.groups.attribute import threshold_attributes


def cohort_indices(
    groups: pd.DataFrame, features_of: Callable[[NDArray[np.int64]], NDArray[Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Return the robustness indices of a cohort's features: what `robustness_indices` returns, and what they are of.

    `groups` is what `assign_groups` returns; patches without a group are left out. `features_of` returns the features
    (n, D) of some rows of it, rising. ``confounder`` is ``tissue``, its lowest against its highest third, or
    ``attribute``, the patches' own; ``values`` names its values; ``eligible`` counts the patches that could be drawn.
    """
    attribute = threshold_attributes(groups)[0]
    label, is_grouped = groups["label"].to_numpy(np.int64), attribute.groups_in(groups) >= 0
    if attribute.is_patch_attribute:
        confounder = np.where(is_grouped, attribute.values(groups, min_tissue=0), -1)
        kind, names = "attribute", list(attribute.value_names)
    else:
        fraction = groups["tissue_fraction"].to_numpy(np.float64)
        confounder = tissue_thirds(np.where(is_grouped, fraction, np.nan))
        kind, names = "tissue", [_range_text(fraction[confounder == third]) for third in (0, 1)]
    drawn = draw_patches(label, confounder, most=MOST_PATCHES, seed=seed)
    indices = robustness_indices(
        features_of(drawn),
        label[drawn],
        confounder[drawn],
        _units(groups)[drawn],
        patient=groups["patient_id"].to_numpy(dtype=str)[drawn],
        seed=seed,
    )
    return {"confounder": kind, "values": names, "eligible": int((confounder >= 0).sum()), **indices}


def _units(groups: pd.DataFrame) -> NDArray[np.str_]:
    """Return the slide of each patch, within which neighbours do not count; in one of several patients, the patient.

    A tissue microarray, or a set of ready patches, may be the only slide: without this no neighbour would be left.
    """
    slide, patient = groups["slide_id"].astype(str), groups["patient_id"].astype(str)
    has_several = groups.groupby("slide_id")["patient_id"].transform("nunique") > 1
    return slide.where(~has_several, slide + "/" + patient).to_numpy(dtype=str)


def _range_text(fraction: NDArray[np.float64]) -> str:
    """Return the range of the tissue fractions of a third, such as ``tissue 0.02 to 0.31``."""
    return f"tissue {fraction.min():.2f} to {fraction.max():.2f}" if fraction.size else "no patch"
