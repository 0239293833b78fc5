"""The report begins with the answer: what came out, on how many patches of how many patients, and a picture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from pathopatch.core.config import TileConfig
from pathopatch.groups import TissueThreshold
from pathopatch.patches.store import PatchStore, patch_ids
from pathopatch.report import answer
from pathopatch.report.answer_picture import answer_picture
from pathopatch.report.models import runs_to_show
from pathopatch.report.results import rows_at
from pathopatch.stages.tile import tile_cohort

NAN = float("nan")
BOTH = {"Plain training (erm)": "erm", "Gerne (gerne)": "gerne"}


def runs(
    gain: tuple[float, float, float], *, n: int = 50, patients: int = 5, preferred: str = "gerne", **more: float
) -> pd.DataFrame:
    """A comparison of two runs: erm, and gerne with a gain in WGA (value, low, high) alone; group 2 is the worst."""
    common: dict[str, Any] = {"split": "test", "n": 400, "patients": 12, "average": 0.9, "seed": 0, "is_plain": True}
    common |= {"auroc": 0.7, **dict.fromkeys(("equal_area", "equal_area_low", "equal_area_high"), 0.6)}
    common |= {"equal_area_caliper": 1.0, "equal_area_floor": 0.52, "left_out_0": 12, "left_out_1": 3}
    common |= dict.fromkeys(("gain_equal_area", "gain_average", "gain_auroc"), 0.01)
    common |= {"gain_equal_area_low": 0.001, "gain_equal_area_high": 0.02, "gain_seeds": 3}
    for group in range(4):
        common |= {f"n_{group}": 100, f"patients_{group}": 9, f"accuracy_{group}": 0.95}
    common |= {"n_2": n, "patients_2": patients}
    rows = []
    for method, wga in (("erm", 0.4), ("gerne", 0.4 + gain[0])):
        names = ("gain_wga", "gain_wga_low", "gain_wga_high")
        row = common | more | dict(zip(names, gain if method == "gerne" else (NAN,) * 3, strict=True))
        row |= {"run": method, "method": method, "reference": "erm", "accuracy_2": wga, "is_default": False}
        row |= {"title": "plain training" if method == "erm" else method}
        row |= {"wga": wga, "wga_low": wga - 0.1, "wga_high": wga + 0.1, "wga_at_zero": wga - 0.05}
        rows.append(row | {"wga_val": 0.5 + (method == preferred) / 10, "gba_val": 0.5})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        (runs((0.3, 0.1, 0.5)), "better"),
        (runs((0.3, 0.1, 0.5), gain_equal_area_low=-0.01), "evener"),
        (runs((0.3, 0.1, 0.5), gain_equal_area=-0.03, gain_equal_area_low=-0.1), "traded"),
        (runs((0.3, 0.1, 0.5), gain_seeds=1), "few seeds"),
        (runs((-0.3, -0.5, -0.1)), "worse"),
        (runs((0.3, 0.0, 0.5)), "no difference"),
        (runs((0.3, NAN, NAN)), "no interval"),
        (runs((0.3, 0.1, 0.5), n=49), "too few"),
        (runs((0.3, 0.1, 0.5), patients=4), "too few"),
        (runs((0.3, 0.1, 0.5), effective_patients=11.4), "too few"),
        (runs((0.3, 0.1, 0.5), effective_patients=11.6, effective_patients_2=4.6), "better"),
        (runs((0.3, 0.1, 0.5), patients=9, effective_patients_2=1.1), "too few"),
        (runs((0.3, 0.1, 0.5), preferred="erm"), "plain"),
        (runs((0.3, 0.1, 0.5)).assign(wga_val=NAN), "not chosen"),
        (runs((0.3, 0.1, 0.5)).assign(wga=NAN), "empty group"),
        (runs((0.3, 0.1, 0.5)).iloc[1:].assign(reference=""), "no plain"),
    ],
)
def test_the_outcome_follows_from_interval_and_sizes(rows: pd.DataFrame, outcome: str) -> None:
    card = answer._card(rows, TissueThreshold(0.25))
    assert card["outcome"] == outcome
    assert bool(card["measured"]) == (outcome not in ("plain", "not chosen", "empty group", "no plain"))


def test_the_worst_group_is_named_with_its_patches_and_patients() -> None:
    card = answer._card(runs((0.3, 0.1, 0.5), n=60, patients=7), TissueThreshold(0.25))
    plain, other = card["models"]
    assert (plain["title"], other["title"]) == ("plain training", "gerne")
    assert plain["worst"] == {"name": "tumour, little tissue", "n": 60, "patients": 7}
    assert plain["wga"] == 0.4
    assert card["left_out"] == [12, 3]


@pytest.mark.parametrize("best", ["resample", "auto"])
@pytest.mark.parametrize("default", ["", "auto", "erm"])
def test_pictures_and_text_are_of_the_same_models_with_the_default(best: str, default: str) -> None:
    methods = ("erm", "resample", "groupdro", "gerne", "auto")
    rows = pd.concat([runs((0.3, 0.1, 0.5)).iloc[1:].assign(run=name, method=name) for name in methods])
    rows = rows.assign(settings_key=rows["run"], wga_val=np.where(rows["run"] == best, 0.9, 0.5), gba_val=0.5)
    rows["is_default"] = rows["run"] == default
    rows = rows.assign(threshold=0.25, trained_threshold=0.25)
    by = TissueThreshold(0.25)
    study: Any = SimpleNamespace(comparison=rows, thresholds=(0.25,), attribute=by)
    text = [model["run"] for model in answer._card(rows_at(study, 0.25), by)["models"]]
    assert text == list(dict.fromkeys(["erm", default or best, best]))
    assert list(answer._pair(study).values()) == ["erm", best]
    shown = runs_to_show(study)
    assert set(text) <= set(shown)
    assert len(shown) == 4


def test_every_row_of_the_first_page_has_its_gain_where_it_has_a_reference() -> None:
    card = answer._card(runs((0.3, 0.1, 0.5)), TissueThreshold(0.25))
    plain, other = (answer._worst_group_row(card, model) for model in card["models"])
    assert (plain["gain_wga"], other["gain_wga"]) == (None, 0.3)
    another = {**card["models"][1], "run": "auto", "gain_wga": 0.2}  # such as the default
    assert answer._worst_group_row(card, another)["gain_wga"] == 0.2


@pytest.mark.usefixtures("page")
def test_a_number_of_too_few_is_no_headline(work: Path) -> None:
    source = (work / "report" / "index.html").read_text()
    headline = source.split('<p class="headline">')[1].split("</p>")[0]
    assert "Too few test patches or patients to answer." in headline
    assert "%" not in headline
    assert '<div class="duel">' not in source


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of 4 x 4 patches, all tissue; on the left half tumour."""
    folder = tmp_path_factory.mktemp("tiled")
    lines = ["slide_id,patient_id,path,mpp"]
    for number, seed in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(60, 170, (128, 128, 3), np.uint8)
        tifffile.imwrite(folder / f"{seed}.tif", pixels, photometric="rgb")
        lines.append(f"{seed},{seed},{seed}.tif,2.0")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    tile_cohort(folder / "cohort.csv", folder / "work", TileConfig(patch_px=32))
    return folder / "work"


def study_of(work: Path, *, plain_right: int, debiased_right: int, drop: int = 0) -> Any:
    """Two runs on both slides: of each slide the plain one calls the first patches right, the debiased the last."""
    stores = {name: work / "slides" / f"{name}.zarr" for name in "ab"}
    tables, attribute = {}, TissueThreshold(0.5)
    for run, is_right in (
        ("erm", lambda row: row < plain_right),
        ("gerne", lambda row: row >= 16 - debiased_right),
    ):
        parts = []
        for name, store in stores.items():
            ids = patch_ids(name, PatchStore(store).origins)
            label = np.array([1, 1, 0, 0] * 4)
            called = np.where([is_right(row) for row in range(16)], label, 1 - label)
            part = {"patch_id": ids, "label": label, "logit": called - 0.5, "probability": 0.25 + 0.5 * called}
            part |= {"split": "test", "tissue_fraction": 1.0, "group@0.5": 2 * label + 1}
            parts.append(pd.DataFrame(part).iloc[: 16 - (drop if name == "a" else 0)])
        tables[run] = pd.concat(parts)
    groups = pd.DataFrame({"patch_id": tables["erm"]["patch_id"], "slide_id": tables["erm"]["patch_id"].str[0]})
    return SimpleNamespace(
        groups=groups,
        predictions=tables,
        evaluations={run: {"decision_threshold": 0.0} for run in tables},
        split="test",
        stores=stores,
        attribute=attribute,
        attributes=(attribute,),
        thresholds=(0.5,),
        comparison=None,
    )


def test_the_slide_with_most_labelled_patches_is_shown_whoever_is_right(tiled: Path) -> None:
    picture = answer_picture(study_of(tiled, plain_right=4, debiased_right=16, drop=1), BOTH)
    assert (picture["slide"], picture["n"]) == ("b", 16)
    assert answer_picture(study_of(tiled, plain_right=16, debiased_right=0), BOTH)["slide"] == "a"


@pytest.mark.parametrize("run", BOTH.values())
def test_without_two_models_there_is_no_picture(tiled: Path, run: str) -> None:
    assert answer_picture(study_of(tiled, plain_right=4, debiased_right=16), {"one": run}) == {}
