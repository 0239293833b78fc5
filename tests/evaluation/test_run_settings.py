"""Which runs are seeds of one setting, and what is said to differ between the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathopatch.core.artefacts import Stamp
from pathopatch.core.config import NO_EFFECT, TrainConfig, TuneConfig
from pathopatch.core.files import write_json
from pathopatch.evaluation.run_settings import describe_runs, run_settings
from pathopatch.training.run import settings_of

SETTINGS = settings_of(TrainConfig())
OTHER = {"threshold": 0.9, "bins": [0.9]}  # of which labels are made; of others any value serves


def write_stamp(folder: Path, run: str, *, tune: TuneConfig | None = None, patches: str = "p", **settings: Any) -> None:
    """Write what training leaves of its settings; a searched run also has those that its search chose."""
    config = TrainConfig(**settings)
    asked = settings_of(config) if tune is None else {"train": settings_of(config), "tune": tune}
    stamp = Stamp(stage="train", settings=asked, inputs={"groups": "g", "patches": patches})
    write_json(folder / "runs" / run / "run.json", {"stamp": stamp.to_dict()})
    chosen = {} if tune is None else {"learning_rate": 1e-4 * (1 + config.seed)}
    write_json(folder / "runs" / run / "config.json", config.model_dump(mode="json") | chosen)


def described(work: Path, *names: str) -> dict[str, dict[str, str]]:
    table = describe_runs({name: run_settings(work, name) for name in names})
    return {str(run): row for run, row in table.to_dict("index").items()}


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"seed"}))
def test_every_setting_but_the_seed_is_in_the_key(name: str) -> None:
    assert NO_EFFECT.isdisjoint(SETTINGS)
    other = SETTINGS | {name: OTHER.get(name, "another value")}
    rows = describe_runs({"a": SETTINGS | {"seed": 0}, "b": other | {"seed": 1}})
    assert rows["settings_key"].nunique() == 2
    if name not in ("method", "choose", "threshold", "bins"):  # which tables show anyhow
        assert rows["variant"].nunique() == 2


def test_seeds_have_one_key_and_no_variant(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_stamp(tmp_path, f"s{seed}", seed=seed, name=f"of-{seed}", device="cpu")
    first, second = described(tmp_path, "s0", "s1").values()
    assert first == second
    assert (first["variant"], first["rerun_of"]) == ("", "")


@pytest.mark.parametrize("exact", [{"frozen": True}, {"architecture": "linear", "input_px": 1}])
def test_exact_heads_of_equal_folds_are_one_whatever_their_seed(tmp_path: Path, exact: dict[str, Any]) -> None:
    for seed in (0, 1, 2):
        write_stamp(tmp_path, f"s{seed}", seed=seed, **exact)
    write_stamp(tmp_path, "searched", tune=TuneConfig(trials=4), seed=1, **exact)
    rows = described(tmp_path, "s0", "s1", "s2", "searched")
    assert [row["rerun_of"] for row in rows.values()] == ["", "s0", "s0", ""]


def test_exact_heads_of_other_folds_are_repetitions(tmp_path: Path) -> None:
    write_stamp(tmp_path / "folds" / "1", "s0", frozen=True, patches="of this fold")
    write_stamp(tmp_path / "repetitions" / "s1" / "folds" / "1", "s1", frozen=True, seed=1, patches="of that fold")
    first, second = described(tmp_path, "s0", "s1").values()
    assert first == second
    assert (first["variant"], first["rerun_of"]) == ("", "")


def test_a_searched_run_has_the_key_of_what_its_search_was_given(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_stamp(tmp_path, f"s{seed}", tune=TuneConfig(trials=4), seed=seed)
    write_stamp(tmp_path, "longer", tune=TuneConfig(trials=8), seed=2)
    write_stamp(tmp_path, "plain", seed=3)
    rows = described(tmp_path, "s0", "s1", "longer", "plain")
    assert rows["s0"] == rows["s1"]
    variants = {name: row["variant"] for name, row in rows.items()}
    assert variants == {
        "s0": "tune.trials 4, search on", "s1": "tune.trials 4, search on", "longer": "tune.trials 8, search on",
        "plain": "search off",
    }  # fmt: skip


def test_runs_on_other_patches_are_no_seeds_of_each_other(tmp_path: Path) -> None:
    write_stamp(tmp_path, "s0", seed=0)
    write_stamp(tmp_path, "s1", seed=1, patches="of more slides")
    rows = described(tmp_path, "s0", "s1")
    assert {name: row["variant"] for name, row in rows.items()} == {
        "s0": "training patches p", "s1": "training patches of more slid",
    }  # fmt: skip


def test_of_runs_that_repeat_each_other_the_first_by_name_counts(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        write_stamp(tmp_path, name, seed=0, name=name)
    rows = described(tmp_path, "c", "a", "b")
    assert {name: row["rerun_of"] for name, row in rows.items()} == {"c": "a", "a": "", "b": "a"}


def test_a_pooled_run_has_the_settings_of_its_folds(tmp_path: Path) -> None:
    for fold, rate in ((1, 1e-3), (2, 1e-2)):
        write_stamp(tmp_path / "folds" / str(fold), "even", patches=f"of fold {fold}")
        write_stamp(tmp_path / "folds" / str(fold), "mixed", learning_rate=rate)
    assert run_settings(tmp_path, "even")["learning_rate"] == 1e-3
    assert run_settings(tmp_path, "even")["training patches"] == ["of fold 1", "of fold 2"]
    assert run_settings(tmp_path, "mixed")["learning_rate"] == [1e-3, 1e-2]


def test_bundles_from_elsewhere_are_like_no_other_run(tmp_path: Path) -> None:
    rows = described(tmp_path, "bundle-a", "bundle-b")
    assert rows["bundle-a"]["settings_key"] != rows["bundle-b"]["settings_key"]
    assert {row["rerun_of"] for row in rows.values()} == {""}
