"""The study on imposed tissue: what is drawn and planned, that its controls see a leak, and what its tables say."""

import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.training.dataset import PatchMasks, PatchSet

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
    config = _config(control_steps=60)
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


def _config(*runs: dict[str, Any], **changes: Any) -> Any:
    runs = runs or ({"methods": ("erm",)},)
    return settings.ImposedConfig.model_validate({"source": "x", "runs": runs, **changes})


def test_every_method_is_run_at_each_cut_length_seed_and_number_of_conflicting_crops() -> None:
    config = _config(
        {"methods": ("erm", "resample"), "times": (1, 2)},
        {"methods": ("intervene",), "conflicting": 0, "cuts": ((0.5,), (0.3,)), "is_val_biased": True},
        seeds=(1,),
        polarities=("dark",),
    )
    planned = [
        (cell.method, cell.cuts, cell.steps, cell.conflicting, cell.is_val_biased) for cell in cells.cells_of(config)
    ]
    assert planned == [
        ("erm", (0.5,), 600, 50, False),
        ("resample", (0.5,), 600, 50, False),
        ("erm", (0.5,), 1200, 50, False),
        ("resample", (0.5,), 1200, 50, False),
        ("intervene", (0.5,), 600, 0, True),
        ("intervene", (0.3,), 600, 0, True),
    ]


@pytest.mark.parametrize(("conflicting", "method", "expected"), [(3, "erm", 3), (0, "erm", 0), (2, "ceiling", 6)])
def test_fewer_crops_conflict_because_the_others_have_their_other_size(
    conflicting: int, method: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config({"methods": (method,), "conflicting": conflicting}, cohort={"train": 10, "conflicting": 5})

    def splits(work: Path, cell: Any, names: tuple[str, ...], *, input_px: int) -> dict[str, PatchSet]:
        size = np.arange(20) // 2 >= 5  # of pairs from 5 on, tumour is large; below, non-tumour
        label = np.arange(20) % 2
        is_large = (label == 1) == size
        fraction = np.where(is_large != ("others" in work.name), 0.8, 0.2)
        patch_id = np.array([f"crop {number}" for number in range(20)])
        masks = PatchMasks(np.zeros((20, 8, 1), np.uint8), 8)
        patches = PatchSet(
            np.zeros((20, 3, 8, 8), np.float16), label, label, fraction, patch_id, patch_id, tissue=masks
        )
        return dict.fromkeys(names, patches)

    monkeypatch.setattr(cells, "_splits", splits)
    (cell, *_) = cells.cells_of(config)
    train = cells.load(Path("work"), cell, config)["train"]
    assert len(train) == 20
    assert len(train.tissue) == 20
    assert len(np.unique(train.patch_id)) == 20
    is_conflicting = (train.tissue_fraction >= 0.5) != (train.label == 1)
    assert [is_conflicting[train.label == y].sum() for y in (0, 1)] == [expected, expected]


def test_biased_validation_holds_no_conflicting_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config({"methods": ("erm",), "is_val_biased": True}, cohort={"train": 10, "conflicting": 5})
    label, names = np.arange(8) % 2, np.array(list("abcdefgh"))
    fraction = np.array([0.2, 0.2, 0.8, 0.8, 0.2, 0.8, 0.8, 0.2])
    patches = PatchSet(np.zeros((8, 3, 8, 8), np.float16), label, label, fraction, names, names)
    monkeypatch.setattr(cells, "_splits", lambda work, cell, splits, *, input_px: dict.fromkeys(splits, patches))
    sets = cells.load(Path("work"), cells.cells_of(config)[0], config)
    assert "".join(sets["val"].patch_id) == "adef"
    assert len(sets["test"]) == 8


def test_a_cell_is_run_again_when_a_setting_that_matters_has_changed() -> None:
    config = _config()
    cell = cells.cells_of(config)[0]
    slower = config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": 1e-4})})
    elsewhere = config.model_copy(update={"train": config.train.model_copy(update={"threads": 1}), "source": "y"})
    assert cell.key(config) == cell.key(elsewhere) != cell.key(slower)


def test_the_same_margins_are_judged_at_every_threshold() -> None:
    config = _config()
    fraction = np.array([0.2, 0.4, 0.8, 0.2, 0.4, 0.8])
    names = np.array(list("abcdef"))
    patches = PatchSet(
        np.zeros((6, 3, 8, 8), np.float16), np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, int), fraction, names, names
    )
    scores = cells.judged(np.array([-1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), patches, config)
    assert scores["groups@0.5"] == [1.0, 0.0, 0.5, 1.0]
    assert scores["groups@0.3"] == [1.0, 0.5, 0.0, 1.0]
    assert (scores["wga@0.5"], scores["wga@0.3"]) == (0.0, 0.0)


def _row(cell: Any, config: Any, wga: float) -> dict[str, Any]:
    return {
        "key": cell.key(config), "picked_step": cell.steps, "decision_threshold": 0.0, "val_wga": wga,
        "last_val_wga": wga - 0.1, "auroc": 0.9, "seconds": 1.0, **asdict(cell),
        **{f"{name}@0.5{zero}": wga for name in ("wga", "gba") for zero in ("", "_at_zero")},
        **{f"{name}@0.3{zero}": wga - 0.02 for name in ("wga", "gba") for zero in ("", "_at_zero")},
        **{f"groups@{t}": [wga] * 4 for t in (0.5, 0.3)},
    }  # fmt: skip


CHECKS = pd.DataFrame(
    [{"polarity": "bright", "seed": 1, "suspect": "area alone", "auroc": 0.501, "low": 0.45, "high": 0.552}]
)


def test_the_tables_compare_each_method_with_resampling_seed_by_seed() -> None:
    config = _config(
        {"methods": ("resample", "intervene"), "conflicting": 10},
        {"methods": ("intervene",), "conflicting": 0, "is_val_biased": True},
        polarities=("bright",),
        seeds=(1, 2),
    )
    accuracy = dict(zip(cells.cells_of(config), (0.6, 0.74, 0.8, 0.9, 0.5, 0.5), strict=True))
    rows = [table.flat(_row(cell, config, wga), config) for cell, wga in accuracy.items()]
    text = table.tables(table.ordered(pd.DataFrame(rows[::-1]), config), CHECKS, config)
    assert "| 10 | resample | 0.5 | 2 | 70.0 ± 14.1 | 68.0 ± 14.1 | 70.0 ± 14.1 | 70.0 ± 14.1 | 60.0 |" in text
    assert "| 0, none in validation | intervene | 0.5 | 2 | 50.0 ± 0.0 |" in text
    assert "| 10 | intervene | 2 | +12.0 ± 2.8 | +10.0 | +12.0 ± 2.8 | +12.0 ± 2.8 |" in text
    assert text.index("| 10 | resample") < text.index("| 10 | intervene") < text.index("| 0, none")
    assert "| bright, seed 1 | 0.501 (0.450 to 0.552) |" in text


def test_tables_replace_what_stands_between_the_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    table.fill(readme, "new")
    assert readme.read_text(encoding="utf-8") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"


def test_settings_of_a_method_that_is_not_run_are_refused() -> None:
    with pytest.raises(ValueError, match="of_method names gerne"):
        _config(of_method={"gerne": {"beta": 1.5}})
