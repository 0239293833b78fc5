"""The demo on toy settings: its numbers are those of the runs, and its picture marks every wrong call."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pathopatch.core import artefacts
from pathopatch.core.work_folder import WorkFolder
from pathopatch.demo import quick
from pathopatch.demo.slides import CohortSpec
from pathopatch.patches.store import PatchStore
from pathopatch.report.answer_picture import error_lines, repair_picture

ALARM = (255, 59, 48)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of two steps; what it prints is in ``printed.txt``."""
    folder = tmp_path_factory.mktemp("quick") / "my demo"
    with pytest.MonkeyPatch.context() as patch:
        spec = CohortSpec(slides=(2, 1, 2), patients=(2, 1, 2), fields=6, minority_share=0.2)
        patch.setattr(quick, "SPEC", spec)
        update = {"steps": 2, "evaluations": 1, "input_px": 32, "batch_per_class": 4}
        patch.setattr(quick, "TRAIN", quick.TRAIN.model_copy(update=update))
        (folder / "printed.txt").write_text(quick.run_quick(folder, jobs=1))
    return folder


def test_errors_are_counted_by_class_and_amount_of_tissue() -> None:
    calls = pd.DataFrame(
        [
            (0, 0.9, True),
            (0, 0.9, False),
            (0, 0.1, True),
            (1, 0.1, False),
            (1, 0.1, False),
            (1, 0.5, False),
            (1, 0.9, True),
        ],
        columns=["label", "tissue_fraction", "is_called"],
    )
    assert error_lines(calls, 0.5) == (
        "false alarms: 2 of 3 healthy (1 of 2 with much tissue)",
        "missed: 3 of 4 tumour (2 of 2 with little tissue)",
    )


def test_the_demo_prints_the_worst_groups_and_the_report_that_shows_both_maps(work: Path) -> None:
    worst = pd.read_csv(WorkFolder(work).comparison).set_index("method")["wga"]
    result, report, command = (work / "printed.txt").read_text().splitlines()
    assert result.endswith(f"erm {100 * worst['erm']:.0f} %, auto {100 * worst['auto']:.0f} %.")
    page = Path(report.removeprefix("report: ").removesuffix(" opens with the maps of both"))
    assert (page.parent / "answer.png").is_file()
    assert "answer.png" in page.read_text()
    assert command == f"next:   pathopatch review '{work}'"
    for slide in ("test-01", "test-02"):
        assert (WorkFolder(work).heatmap(slide) / "overlay.png").is_file()


def test_the_picture_marks_a_false_alarm_where_it_is(work: Path) -> None:
    store = PatchStore(WorkFolder(work).store("test-01"))
    truth = artefacts.read_table(WorkFolder(work).groups, slide_id="test-01")
    table = artefacts.read_table(WorkFolder(work).predictions("test-01"))
    right = table.merge(truth[["patch_id", "label"]], on="patch_id").assign(is_called=lambda t: t["label"] == 1)
    index = int(np.flatnonzero(right["label"] == 0)[0])
    wrong = right.assign(is_called=right["is_called"] | (right.index == index))

    def marks(calls: pd.DataFrame) -> tuple[int, int]:
        png = repair_picture(store, {"one": right, "two": calls}, threshold=0.5, title="slide", caption="none")
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[150:]  # without the key
        found = (pixels == ALARM).all(axis=2)
        third = pixels.shape[1] // 3
        return int(found[:, : 2 * third - 100].sum()), int(found[:, 2 * third - 100 :].sum())

    assert marks(right) == (0, 0)
    left, on_the_right = marks(wrong)
    assert left == 0
    assert on_the_right > 50
