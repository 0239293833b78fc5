"""`pathopatch audit --composed` and `--crops`: what they print and leave, and when the check is done again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from made_patches import write_work

from pathopatch.core.artefacts import read_table, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.stages.audit import audit_composed
from pathopatch.training.composition import CONTROL_NAMES


@pytest.fixture(autouse=True)
def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathopatch.stages.audit._COPIES", 40)


@pytest.mark.slow
def test_the_command_prints_and_leaves_the_check_and_its_sheet(
    tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str], said: Callable
) -> None:
    work, settings = tmp_path / "work", tmp_path / "settings.toml"
    write_work(work)
    settings.write_text("[train]\ninput_px = 16\n", encoding="utf-8")
    shown = said("audit", work, "--composed", "--config", settings).out
    check = read_json(work / "groups" / "composed.json")
    assert set(check["controls"]) == set(CONTROL_NAMES)
    assert check["labels"] == ["non-tumour", "tumour"]
    assert (check["copies"], check["threshold"], check["growth"]) == (40, 0.25, "many")
    composed = check["controls"]["shape"]["composed"]
    assert f"{composed['auroc']:.2f} [{composed['low']:.2f}, {composed['high']:.2f}]" in shown
    assert shown.splitlines()[-1] == f"contact sheet: {work / 'groups' / 'composed.png'}"
    assert cv2.imread(str(work / "groups" / "composed.png")) is not None

    json_path, before = work / "groups" / "composed.json", (work / "groups" / "composed.json").stat().st_mtime_ns
    assert said("audit", work, "--composed", "--config", settings).out == shown
    assert json_path.stat().st_mtime_ns == before
    settings.write_text('[train]\ninput_px = 16\nintervene_growth = "own"\n', encoding="utf-8")
    assert typed("audit", work, "--composed", "--config", settings) == 1
    assert "intervene_growth was 'many', is 'own'" in capsys.readouterr().err
    assert typed("audit", work, "--composed", "--config", settings, "--force") == 0
    assert read_json(json_path)["growth"] == "own"
    (work / "groups" / "composed.png").unlink()
    assert typed("audit", work, "--composed", "--config", settings) == 0
    assert (work / "groups" / "composed.png").is_file()


def test_its_options_are_refused_without_it(tmp_path: Path, typed: Callable[..., int]) -> None:
    assert typed("audit", tmp_path, "--threshold", "0.5") == 2


def test_a_folder_without_training_patches_is_refused(tmp_path: Path) -> None:
    from pathopatch.core.artefacts import Stamp

    write_work(tmp_path)
    groups = read_table(tmp_path / "groups.parquet")
    write_table(tmp_path / "groups.parquet", groups[groups["split"] != "train"], Stamp(stage="groups"))
    with pytest.raises(InputUnsupportedError, match="no labelled training patches"):
        audit_composed(tmp_path, TrainConfig(input_px=16))


def test_crops_are_counted_by_group_before_training(tmp_path: Path, said: Callable, typed: Callable[..., int]) -> None:
    work, settings = tmp_path / "work", tmp_path / "settings.toml"
    groups = write_work(work)
    settings.write_text('[train]\ninput_px = 32\nmask = "interior"\ncrop_px = 14\n', encoding="utf-8")
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
