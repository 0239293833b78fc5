"""`groups --decisions`: rejected slides drop out, labels change, patients stay in their splits, all is recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from made_patches import even_patches

from pathopatch.core.artefacts import fingerprint_file, read_stamp, read_table
from pathopatch.core.config import GroupsConfig, TileConfig
from pathopatch.core.files import read_json
from pathopatch.groups.decisions.decision import RecordedDecision, apply_decisions
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.stages.groups import fold_tables, form_groups
from pathopatch.stages.tile import tile_cohort

SLIDES = 10
CONFIG = GroupsConfig(thresholds=(0.5,))


def rows(*verdicts: tuple[Any, ...]) -> list[RecordedDecision]:
    """Decisions, a second apart: slide, x or None, verdict, and if it is not Ada, the reviewer."""
    return [
        RecordedDecision(slide_id=slide, x=x, y=None if x is None else 0, verdict=verdict, reviewer=(*who, "Ada")[0],
                 id=n, made=f"2026-01-01T00:00:{n:02d}.000000Z")
        for n, (slide, x, verdict, *who) in enumerate(verdicts, 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of four patches in a row, tissue in the two at the left, which are tumour in the odd slides."""
    folder = tmp_path_factory.mktemp("tiled")
    pixels = np.full((16, 64, 3), 240, np.uint8)
    pixels[:, :32] = (170, 90, 150)
    mask = np.zeros((16, 64), np.uint8)
    mask[:, :32] = 255
    tifffile.imwrite(folder / "mask.tif", mask)
    lines = ["slide_id,patient_id,path,mpp,tumor_mask"]
    for n in range(SLIDES):
        pixels[0, 40 + n] = 200  # no two slides alike
        tifffile.imwrite(folder / f"s{n}.tif", pixels, photometric="rgb")
        lines.append(f"s{n},p{n},s{n}.tif,2.0,{'mask.tif' if n % 2 else 'none'}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    tile_cohort(folder / "cohort.csv", folder / "work", TileConfig(patch_px=16, store="none"))
    return folder / "work"


@pytest.fixture
def work(tiled: Path, tmp_path: Path) -> Path:
    """A copy, so that each test forms groups of its own."""
    return shutil.copytree(tiled, tmp_path / "work")


@pytest.fixture
def decisions(tmp_path: Path) -> Path:
    path = tmp_path / "review.csv"
    verdicts = rows(("s1", None, "reject"), ("s3", 0, "non-tumour"), ("s3", 16, "unsure"), ("s0", 0, "non-tumour"),
                ("elsewhere", None, "reject"))  # fmt: skip
    path.write_text(decisions_csv(verdicts))
    return path


def test_patients_stay_in_their_splits_whatever_is_decided(work: Path, decisions: Path) -> None:
    before = form_groups(work, CONFIG)
    after = form_groups(work, CONFIG, decisions=decisions, force=True)
    assert set(before["slide_id"]) - set(after["slide_id"]) == {"s1"}
    assert len(before) - len(after) == 4
    split_before, split_after = (dict(zip(t["patch_id"], t["split"], strict=True)) for t in (before, after))
    assert {name: split_before[name] for name in split_after} == split_after
    assert {"train", "val", "test"} == set(after["split"])
    label_before, label_after = (dict(zip(t["patch_id"], t["label"], strict=True)) for t in (before, after))
    changed = {name: label_after[name] for name in label_after if label_after[name] != label_before[name]}
    assert changed == {"s3@0,0": 0, "s3@16,0": -1}
    group = dict(zip(after["patch_id"], after["group@0.5"], strict=True))
    assert (group["s3@0,0"], group["s3@16,0"]) == (1, -1)  # much tissue of a non-tumour; no label, no group


def test_decisions_of_reviewers_are_printed_and_recorded(work: Path, decisions: Path, said: Callable) -> None:
    output = said("groups", work, "--threshold", "0.5", "--decisions", decisions).out
    assert "Decisions of reviewers (Ada): slides rejected: s1 (4 patches); patches relabelled: 2 non-tumour" in output
    stamp = read_stamp(work / "groups.parquet")
    assert stamp is not None
    assert stamp.inputs["decisions"] == fingerprint_file(decisions)
    facts = read_json(work / "groups" / "audit.json")["decided"]
    split = read_table(work / "groups.parquet").set_index("patch_id").loc["s3@0,0", "split"]
    assert facts == {
        "reviewers": ["Ada"], "rejected": ["s1"], "accepted": [], "flagged": [], "patches_rejected": 4,
        "relabelled": {"tumour": 0, "non-tumour": 2, "unsure": 1}, "regions": 0, "elsewhere": ["elsewhere"],
        "labels_changed": {split: 2}, "disputed": [],
    }  # fmt: skip
    assert "Decisions of reviewers (Ada)" in said("audit", work, "--force").out


@pytest.mark.parametrize("verdicts", [("reject", "accept"), ("accept", "reject")])
def test_a_dispute_stops_groups_in_either_order_or_is_left_out(
    work: Path, tmp_path: Path, said: Callable, verdicts: tuple[str, str]
) -> None:
    labels = [("s3", 0, "non-tumour", "Ada"), ("s3", 0, "tumour", "Ben")]
    slide = [("s1", None, verdict, name) for verdict, name in zip(verdicts, ("Ada", "Ben"), strict=True)]
    (tmp_path / "review.csv").write_text(decisions_csv(rows(*slide, *labels)))
    listed = f"slide s1 (Ada: {verdicts[0]}, Ben: {verdicts[1]})", "patch s3@0,0 (Ada: non-tumour, Ben: tumour)"
    command = ("groups", work, "--threshold", "0.5", "--decisions", tmp_path / "review.csv")
    refusal = said(*command, code=1).err
    assert f"LABEL_CONFLICT: reviewers differ, and nobody settled it: {'; '.join(listed)}" in refusal
    assert not (work / "groups.parquet").exists()
    output = said(*command, "--disputes", "leave-out").out
    assert "Decisions of reviewers (Ada, Ben): no slide rejected; no patch relabelled; left out as 2 disputes" in output
    table = read_table(work / "groups.parquet")
    assert "s1" not in set(table["slide_id"])
    assert sorted(table.loc[table["slide_id"] == "s3", "patch_id"]) == ["s3@16,0", "s3@32,0", "s3@48,0"]
    assert read_json(work / "groups" / "audit.json")["decided"]["disputed"] == list(listed)


def test_a_settled_dispute_counts_as_it_was_settled(work: Path, tmp_path: Path) -> None:
    slide = ("s1", None, "reject"), ("s1", None, "accept", "Ben"), ("s1", None, "reject", "Cy")
    patch = ("s3", 0, "tumour"), ("s3", 0, "non-tumour", "Ben"), ("s3", 0, "non-tumour", "Cy")
    settled = [replace(row, settles={3: "1 2", 6: "4 5"}.get(row.id, "")) for row in rows(*slide, *patch)]
    (tmp_path / "review.csv").write_text(decisions_csv(settled))
    table = form_groups(work, CONFIG, decisions=tmp_path / "review.csv").set_index("patch_id")
    assert "s1" not in set(table["slide_id"])
    assert table.loc["s3@0,0", "label"] == 0


def test_other_decisions_are_another_input(
    work: Path, decisions: Path, typed: Callable[..., int], said: Callable
) -> None:
    command = ("groups", work, "--threshold", "0.5", "-q")
    assert typed(*command, "--decisions", decisions) == 0
    assert typed(*command, "--decisions", decisions) == 0
    assert "input 'decisions' differs" in said(*command, code=1).err
    assert typed(*command, "--force") == 0
    assert "decided" not in read_json(work / "groups" / "audit.json")


def test_a_mistake_in_the_decisions_stops_before_anything_is_written(
    work: Path, tmp_path: Path, said: Callable
) -> None:
    (tmp_path / "review.csv").write_text("slide_id,verdict,reviewer\ns1,maybe,Ada\n")
    assert "row 2, column 'verdict'" in said("groups", work, "--decisions", tmp_path / "review.csv", code=1).err
    (tmp_path / "review.csv").write_text(decisions_csv(rows(("s1", 8, "tumour"))))
    told = said("groups", work, "--decisions", tmp_path / "review.csv", code=1).err
    assert "not among those that were tiled: s1@8,0" in told
    assert not (work / "groups.parquet").exists()


def test_patients_stay_in_their_folds_whatever_is_decided() -> None:
    config = GroupsConfig(thresholds=(0.25,))
    verdicts = rows(("s2", None, "reject"), *((f"s{n}", 4, "tumour") for n in (0, 1)))
    kept = apply_decisions(even_patches(), verdicts).patches
    before, after = (fold_tables(even_patches(), config, folds=3, kept=some) for some in (None, kept))

    def folds(table: Any) -> dict[str, int]:
        return dict(zip(table["patient_id"], table["fold"], strict=True))

    assert folds(after[0]) == {name: fold for name, fold in folds(before[0]).items() if name != "p2"}
    assert int((after[0]["label"] == 1).sum()) == 5 * 4 + 2
