"""`pathopatch audit --crops`: what it prints and refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_patches import write_work

from pathopatch.core.artefacts import read_table, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.stages.audit import crops_text


def test_its_options_are_refused_without_it(tmp_path: Path, typed: Callable[..., int]) -> None:
    assert typed("audit", tmp_path, "--threshold", "0.5") == 2


def test_a_folder_without_training_patches_is_refused(tmp_path: Path) -> None:
    from pathopatch.core.artefacts import Stamp

    write_work(tmp_path)
    groups = read_table(tmp_path / "groups.parquet")
    write_table(tmp_path / "groups.parquet", groups[groups["split"] != "train"], Stamp(stage="groups"))
    with pytest.raises(InputUnsupportedError, match="no labelled training patches"):
        crops_text(tmp_path, TrainConfig(input_px=16))


def test_crops_are_counted_by_group_before_training(tmp_path: Path, said: Callable, typed: Callable[..., int]) -> None:
    work, settings = tmp_path / "work", tmp_path / "settings.toml"
    groups = write_work(work)
    settings.write_text('[train]\ninput_px = 32\nmask = "interior"\ninterior = { crop_px = 14 }\n', encoding="utf-8")
    shown = said("audit", work, "--crops", "--config", settings).out
    assert "a crop of 14 of 32 px" in shown
    # Much tissue fills the left half, little leaves it empty: nothing of 14 px fits into the right half's noise.
    for split in ("train", "val"):
        rows = groups[(groups["split"] == split) & (groups["group@0.25"] >= 0)]
        for group, share in enumerate(("0%", "100%") * 2):
            n = (rows["group@0.25"] == group).sum()
            assert re.search(rf"{split} +{group} .* {share} of {n}\n", shown), (split, group)
    settings.write_text("[train]\ninput_px = 16\n", encoding="utf-8")
    assert typed("audit", work, "--crops", "--config", settings) == 1  # a side of 8 px serves too few
