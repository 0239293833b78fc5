"""Composed patches in the report, and the contact sheet of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from made_patches import toy
from read_page import Page

from pathopatch.core.config import EvaluateConfig
from pathopatch.core.files import write_bytes, write_json
from pathopatch.core.work_folder import WorkFolder
from pathopatch.report import write_report
from pathopatch.report.composed import _VIEW_PX, _rows, _view
from pathopatch.training.dataset import PatchSet, Source
from pathopatch.training.intervene import Intervention

QUICK = EvaluateConfig(bootstrap=0)


def check() -> dict[str, Any]:
    known, unknown = {"auroc": 0.731, "low": 0.652, "high": 0.803}, {"auroc": None, "low": None, "high": None}
    control = {"composed": known, "natural": unknown, "is_leak": True}
    return {
        "version": 1, "threshold": 0.25, "copies": 600, "on_target": [1.0, 1.0], "unit": "patient", "units": 9,
        "labels": ["benign", "malignant"], "growth": "many",
        "controls": {"rim": control, "pieces": {**control, "natural": None, "is_leak": False}},
    }  # fmt: skip


def test_the_report_shows_the_check_and_the_sheet_where_they_are(tmp_path: Path) -> None:
    work = tmp_path / "work"
    WorkFolder(work).store("unfinished").mkdir(parents=True)
    absent = Page(write_report(work, evaluate=QUICK))
    assert "composed" not in absent.ids
    assert not any(image["src"] == "composed.png" for image in absent.images)
    write_json(work / "groups" / "composed.json", check())
    without = Page(write_report(work, evaluate=QUICK))
    assert not any(image["src"] == "composed.png" for image in without.images)
    write_bytes(work / "groups" / "composed.png", cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    page = Page(write_report(work, evaluate=QUICK))
    assert "composed" in page.ids
    assert "Composed patches can tell the class by more than their tissue" in page.text
    assert "The rim of 2 px around the tissue of composed patches tells the class: AUROC 0.73 [0.65, 0.80]" in page.text
    assert "0.731" in page.text
    assert any(image["src"] == "composed.png" for image in page.images)
    assert (work / "report" / "composed.png").read_bytes() == (work / "groups" / "composed.png").read_bytes()


def patches(channels: tuple[str, ...], dtype: str, background: str) -> PatchSet:
    made = toy([[30, 30], [30, 30]], seed=0)
    x = np.repeat(made.x[:, :1], len(channels), axis=1)
    source = Source(channels=channels, dtype=dtype, patch_px=16, stride_px=16, mpp=1.0, background=background)
    return replace(made, x=x, source=source)


def test_a_patch_is_as_bright_as_its_slide() -> None:
    grey = np.linspace(0, 1, 16, dtype=np.float32)[None, None].repeat(16, axis=1)
    for channels, dtype, background in ((("R", "G", "B"), "uint8", "bright"), (("BF",), "uint16", "bright")):
        intervention = Intervention(patches(channels, dtype, background), share=1, seed=0)
        view = _view(intervention, grey.repeat(len(channels), axis=0))
        assert view.shape == (_VIEW_PX, _VIEW_PX, 3)
        np.testing.assert_array_equal(view[..., 0], view[..., 2])
        assert (view[0, 0, 0], view[0, -1, 0]) == (0, 255)
    five = Intervention(patches(("a", "b", "c", "d", "e"), "uint16", "dark"), share=1, seed=0)
    only_second = np.zeros((5, 16, 16), np.float32)
    only_second[1] = 1
    assert _view(five, only_second)[8, 8].tolist() == [0, 255, 0]  # as in the other pictures of the report
    mask = np.zeros((16, 16), np.bool_)
    mask[4:12, 4:12] = True
    changed = (_view(five, only_second, mask) != _view(five, only_second)).any(axis=2)
    scale = _VIEW_PX / 16
    assert changed[int(4 * scale) : int(12 * scale), int(4 * scale) : int(12 * scale)].any()
    assert not changed[: int(4 * scale) - 1].any()
    assert not changed[int(5 * scale) + 2 : int(11 * scale) - 2, int(5 * scale) + 2 : int(11 * scale) - 2].any()


def test_a_sheet_has_rows_of_both_classes_with_little_and_much_tissue() -> None:
    intervention = Intervention(patches(("BF",), "uint16", "bright"), share=1, seed=0)
    rows = [[text for _, text in row] for row in _rows(intervention, ("benign", "malignant"), 0.5)]
    area = [float(row[2].split(", ")[1].rstrip("%")) / 100 for row in rows]
    assert [share >= 0.5 for share in area] == [False, False, True, True] * 2
    assert [row[0].split(":")[0] for row in rows] == ["benign"] * 4 + ["malignant"] * 4
    # Natural patches have areas of 0.2 and 0.7 alone.
    for share, row in zip(area, rows, strict=True):
        is_there = min(abs(share - 0.2), abs(share - 0.7)) < 0.1
        assert row[4].startswith("natural") if is_there else row[4] == "no natural of this area"
    intervention.area[:] = 2  # far from all
    assert {row[4][1] for row in _rows(intervention, ("benign", "malignant"), 0.5)} == {"no natural of this area"}
