"""Show what a model answers to patches whose tissue area was set: one page that opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathopatch.evaluation.area_reliance import asked_text, limits_text, verdict_text
from pathopatch.report.page import render_page
from pathopatch.report.plots import response_curve
from pathopatch.slides.composite import Picture, compose

_SIDE_PX = 112


@dataclass(frozen=True, eq=False)
class Example:
    """A patch as it is, then with each area set, and the model's margins: above 0 it calls it tumour."""

    name: str
    pixels: Sequence[NDArray[np.float32]]  # 1 + T of (C, P, P), in [0, 1]
    areas: Sequence[float]  # 1 + T: its own, then those that were set
    margins: Sequence[float]  # 1 + T


def reliance_page(result: Mapping[str, Any], examples: Sequence[Example], *, is_rgb: bool, model: str) -> str:
    """Return the page of a result of `pathopatch audit-model`, pictures and all."""
    rows = []
    for example in examples:
        views = [_picture(pixels, is_rgb=is_rgb) for pixels in example.pixels]
        cells = [
            {
                "picture": _data_uri(cv2.imencode(".png", view[:, :, ::-1])[1].tobytes()),
                "area": area,
                "answer": "no answer" if np.isnan(margin) else "tumour" if margin > 0 else "other",
                "probability": 0.5 * (1 + np.tanh(margin / 2)),
            }
            for view, area, margin in zip(views, example.areas, example.margins, strict=True)
        ]
        rows.append({"name": example.name, "cells": cells})
    return render_page(
        "area_reliance.html.j2",
        title=f"{model}: do answers follow the tissue area?",
        verdict=verdict_text(dict(result)),
        asked=asked_text(result),
        limits=limits_text(result),
        result=result,
        curve=_data_uri(response_curve(result)) if "curve" in result else "",
        areas=result["areas"],
        rows=rows,
    )


def _picture(pixels: NDArray[np.floating], *, is_rgb: bool) -> Picture:
    """Return a patch (C, H, W) in [0, 1] as a square picture, uint8 of shape (_SIDE_PX, _SIDE_PX, 3)."""
    scaled = np.clip(pixels.astype(np.float32), 0, 1) * 255
    windows = np.tile([0.0, 255.0], (len(pixels), 1))
    picture = compose(np.rint(scaled), windows, is_rgb=is_rgb)
    method = cv2.INTER_AREA if picture.shape[0] > _SIDE_PX else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (_SIDE_PX, _SIDE_PX), interpolation=method), np.uint8)


def _data_uri(png_bytes: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes).decode()
