"""Draw what the answer of a study looks like: a slide with both models' maps, else single patches, else accuracies.

Which slide and which patches are shown does not depend on who is right, or the picture would flatter a model.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from pathopatch.core.errors import PathopatchError
from pathopatch.groups import TissueThreshold
from pathopatch.groups.attribute import LABEL_NAMES
from pathopatch.patches.store import PatchStore
from pathopatch.report.collect import Study
from pathopatch.report.composed import captioned_row, sheet_of, view_of
from pathopatch.report.forest_plots import group_accuracies
from pathopatch.report.repair_picture import repair_picture
from pathopatch.report.results import rows_at
from pathopatch.slides.composite import Picture, compose

_MOST_PATCHES = 5  # of each kind; more in a row are too small to read


def answer_picture(study: Study, plain: str, debiased: str) -> dict[str, Any]:
    """Return a picture of two runs as ``png``, its ``file``, its ``kind`` and what its caption needs.

    ``slide``: the slide of the split with the most labelled patches. ``patches``: patches that one run alone calls
    right. ``groups``: the accuracies by group, where there are no pixels to show, or one of the runs is missing ("").
    """
    if plain and debiased:
        calls = {run: _calls(study, run) for run in (plain, debiased)}
        for draw in (_on_a_slide, _patches_apart):
            if picture := draw(study, calls):
                return picture
    rows = rows_at(study, study.thresholds[0])
    shown = rows[rows["run"].isin([plain, debiased])]
    png = group_accuracies(shown if len(shown) else rows, attribute=study.attribute)
    return {"kind": "groups", "file": "answer.png", "png": png}


def _calls(study: Study, run: str) -> pd.DataFrame:
    """Return a run's predictions on the split by patch: slide_id, label, tissue_fraction, probability, is_called."""
    assert study.groups is not None  # there is a comparison, so there are groups
    table = study.predictions[run]
    table = table[table["split"] == study.split].set_index("patch_id")
    slide_of = study.groups.set_index("patch_id")["slide_id"]
    is_called = table["logit"] > study.evaluations[run]["decision_threshold"]
    return table.assign(slide_id=slide_of.reindex(table.index), is_called=is_called)


def _on_a_slide(study: Study, calls: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return the slide and both maps; empty where no slide of the split has an overview and a grid without overlap."""
    attribute = study.attribute
    if not isinstance(attribute, TissueThreshold) or attribute.label_names != LABEL_NAMES:
        return {}
    counts = next(iter(calls.values()))["slide_id"].value_counts()
    for slide in sorted(counts.index, key=lambda name: (-counts[name], name)):
        if slide not in study.stores:
            continue
        store = PatchStore(study.stores[slide])
        if not store.has_overview or store.attributes["stride_px"] < store.attributes["patch_px"]:
            continue
        tables = {
            f"{kind} training ({run})": _of_slide(store, table, str(slide))
            for kind, (run, table) in zip(("Plain", "Debiased"), calls.items(), strict=True)
        }
        png = repair_picture(
            store,
            tables,
            threshold=attribute.tau,
            title=f"Slide {slide}",
            caption=f"Much tissue: {attribute.tau:g} of the patch or more.",
        )
        return {
            "kind": "slide",
            "file": "answer.png",
            "png": png,
            "slide": slide,
            "n": len(next(iter(tables.values()))),
        }
    return {}


def _of_slide(store: PatchStore, calls: pd.DataFrame, slide: str) -> pd.DataFrame:
    """Return the rows of a slide with the place of each patch, level-0 px."""
    own = calls[calls["slide_id"] == slide]
    origins = store.origins[store.rows(own.index.tolist())]
    return own.assign(x=origins[:, 0], y=origins[:, 1])


def _patches_apart(study: Study, calls: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Return patches that one of the runs alone calls right; empty where no pixels can be read."""
    plain, debiased = calls.values()
    debiased = debiased.reindex(plain.index)
    is_right = [table["is_called"] == (table["label"] == 1) for table in (plain, debiased)]
    apart = {"debiased": plain[~is_right[0] & is_right[1]], "plain": plain[is_right[0] & ~is_right[1]]}
    try:
        rows = [
            _row(study, f"Only {kind} training is right: {len(table)} of {len(plain)} patches", table)
            for kind, table in apart.items()
        ]
    except PathopatchError:  # pixels are gone or were never stored: the report goes on without them
        return {}
    stream = io.BytesIO()
    Image.fromarray(sheet_of(rows)).save(stream, format="PNG")
    counts = {f"only_{kind}": len(table) for kind, table in apart.items()}
    return {"kind": "patches", "file": "answer.png", "png": stream.getvalue(), "n": len(plain), **counts}


def _row(study: Study, heading: str, table: pd.DataFrame) -> Picture:
    """Return some patches of a table side by side, evenly over their names, below a heading."""
    # Sorted and evenly spaced: neither chance nor taste chooses.
    table = table.sort_index()
    chosen = table.iloc[np.linspace(0, len(table) - 1, min(len(table), _MOST_PATCHES)).astype(int)]
    cells: list[tuple[Picture | None, str]] = [_cell(study, row) for row in chosen.reset_index().to_dict("records")]
    cells += [(None, "")] * (_MOST_PATCHES - len(cells))
    return sheet_of([captioned_row(cells)], [heading])


def _cell(study: Study, row: Mapping[Any, Any]) -> tuple[Picture, str]:
    """Return a patch and its label, with its tissue or its own attribute."""
    if row["slide_id"] not in study.stores:
        raise PathopatchError(f"no store of {row['slide_id']}")
    store = PatchStore(study.stores[row["slide_id"]])
    pixels = store.read(store.rows([row["patch_id"]]))[0]
    picture = compose(pixels, store.windows, is_rgb=store.attributes["is_rgb"])
    view = view_of(picture)
    store.close()
    attribute = study.attribute
    if attribute.is_patch_attribute:
        return view, attribute.group_names[int(attribute.groups_in(pd.DataFrame([row]))[0])]
    return view, f"{attribute.label_names[int(row['label'])]}, {100 * row['tissue_fraction']:.0f} % tissue"
