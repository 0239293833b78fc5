"""An imported model is audited for the tissue-area shortcut, its calls on blank glass included."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from torch import nn

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import EvaluateConfig, GroupsConfig, TileConfig
from pathopatch.core.files import read_json
from pathopatch.evaluation.external_validation import (
    _predict_glass,
    evaluate_bundle,
    external_validation_text,
    glass_text,
)
from pathopatch.models.loading import load_model
from pathopatch.report import write_report
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import tile_cohort

QUICK = EvaluateConfig(bootstrap=10)
PATCH = 64
TISSUE = (64, 64, 48, 48, 24, 24, 0, 0)
"""Width of the tissue in each patch of a slide, px: the last two are glass."""


class Brightness(nn.Module):
    """A logit that rises with the brightness of a patch, or falls with it: it sees nothing but tissue area."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([10.0 * sign]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.weight * (x.mean(dim=(1, 2, 3)) - 1.0)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def write_wsinfer(folder: Path, sign: float) -> Path:
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Brightness(sign)), folder / "torchscript_model.pt")
    normalize = {"name": "Normalize", "arguments": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    config = {
        "spec_version": "1.0", "architecture": "brightness", "num_classes": 2, "class_names": ["Other", "Tumor"],
        "patch_size_pixels": PATCH, "spacing_um_px": 2.0, "transform": [{"name": "ToTensor"}, normalize],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slides of eight patches of much to no tissue; every second slide is tumour."""
    folder = tmp_path_factory.mktemp("cohort")
    pixels = np.full((PATCH, PATCH * len(TISSUE), 3), 240, np.uint8)
    for number, width in enumerate(TISSUE):
        pixels[:, number * PATCH : number * PATCH + width] = (170, 90, 150)
    tifffile.imwrite(folder / "mask.tif", (pixels[..., 1] < 200).astype(np.uint8) * 255)
    lines = ["slide_id,patient_id,path,mpp,tumor_mask"]
    for n in range(6):
        pixels[0, n] = (160, 80, 140)  # no two slides alike
        tifffile.imwrite(folder / f"s{n}.tif", pixels, photometric="rgb")
        lines.append(f"s{n},p{n},s{n}.tif,2.0,{'mask.tif' if n % 2 else 'none'}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    tile_cohort(folder / "cohort.csv", folder / "work", TileConfig(patch_px=PATCH, mpp=2.0))
    form_groups(folder / "work", GroupsConfig(thresholds=(0.5,)))
    return folder / "work"


@pytest.fixture(scope="module")
def bundles(work: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that calls glass tumour, and one that calls tissue tumour."""
    from pathopatch.stages.import_model import import_model

    folder = tmp_path_factory.mktemp("models")
    signs = {"likes-glass": 1.0, "likes-tissue": -1.0}
    for name, sign in signs.items():
        import_model(write_wsinfer(folder / f"{name}-zoo", sign), folder / name, untested=True)
    return {name: folder / name for name in signs}


@pytest.mark.parametrize(("name", "sign", "share"), [("likes-glass", -1, 1.0), ("likes-tissue", 1, 0.0)])
def test_the_audit_says_which_way_a_model_follows_the_tissue_area(
    work: Path, bundles: dict[str, Path], name: str, sign: int, share: float
) -> None:
    out = evaluate_bundle(work, bundles[name], config=QUICK, device="cpu")
    numbers = read_json(out / "metrics.json")
    assert numbers["glass"] == {
        "patches": 12, "slides": 6, "positive": share, "probability": pytest.approx(share, abs=0.01),
    }  # fmt: skip
    judged = numbers["splits"]["all"]
    predictions = read_table(out / "predictions.parquet")
    assert np.sign(np.corrcoef(predictions["tissue_fraction"], predictions["logit"])[0, 1]) == sign
    accuracy = {row["group"]: row["accuracy"] for row in judged["thresholds"]["0.5"]["groups"]}
    assert sorted(accuracy.values()) == [0.0, 0.0, 1.0, 1.0]  # one class right where there is much tissue
    said = f"Blank glass (12 patches of 6 slides, tissue below 1 %): {100 * share:.1f} % are called Tumor"
    assert said in external_validation_text(out)
    assert said in write_report(work).read_text(encoding="utf-8")


def test_a_cohort_without_glass_has_no_share_of_it(work: Path, bundles: dict[str, Path]) -> None:
    groups = read_table(work / "groups.parquet")
    model = load_model(bundles["likes-glass"], device="cpu", precision="float32")
    glass = _predict_glass(work, groups[groups["tissue_fraction"] > 0.01], model)
    assert (glass["patches"], np.isnan(glass["positive"])) == (0, True)
    assert "not known" in glass_text(glass, "Tumor")


def test_unlabelled_glass_counts_and_many_patches_are_sampled(
    work: Path, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathopatch.evaluation.external_validation._MOST_GLASS", 5)
    groups = read_table(work / "groups.parquet").assign(label=-1)
    model = load_model(bundles["likes-glass"], device="cpu", precision="float32")
    assert _predict_glass(work, groups, model)["patches"] == 5
    pd.testing.assert_frame_equal(groups, read_table(work / "groups.parquet").assign(label=-1))


@pytest.mark.slow
def test_the_import_says_what_glass_is_called(
    tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_wsinfer(tmp_path / "zoo", 1.0)
    assert typed("import", "model", folder, "-o", tmp_path / "bundle", "--untested") == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "bundle")
    assert "counted as tumour: Tumor; as the rest: Other" in err
    assert "has a probability of 1.000 of Tumor" in err
