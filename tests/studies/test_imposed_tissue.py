"""The study on imposed tissue: what is drawn and planned, that its controls see a leak, and what its tables say."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.training.dataset import PatchSet

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines" / "imposed-tissue"))
cells, cohort, controls, crops, render, settings, table = (
    import_module(f"imposed_tissue.{name}")
    for name in ("cells", "cohort", "controls", "crops", "render", "settings", "table")
)

SMALL = settings.CohortConfig(side_px=16, train=20, conflicting=2, val=5, test=5)


def _crops(n: int = 100, side: int = 16) -> Any:
    """Crops of two classes and many tiles; the share of tissue falls with the index in each class."""
    rng = np.random.default_rng(0)
    tissue = np.ones((2 * n, side, side), bool)
    for index in range(2 * n):
        tissue[index].reshape(-1)[: index % n // 4] = False
    label = np.repeat([0, 1], n)
    tile = np.array([f"{y}-{k % 20}" for k, y in enumerate(label)])
    return crops.Crops(rng.integers(60, 200, (2 * n, side, side, 3), dtype=np.uint8), tissue, label, tile)


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
        render.render(pixels, tissue, cover, look, is_dark=is_dark)
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


def test_the_plan_is_paired_balanced_and_split_by_tile() -> None:
    planned = cohort.plan(_crops(), SMALL, seed=3)
    counts = planned.groupby(["set", "split", "label", "size"]).size().to_dict()
    assert counts[("patches", "train", 0, "small")] == counts[("patches", "train", 1, "large")] == 18
    assert counts[("patches", "train", 0, "large")] == counts[("patches", "train", 1, "small")] == 2
    assert {counts[("patches", "test", y, size)] for y in (0, 1) for size in ("small", "large")} == {5}
    assert planned.groupby("patient_id")["split"].nunique().max() == 1
    assert (planned[planned["split"] == "test"].groupby("crop")["size"].nunique() == 2).all()
    train = planned[planned["split"] == "train"]
    assert (train.groupby("crop")["set"].nunique() == 2).all()
    assert planned["share"].between(0.12, 0.9).all()
    assert not planned["share"].between(0.45, 0.55, inclusive="neither").any()


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
    source_crops = _crops()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cohort.write(tmp_path / name, source_crops, cohort.plan(source_crops, SMALL, seed=seed), polarity="bright")
    a, b, c = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert a == b
    assert a["patches/islands.npy"] != c["patches/islands.npy"]


def _pictures(label: np.ndarray, ground: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches whose middle is an island, and whose ground is as given."""
    rng = np.random.default_rng(seed)
    x = np.broadcast_to(ground[:, None, None, None], (len(label), 3, 16, 16)) + rng.normal(
        0, 0.01, (len(label), 3, 16, 16)
    )
    x[:, :, 4:12, 4:12] = 0.4 + 0.3 * label[:, None, None, None]
    islands = np.zeros((len(label), 16, 16), np.uint8)
    islands[:, 4:12, 4:12] = 255
    return x.astype(np.float16), islands


@pytest.mark.parametrize(("leak", "is_seen"), [(0.0, False), (0.05, True)])
def test_the_control_of_the_ground_sees_a_planted_leak_and_not_the_tissue(leak: float, is_seen: bool) -> None:
    config = settings.ImposedConfig(source="x", methods=("erm",), control_steps=60)
    config = config.model_copy(update={"train": config.train.model_copy(update={"input_px": 16, "device": "cpu"})})
    rng = np.random.default_rng(0)
    splits, hidden = {}, {}
    for seed, split in enumerate(("train", "val", "test")):
        n = 200
        label = np.arange(n) % 2
        x, islands = _pictures(label, 0.8 + leak * label + rng.normal(0, 0.03, n), seed=seed)
        hidden[split] = controls.without_tissue(x, islands)
        names = np.array([f"{split}-{k}" for k in range(n)])
        patches = PatchSet(x, label, np.arange(n) // 2 % 2, np.full(n, 0.25), names, names)
        splits[split] = controls._Split(patches, islands)
    score = controls._learnt(splits, hidden, config, 0)
    value, low, high = controls._with_interval(score, splits["test"].patches, 0)
    assert (low > 0.6) if is_seen else (low < 0.5 < high)
    assert low <= value <= high


def test_the_mask_of_an_island_leaves_its_shape_and_nothing_else() -> None:
    islands = np.zeros((1, 16, 16), np.uint8)
    islands[0, 2:6, 3:13] = 255
    islands[0, 6, 3:13] = 100  # the rim, mostly ground
    assert controls.as_mask(islands).sum() == 40
    share, pieces, largest, *_, border = controls.shapes(islands)[0]
    assert (share, pieces, largest, border) == (40 / 256, 1, 40 / 256, 0)


def test_only_methods_that_need_groups_are_trained_by_each_attribute() -> None:
    config = settings.ImposedConfig(
        source="x", methods=("erm", "erm-balanced", "resample"), seeds=(1,), polarities=("dark",)
    )
    planned = [(cell.method, cell.cuts, cell.steps) for cell in cells.cells_of(config)]
    assert planned == [
        ("ceiling", (0.5,), 600),
        ("erm", (0.5,), 600),
        ("erm-balanced", (0.5,), 600),
        ("resample", (0.5,), 600),
        ("resample", (0.3, 0.5), 600),
        ("resample", (0.3,), 600),
        ("erm", (0.5,), 1200),
        ("erm", (0.5,), 2400),
    ]


def test_a_cell_is_run_again_when_a_setting_that_matters_has_changed() -> None:
    config = settings.ImposedConfig(source="x", methods=("erm",))
    cell = cells.cells_of(config)[0]
    slower = config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": 1e-4})})
    elsewhere = config.model_copy(update={"train": config.train.model_copy(update={"threads": 1}), "source": "y"})
    assert cell.key(config) == cell.key(elsewhere) != cell.key(slower)


def test_the_same_margins_are_judged_at_every_threshold() -> None:
    config = settings.ImposedConfig(source="x", methods=("erm",))
    fraction = np.array([0.2, 0.4, 0.8, 0.2, 0.4, 0.8])
    names = np.array(list("abcdef"))
    patches = PatchSet(
        np.zeros((6, 3, 8, 8), np.float16), np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, int), fraction, names, names
    )
    scores = cells.judged(np.array([-1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), patches, config)
    assert scores["groups@0.5"] == [1.0, 0.0, 0.5, 1.0]
    assert scores["groups@0.3"] == [1.0, 0.5, 0.0, 1.0]
    assert (scores["wga@0.5"], scores["wga@0.3"]) == (0.0, 0.0)
    assert scores["bins"] == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def _row(method: str, seed: int, wga: float, *, cuts: tuple[float, ...] = (0.5,), steps: int = 600) -> dict[str, Any]:
    return {
        "key": f"{method} {seed} {cuts} {steps}",
        "polarity": "bright", "seed": seed, "method": method, "steps": steps, "picked_step": steps, "cuts": cuts,
        "decision_threshold": 0.0, "val_wga": wga, "last_val_wga": wga, "auroc": 0.9, "seconds": 1.0,
        **{f"{name}@0.5{zero}": wga for name in ("wga", "gba") for zero in ("", "_at_zero")},
        **{f"{name}@0.3{zero}": wga - 0.02 for name in ("wga", "gba") for zero in ("", "_at_zero")},
        **{f"groups@{t}": [wga] * 4 for t in (0.5, 0.3)},
    }  # fmt: skip


CHECKS = pd.DataFrame(
    [{"polarity": "bright", "seed": 1, "suspect": "area alone", "auroc": 0.501, "low": 0.45, "high": 0.552}]
)


def _runs(rows: list[dict[str, Any]], config: Any) -> pd.DataFrame:
    return table.ordered(pd.DataFrame([table.flat(row, config) for row in rows]), config)


def test_the_tables_hold_every_demand_against_the_best_plain_run() -> None:
    config = settings.ImposedConfig(source="x", methods=("erm", "resample", "gerne"), polarities=("bright",))
    rows = [_row("erm", 1, 0.4), _row("erm", 2, 0.5), _row("erm", 1, 0.5, steps=1200), _row("erm", 2, 0.6, steps=1200)]
    rows += [_row("resample", 1, 0.8), _row("resample", 2, 0.9), _row("gerne", 1, 0.84), _row("gerne", 2, 0.84)]
    rows += [_row("resample", seed, 0.8, cuts=(0.3, 0.5)) for seed in (1, 2)]
    text = table.tables(_runs(rows, config), CHECKS, config)
    assert "| resample | 0.5 | 85.0 ± 7.1 | 83.0 ± 7.1 | 85.0 ± 7.1 | 85.0 ± 7.1 | 80.0 | 85.0, 85.0 |" in text
    assert "resample, 85.0 (82 or more), lowest seed 80.0 (75 or more), +30.0 over erm at 1,200 steps" in text
    assert "gerne: -1.0 from the best" in text
    assert "600 steps 45.0 ± 7.1; 1,200 steps 55.0 ± 7.1" in text
    assert "Trained by 0.3,0.5, WGA at 0.3 less that at 0.5: resample -2.0." in text
    assert "| bright, seed 1 | 0.501 (0.450 to 0.552) |" in text


def test_tables_replace_what_stands_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    table.fill(readme, "new")
    assert readme.read_text(encoding="utf-8") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


def test_settings_of_a_method_that_is_not_run_are_refused() -> None:
    with pytest.raises(ValueError, match="of_method names gerne"):
        settings.ImposedConfig(source="x", methods=("erm",), of_method={"gerne": {"beta": 1.5}})


def test_runs_are_put_in_the_order_of_the_configuration() -> None:
    config = settings.ImposedConfig(source="x", methods=("erm", "resample"))
    runs = _runs([_row("resample", 2, 0.5), _row("erm", 1, 0.4), _row("resample", 1, 0.5)], config)
    assert runs[["method", "seed"]].to_numpy().tolist() == [["erm", 1], ["resample", 1], ["resample", 2]]
    assert runs["wga@0.5"].tolist() == [40.0, 50.0, 50.0]
