"""Show composed training patches: the section of the report, and the contact sheet of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.core.text import pluralize
from pathopatch.patches.picture import mask_under, outlined
from pathopatch.report.collect import Study
from pathopatch.report.plots import INK, WIDTH_IN, escape_formula, new_figure, png
from pathopatch.slides.composite import COLOR_NAMES, Picture, channel_colors, compose
from pathopatch.training.composition import CONTROL_NAMES, has_leak, leak_findings, leak_rule, verdict_text
from pathopatch.training.intervene import Intervention

_LOOKED_AT = 200  # copies of each class that rows are chosen from
_ROWS = 8
_SIMILAR = 0.1  # most difference of tissue area to the natural patch shown beside a composed one
_VIEW_PX = 216
_BRIGHT_OUTLINE, _DARK_OUTLINE = (0, 160, 60), (255, 225, 0)  # RGB; the thin line must show on stain, and on signal


def composed(study: Study) -> dict[str, Any]:
    """Return the check of composed patches: verdict, leak controls, and the sheet."""
    check = study.composed
    if check is None:
        return {}
    sheet = study.composed_sheet
    patients = check["units"] if check["unit"] == "patient" else None
    return {
        "verdict": verdict_text(check),
        "is_warning": has_leak(check),
        "findings": leak_findings(check),
        "rule": leak_rule(),
        **{name: check[name] for name in ("unit", "units", "copies", "growth")},
        "controls": [
            {
                "name": CONTROL_NAMES[name],
                **_with_ends("composed", row["composed"]),
                **_with_ends("natural", row["natural"]),
                "leak": "leak" if row["is_leak"] else "no",
                **{"n": check["copies"], "patients": patients, "n_natural": None, "patients_natural": patients},
            }
            for name, row in check["controls"].items()
        ],
        "pictures": {} if sheet is None else {"composed.png": sheet.read_bytes()},
    }


def _with_ends(name: str, auroc: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Return an AUROC and its interval under a name; None where it was not measured."""
    keys = {"": "auroc", "_low": "low", "_high": "high"}
    return {f"{name}{end}": None if auroc is None else auroc[key] for end, key in keys.items()}


def composed_sheet(intervention: Intervention, labels: Sequence[str], *, threshold: float) -> bytes:
    """Return a PNG of composed patches of each class, with little and with much tissue, see `_row`.

    Brightness is that of the slide's intensity window.
    """
    rows = _rows(intervention, labels, threshold)
    figure, panels = new_figure(WIDTH_IN, 1 + 2.1 * len(rows), len(rows), len(rows[0]))
    heading = [f"Composed training patches, growth {intervention.growth}. Research use only.", *_key(intervention)]
    figure.suptitle(escape_formula("\n".join(heading)), fontsize=9, color=INK, ha="left", x=0.01)
    for axes, (view, caption) in zip(panels.flat, chain(*rows), strict=True):
        axes.set(xticks=[], yticks=[], box_aspect=1)
        axes.set_xlabel(escape_formula(caption), fontsize=7, color=INK)
        if view is not None:
            axes.imshow(view, interpolation="nearest")
    return png(figure)


def _rows(
    intervention: Intervention, labels: Sequence[str], threshold: float
) -> list[list[tuple[Picture | None, str]]]:
    """Return the rows of the sheet, each class half below the threshold and half from it on."""
    rows = []
    for y in range(intervention.n_classes):
        per_side = max(1, _ROWS // (2 * intervention.n_classes))
        count = min(_LOOKED_AT, len(intervention.bases[y]))
        is_much = np.array([intervention.copy(y, number)[1].mean() >= threshold for number in range(count)])
        for side in (False, True):  # of bases that follow each other
            rows += [
                _row(intervention, y, int(number), labels[y]) for number in np.flatnonzero(is_much == side)[:per_side]
            ]
    return rows


def _row(intervention: Intervention, y: int, number: int, label: str) -> list[tuple[Picture | None, str]]:
    """Return pictures and captions: base, mask, composed patch, its mask, and the natural patch of nearest area."""
    data, base = intervention.data, int(intervention.bases[y][number])
    assert data.tissue is not None
    made = intervention.compose(y, number)
    pixels, tissue = data.read([base])[0], data.tissue.read([base])[0]
    others = intervention.usable[y][intervention.usable[y] != base]
    distance = np.abs(intervention.area[others] - made.tissue.mean())
    natural: tuple[Picture | None, str] = None, "no natural of this area"
    if len(others) and distance.min() <= _SIMILAR:
        nearest = int(others[distance.argmin()])
        view = _view(intervention, data.read([nearest])[0])
        natural = view, f"natural {label}, {intervention.area[nearest]:.0%}"
    return [
        (_view(intervention, pixels), f"{label}: base, {tissue.mean():.0%}"),
        (_view(intervention, pixels, tissue), "its mask"),
        (
            _view(intervention, made.pixels),
            f"composed, {made.tissue.mean():.0%}, +{pluralize(len(made.piece_px) - 1, 'piece')}",
        ),
        (_view(intervention, made.pixels, made.tissue), "its mask"),
        natural,
    ]


def patch_view(pixels: NDArray[np.floating], *, is_rgb: bool, side_px: int = _VIEW_PX) -> Picture:
    """Return a patch (C, H, W) in [0, 1] as a square picture, uint8 of shape (side_px, side_px, 3)."""
    scaled = np.clip(pixels.astype(np.float32), 0, 1) * 255
    windows = np.tile([0.0, 255.0], (len(pixels), 1))
    picture = compose(np.rint(scaled), windows, is_rgb=is_rgb)
    method = cv2.INTER_AREA if picture.shape[0] > side_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side_px, side_px), interpolation=method), np.uint8)


def _view(intervention: Intervention, pixels: NDArray[np.floating], tissue: NDArray[np.bool_] | None = None) -> Picture:
    """Return pixels (C, H, W) in [0, 1] as a picture, with the outline of a mask (H, W) if one is given."""
    source = intervention.data.source
    view = patch_view(pixels, is_rgb=intervention.data.is_rgb)
    if tissue is None:
        return view
    is_bright = intervention.data.is_rgb if source is None else source.background == "bright" or source.is_rgb
    color = _BRIGHT_OUTLINE if is_bright else _DARK_OUTLINE
    return outlined(view, mask_under(view, tissue.astype(np.uint8)), colors=[color])


def _key(intervention: Intervention) -> list[str]:
    """Return what the columns are, and the channels' colours."""
    lines = ["Each row: base and its tissue mask, what was composed of it and its mask, a natural patch of that area."]
    source = intervention.data.source
    if source is not None and not source.is_rgb and len(source.channels) > 1:
        colors = (COLOR_NAMES[color] for color in channel_colors(len(source.channels)))
        lines.append(", ".join(f"{color}: {name}" for color, name in zip(colors, source.channels, strict=True)))
    return lines
