"""Pseudo-attributes of a work folder: which patches of each class a trained model finds hardest.

``groups/hard/<run>/<share>.parquet`` has a row for each labelled patch of train and val, with ``hard`` 1 or 0; the JSON
beside it says of which model, how many there are, and how well they match the minority of the known attribute. Test
patches have none: a model is evaluated by known groups alone.

References
----------
Asaad, Shadaydeh, Denzler, ICCV 2025, arXiv:2503.13236, section 4.2 and Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathopatch.core import artefacts
from pathopatch.core.errors import InputMissingError
from pathopatch.core.work_folder import WorkFolder
from pathopatch.debias.pseudo import minority_found, pseudo_attributes
from pathopatch.groups.attribute import HardShare, threshold_attributes

_FEWEST = 2  # patches of a class: one is hard and one is not


def hardest_patches(predictions: pd.DataFrame, share: float) -> pd.DataFrame:
    """Return patch_id, split, label and ``hard`` by a model's logits of class 1, for each split by its own ranks.

    A split with fewer than two patches of a class is left out, but for ``train``, where that is a GroupEmptyError.
    """
    parts = []
    for split, rows in predictions.groupby("split", sort=False):
        label = rows["label"].to_numpy(np.int64)
        if split != "train" and np.bincount(label, minlength=2).min() < _FEWEST:
            continue
        # The logit of the true class orders patches as its probability does.
        hard = pseudo_attributes(rows["logit"].to_numpy() * (2 * label - 1), label, share)
        parts.append(rows[["patch_id", "split", "label"]].assign(hard=hard))
    return pd.concat(parts, ignore_index=True)


def hard_share_facts(table: pd.DataFrame, groups: pd.DataFrame) -> dict[str, Any]:
    """Return the number of hard patches of each label, and how they match the minority at each known attribute."""
    rows = groups.set_index("patch_id").loc[table["patch_id"]]
    facts: dict[str, Any] = {}
    for split in table["split"].unique():
        chosen = (table["split"] == split).to_numpy()
        label, hard = (table.loc[chosen, name].to_numpy(np.int64) for name in ("label", "hard"))
        found = {
            attribute.key: {
                name: None if np.isnan(value) else value
                for name, value in minority_found(hard, label, rows.loc[chosen, attribute.column]).items()
                if name != "hard_n"
            }
            for attribute in threshold_attributes(groups)
        }
        counts = {"patches": np.bincount(label, minlength=2), "hard": np.bincount(label[hard == 1], minlength=2)}
        facts[split] = {name: values.tolist() for name, values in counts.items()} | {"minority": found}
    return facts


def hard_share_text(facts: Mapping[str, Any]) -> str:
    """Return the facts of a share as a line: counts, and precision and recall of the minority in training."""
    train = facts["train"]
    counts = " and ".join(f"{hard} of {n}" for hard, n in zip(train["hard"], train["patches"], strict=True))
    known = [
        f"at {key} their precision for its minority is {found['precision']:.2f}, the recall {found['recall']:.2f}"
        for key, found in train["minority"].items()
        if found["precision"] is not None and found["recall"] is not None
    ]
    head = f"hardest {100 * facts['hard_share']:g} % for {facts['from_run']}: {counts} training patches"
    return "; ".join([head, *known])


def with_hard_share(work: Path, groups: pd.DataFrame, attribute: HardShare) -> pd.DataFrame:
    """Return a groups table with the column of a pseudo-attribute, -1 where a patch has none.

    InputMissingError where it was not formed yet.
    """
    path = WorkFolder(work).hard_share(attribute.run, attribute.share)
    if not path.is_file():
        raise InputMissingError(
            f"no groups by {attribute.description}",
            place=str(path),
            remedy=f"run pathopatch groups WORK --from-run {attribute.run} --hard-share {attribute.share:g}",
        )
    hard = artefacts.read_table(path).set_index("patch_id")["hard"]
    column = groups["patch_id"].map(hard).fillna(-1).astype(np.int64)
    return groups.assign(**{attribute.column: column})
