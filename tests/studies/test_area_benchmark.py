"""The benchmark on misleading areas: what is planned, how a search is decided, and what its certificate measures."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_patches import toy

from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.mask_bits import pack_masks
from pathopatch.training.dataset import PatchMasks, PatchSet
from pathopatch.training.fit import fit_arrays

HERE = Path(__file__).parents[2] / "pipelines" / "area-benchmark"
sys.path.insert(0, str(HERE))
cells, certificate, cohort, crops, frozen, inputs, natural, render, search, settings, tables = (
    import_module(f"area_benchmark.{name}")
    for name in (
        "cells",
        "certificate",
        "cohort",
        "crops",
        "frozen",
        "inputs",
        "natural",
        "render",
        "search",
        "settings",
        "tables",
    )
)
scoring = import_module("scoring")
SMALL = {"side_px": 16, "train": 20, "val": 5, "test": 5}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PATHOPATCH_REAL_DATA", "data")
    return settings.load(HERE / "benchmark.toml")


def _crops(n: int = 100, side: int = 16) -> Any:
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], n)
    tile = np.array([f"{y}-{k % 20}" for k, y in enumerate(label)])
    tissue = np.ones((2 * n, side, side), bool)
    return crops.Crops(rng.integers(60, 200, (2 * n, side, side, 3), dtype=np.uint8), tissue, label, tile)


@pytest.mark.parametrize("label", ["class", "waves", "any tumour"])
def test_the_plan_is_paired_balanced_and_split_by_tile(label: str) -> None:
    planned = cohort.plan(_crops(), settings.CohortConfig(label=label, **SMALL), seed=3)
    counts = planned.groupby(["set", "split", "label", "size"]).size().to_dict()
    assert counts[("patches", "train", 0, "small")] == counts[("patches", "train", 1, "large")] == 20
    assert ("patches", "train", 1, "small") not in counts  # every conflicting crop comes from the other set
    assert counts[("others", "train", 1, "small")] == 20
    assert {counts[("patches", "test", y, size)] for y in (0, 1) for size in ("small", "large")} == {5}
    assert {counts[("doubled", "test", y, "doubled")] for y in (0, 1)} == {5}
    assert planned.groupby("patient_id")["split"].nunique().max() == 1
    both = planned[planned["split"] == "test"].pivot_table(index=["crop", "label"], columns="size", values="share")
    np.testing.assert_allclose(both["doubled"], 2 * both["small"])
    used = _crops().label[planned["crop"]]
    assert (used == 0).all() if label == "waves" else (used == planned["label"]).all()
    assert (planned["base"] >= 0).all() == (label == "any tumour")


@pytest.fixture
def look() -> Any:
    return render.draw_look(np.random.default_rng(1), side_px=48, is_dark=False)


@pytest.mark.parametrize("share", [0.12, 0.45, 0.55, 0.9])
def test_an_island_covers_its_share_and_a_larger_one_covers_the_smaller(look: Any, share: float) -> None:
    cover = render.island(look.field, share)
    assert cover.mean() == pytest.approx(share, abs=1e-4)
    assert (render.island(look.field, share + 0.05) >= cover).all()


def test_the_rim_is_feathered_within_one_pixel(look: Any) -> None:
    cover = render.island(look.field, 0.5)
    partial = (cover > 0) & (cover < 1)
    inside, outside = cover == 1, cover == 0
    assert partial.any()
    assert not (inside[:, 1:-1] & outside[:, :-2] & outside[:, 2:]).any()
    across = np.abs(np.diff(cover, axis=1)).max()
    assert across > 0.5  # a rim of several pixels would rise more slowly everywhere


def test_a_restained_crop_has_the_mean_and_spread_that_were_drawn() -> None:
    pixels = np.random.default_rng(0).integers(80, 120, (48, 48, 3), dtype=np.uint8)
    tissue = np.ones((48, 48), bool)
    tissue[:5] = False
    mean, sd = np.array([0.4, 0.6, 0.3]), np.array([0.05, 0.08, 0.04])
    density = render.restained(pixels, tissue, mean, sd)
    np.testing.assert_allclose(density[tissue].mean(axis=0), mean, rtol=1e-12)
    np.testing.assert_allclose(density[tissue].std(axis=0), sd, rtol=1e-12)


@pytest.mark.parametrize("is_dark", [False, True])
def test_outside_the_island_nothing_of_the_crop_is_left(is_dark: bool) -> None:
    look = render.draw_look(np.random.default_rng(2), side_px=16, is_dark=is_dark)
    cover = render.island(look.field, 0.4)
    first, second = (
        render.render(render.restained(pixels, tissue, look.mean, look.sd), cover, look, is_dark=is_dark)
        for pixels, tissue in zip(_crops().pixels[:2], _crops().tissue[:2], strict=True)
    )
    ground = first[cover == 0]
    np.testing.assert_array_equal(ground, second[cover == 0])
    assert (first[cover == 1] != second[cover == 1]).any()
    assert ground.max() < 40 if is_dark else ground.min() > 200


def test_crops_hold_enough_tissue_and_do_not_overlap() -> None:
    mask = np.ones((64, 96), bool)
    mask[:, 40:50] = False
    corners = list(crops.places(mask, side_px=16, apart_px=16, min_tissue=0.93, rng=np.random.default_rng(0)))
    count = np.zeros(mask.shape, int)
    for x, y in corners:
        assert mask[y : y + 16, x : x + 16].mean() >= 0.93
        count[y : y + 16, x : x + 16] += 1
    assert count.max() == 1
    assert len(corners) >= 8  # of 4 x 2 on the left and 4 x 2 on the right


def test_classes_are_matched_by_their_share_of_tissue() -> None:
    share = np.concatenate([np.linspace(0.93, 1, 40), 1 - 0.07 * np.linspace(0, 1, 400) ** 2])
    label = np.repeat([0, 1], [40, 400])
    pairs = crops.matched(share, label, 40, seed=0)
    assert share[label == 1].mean() - share[label == 0].mean() > 0.01
    assert np.abs(share[pairs[:, 1]] - share[pairs[:, 0]]).max() < 0.001
    assert (label[pairs] == [0, 1]).all()
    assert len(np.unique(pairs)) == 80


def test_too_few_crops_are_refused_with_their_numbers() -> None:
    few_crops = _crops(8)
    with pytest.raises(InputUnsupportedError, match="8 crops of non-tumour and 8 of tumour, 9 of each"):
        crops.matched(few_crops.share, few_crops.label, 9, seed=0)


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_ones(tmp_path: Path) -> None:
    source_crops, few = _crops(), settings.CohortConfig(**SMALL)
    look = {"polarity": "bright", "label": "class"}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cohort.write(tmp_path / name, source_crops, cohort.plan(source_crops, few, seed=seed), **look)
    a, b, c = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert a == b
    assert all(a[name] != c[name] for name in a if name.endswith(".png"))


def test_a_larger_island_uncovers_more_of_the_same_texture() -> None:
    one = _crops()
    row = pd.Series({"crop": 3, "draw": (0, 2, 1, 3), "label": 1, "base": 5})
    for label in ("class", "waves", "any tumour"):
        small, large = (
            cohort.rendered(one, pd.concat([row, pd.Series({"share": share})]), polarity="dark", label=label)
            for share in (0.2, 0.4)
        )
        look = render.draw_look(np.random.default_rng((0, 2, 1, 3, 1)), side_px=16, is_dark=True)
        inside = render.island(look.field, 0.2) == 1
        np.testing.assert_array_equal(small[inside], large[inside])
        outside = render.island(look.field, 0.4) == 0
        np.testing.assert_array_equal(small[outside], large[outside])
        assert (small != large).any()


def test_every_row_is_searched_alike_and_gerne_extrapolates(config: Any) -> None:
    drawn = {row: search.trials_of(config, row) for row in ("erm", "gerne", "decorrelate")}
    assert {len(trials) for trials in drawn.values()} == {config.search.trials}
    rates = [[trial["learning_rate"] for trial in trials[1:]] for trials in drawn.values()]
    assert rates[0] == rates[1] == rates[2]
    assert all(trial["gerne"]["beta"] >= 0 for trial in drawn["gerne"][1:])
    assert all(0.1 <= trial["method_args"]["dcor_weight"] <= 5 for trial in drawn["decorrelate"][1:])


def test_the_winner_has_the_best_mean_over_both_grounds() -> None:
    table = pd.DataFrame(
        [("a", 0, 80, 90), ("a", 0, 60, 90), ("a", 1, 70, 95), ("a", 1, 70, 95), ("a", 2, 75, 0), ("a", 2, 64, 0)],
        columns=["row", "trial", "val_wga", "val_gba"],
    )
    assert search.winners(table) == {"a": 1}  # of equal WGA the higher GBA


def test_keys_change_with_settings_and_with_nothing_else(config: Any) -> None:
    cell = cells.cells_of(config)[0]
    own = config.settings(cell.row, seed=cell.seed)
    key = cell.key(config, own)
    assert key == cell.key(config, own.model_copy(update={"threads": 4, "name": "x"}))
    assert key != cell.key(config, own.model_copy(update={"weight_decay": 3.0}))
    assert len(set(cells.cells_of(config))) == len(cells.cells_of(config))


def _patches(areas: list[int]) -> PatchSet:
    n, side = len(areas), 24
    tissue = np.zeros((n, side, side), bool)
    for mask, area in zip(tissue, areas, strict=True):
        mask[:area] = True
    x = np.where(tissue[:, None], 0.5, 0.9).astype(np.float32)
    names = np.arange(n).astype(str)
    return PatchSet(
        x=x, label=np.arange(n) % 2, attribute=np.zeros(n, np.int64), tissue_fraction=tissue.mean(axis=(1, 2)),
        patient=names, patch_id=names, tissue=PatchMasks(pack_masks(tissue), side),
    )  # fmt: skip


def test_half_of_the_tissue_is_cut_and_becomes_ground() -> None:
    made, rows = certificate.halved(_patches([1, 8, 12, 24]), seed=0)
    assert rows.tolist() == [1, 2]  # too little tissue, and no ground
    assert made.tissue is not None
    assert made.tissue.read(slice(0, 2)).sum(axis=(1, 2)).tolist() == [96, 144]
    dark = (made.read(slice(0, 2))[:, 0] < 0.6).sum(axis=(1, 2))
    np.testing.assert_allclose(dark, [96, 144], atol=20)


def test_moves_are_in_gaps_of_the_classes() -> None:
    label = np.array([0, 1] * 10)
    before = np.where(label == 1, 3.0, -1.0)
    move, low, high = certificate.moves(before, before + 0.4, label, np.arange(20).astype(str))
    assert (move, low, high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_tables_compare_every_two_rows_on_the_same_cohorts() -> None:
    columns = ["wga@0.5", "wga@0.5_at_zero", "gba@0.5", "wga@0.5_no_answer_wrong", "auroc_little", "auroc_much"]
    columns += ["shift", "spread", "answered", "step_ms", "predict_ms"]
    columns += [f"{name}{end}" for name in ("half", "double") for end in ("", "_low", "_high")]
    rows = [
        {"ground": "lung", "case": "1 %", "row": row, "polarity": p, "seed": 9, **dict.fromkeys(columns, value)}
        for row, value in (("erm", 60.0), ("gerne", 70.0))
        for p in ("bright", "dark")
    ]
    text = tables.tables(pd.DataFrame(rows), cut=0.5)
    assert "| 1 % | gerne | erm | 2 | +10.0 | +10.0 to +10.0 | +10.0 |" in text
    assert "| 1 % | gerne | 2 | 70.0 ± 0.0 | 70.0 |" in text


def test_earlier_results_stand_beside_those_of_the_same_row() -> None:
    about = {"ground": "lung", "case": "1 %"}
    earlier = pd.DataFrame([about | {"row": r, "cohorts": 10, "wga": 76.6, "sd": 5.2} for r in ("resample", "auto")])
    now = pd.DataFrame([about | {"row": "resample", "wga": value} for value in (70.0, 72.0)])
    text = tables.before_and_now(earlier, now)
    assert "| lung | 1 % | resample | 76.6 ± 5.2 | 10 | 71.0 ± 1.4 | 2 |" in text
    assert "auto" not in text


def test_half_of_the_copies_have_a_rectangle_of_noise_and_nothing_else_changes() -> None:
    sets = {"train": _patches([4, 8, 12, 16]), "test": _patches([4])}
    made = inputs.erased(sets, seed=0)["train"]
    assert len(made) == 32
    before = np.tile(sets["train"].read(slice(0, 4)), (8, 1, 1, 1))
    changed = (made.read(slice(0, 32)) != before).any(axis=1)
    assert 8 <= changed.any(axis=(1, 2)).sum() <= 24
    for patch in changed[changed.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(patch.any(axis=1)), np.flatnonzero(patch.any(axis=0))
        assert patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.01 < patch.mean() < 0.4
    assert made.label.tolist() == sets["train"].label.tolist() * 8
    assert made.tissue.read(slice(0, 32)).sum() == 8 * sets["train"].tissue.read(slice(0, 4)).sum()


def test_a_row_of_masks_alone_sees_no_pixel() -> None:
    patches = _patches([4, 8])
    made = inputs.masks_alone({"test": patches}, seed=0)["test"]
    np.testing.assert_array_equal(made.read(slice(0, 2))[:, 0], patches.tissue.read(slice(0, 2)))


@pytest.mark.parametrize("count", [0, 2, 50])
def test_each_class_of_the_demo_keeps_as_many_conflicting_patches_as_are_asked_for(count: int) -> None:
    patches = toy([[30, 8], [9, 30]], seed=0, side=8)
    left = patches.rows(natural.with_minority(patches, count, seed=1))
    counts = np.bincount(2 * left.label + left.attribute, minlength=4)
    assert counts.tolist() == [30, min(count, 8), min(count, 9), 30]
    again = patches.rows(natural.with_minority(patches, count, seed=1))
    assert (left.patch_id == again.patch_id).all()


def test_a_patch_without_an_answer_counts_as_wrong_where_that_is_said() -> None:
    patches = pd.DataFrame({"margin": [1.0, -1, 3, 3, 1, -1, 3, 3], "label": [0, 0, 1, 1] * 2, "has_answer": True})
    patches["tissue"] = [0.2] * 4 + [0.8] * 4
    patches = patches.assign(z=patches["margin"] - 2, probability=0.5)
    numbers = cells.judged(patches, (0.5,))
    assert (numbers["wga@0.5"], numbers["wga@0.5_at_zero"], numbers["auroc"]) == (100, 50, 1)
    patches.loc[2, "has_answer"] = False
    numbers = cells.judged(patches, (0.5,))
    assert (numbers["wga@0.5"], numbers["wga@0.5_no_answer_wrong"], numbers["answered"]) == (100, 50, 87.5)


class _Backbone:
    """Stands for a frozen network: the feature of a patch is its first pixel, and calls are counted."""

    computed = 0

    def facts(self) -> dict[str, Any]:
        return {"architecture": "made"}

    def features(self, patches: PatchSet, *, threads: int) -> Any:
        self.computed += len(patches)
        return patches.read(slice(0, len(patches)))[:, 0, 0, :1]


def test_each_feature_is_computed_once_also_by_a_later_process(tmp_path: Path) -> None:
    patches, backbone = _patches([0, 24, 0, 24, 0]), _Backbone()
    read = frozen.FeatureStore(tmp_path)
    first = read(patches.rows(np.array([3, 0])), backbone)
    np.testing.assert_allclose(first[:, 0], [0.5, 0.9])
    later = frozen.FeatureStore(tmp_path)
    np.testing.assert_allclose(later(patches, backbone)[:, 0], [0.9, 0.5, 0.9, 0.5, 0.9])
    read(patches.rows(np.array([0])), backbone)
    assert backbone.computed == 5


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["normalise", "interior"])
def test_margins_by_stored_features_are_those_of_the_network(tmp_path: Path, mask: str) -> None:
    patches = _patches([8, 24, 16, 12, 20, 10, 24, 14])
    noise = np.random.default_rng(0).random(patches.x.shape, np.float32)
    patches = replace(patches, x=patches.x * (0.8 + 0.2 * noise), attribute=np.arange(8) // 4)
    own = TrainConfig(
        frozen=True,
        mask=mask,
        input_px=24,
        threads=1,
        device="cpu",
        interior={"crop_px": 8 if mask == "interior" else None},
    )
    read = frozen.FeatureStore(tmp_path)
    fitted = fit_arrays(patches, patches, own, read_features=read)
    found = frozen.margins(fitted, fitted.settings, patches, read)
    np.testing.assert_allclose(found, fitted.margins(patches), atol=1e-3)
    assert np.ptp(found) > 0.1


@pytest.mark.slow
def test_no_fold_divides_an_array_and_each_patch_is_tested_once(real_data: Path, tmp_path: Path) -> None:
    folds = list(natural.folds("ucsb_breast", "five folds by array, 0.5", 0, tmp_path, is_frozen=True))
    for fold in folds:
        arrays = [set(part.patient.tolist()) for part in (fold.train, fold.val, fold.test)]
        assert list(map(len, arrays)) == [6, 2, 2]
        assert len(set.union(*arrays)) == 10
    tested = np.concatenate([fold.test.patch_id for fold in folds])
    assert len(tested) == len(set(tested)) == 2436 - 122  # 122 are blank


def test_each_ground_counts_once_in_the_choice_of_a_row() -> None:
    rows = [
        ("a", "1", "masked erm", 60), ("a", "1", "masked erm", 60), ("a", "2", "masked erm", 90),
        ("a", "1", "interior erm", 70), ("a", "2", "interior erm", 70),
        ("b", "1", "masked erm", 50), ("b", "1", "interior erm", 60),
        ("c", "1", "masked erm", 80), ("c", "1", "interior erm", 71),
        ("c", "1", "erm", 99), ("idc", "1", "masked erm", 99), ("idc", "1", "interior erm", 0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["ground", "case", "row", "wga"])
    table["equal_area"] = table["wga"] / 100
    # masked: 75, 50, 80 on a, b, c; interior: 70, 60, 71
    assert tables.choose_rows(table) == ("masked erm", {"a": "interior erm", "b": "masked erm", "c": "interior erm"})


def test_pairs_of_two_folds_do_not_count_at_equal_area() -> None:
    columns = {"z": [2.0, 1, -1, -2], "label": [1, 0, 1, 0], "tissue": [0.8, 0.2, 0.2, 0.8], "fold": [0, 0, 1, 1]}
    patches = pd.DataFrame(columns | {"has_answer": True}).assign(probability=0.5, margin=lambda table: table["z"])
    assert cells.judged(patches.drop(columns="fold"), (0.5,))["equal_area"] == 0.5
    assert np.isnan(cells.judged(patches, (0.5,))["equal_area"])


def test_a_plain_score_flatters_noise_and_a_cross_fitted_one_does_not() -> None:
    rng = np.random.default_rng(0)
    y, a = np.tile([0, 0, 1, 1], 20), np.tile([0, 1, 0, 1], 20)
    patient = np.arange(80).astype(str)
    noise = scoring.scores_of(rng.normal(size=80), y, a, patient, seed=0)
    assert noise["cross-fitted"] < noise["plain"]
    told = scoring.scores_of(10.0 * y + 5, y, a, patient, seed=0)
    assert (told["plain"], told["cross-fitted"], told["at zero"]) == (100, 100, 0)


def test_the_picks_of_a_rule_are_compared_cohort_by_cohort() -> None:
    rows = pd.DataFrame(
        [(s, t, c, 50 + c, 50 - c, 0, 60 + 10 * c + t) for s in (0, 1) for t in (0, 1) for c in (0, 1)],
        columns=["seed", "trial", "checkpoint", "plain", "cross-fitted", "at zero", "test_wga"],
    ).assign(row="erm", polarity="dark")
    text = scoring.table(rows)
    assert "| a checkpoint of each trial | erm | plain | 2 | 70.5 |  |" in text
    assert "| a checkpoint of each trial | erm | cross-fitted | 2 | 60.5 | -10.00 (-10.00 to -10.00) |" in text
    assert "| trial and checkpoint | erm | plain | 2 | 70.0 |  |" in text


def test_tables_replace_what_stands_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n", encoding="utf-8")
    tables.fill(readme, "new")
    assert readme.read_text(encoding="utf-8") == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
