"""Runs that lack a group which their method needs are refused, with what would do."""

from pathlib import Path

import pandas as pd
import pytest
from made_patches import write_work

from pathopatch.core.artefacts import Stamp, write_table
from pathopatch.core.config import TrainConfig, TuneConfig
from pathopatch.core.config.training import GerneConfig
from pathopatch.core.errors import BetaOutOfBoundsError, GroupEmptyError
from pathopatch.debias.methods import NAMES
from pathopatch.groups import assign_groups
from pathopatch.training import group_checks
from pathopatch.training.group_checks import own_parameters, require_groups, runs_with_groups
from pathopatch.training.run import fit
from pathopatch.training.tune import tune

SMALL = {"input_px": 16, "steps": 2, "batch_per_class": 4, "evaluations": 1, "threads": 1}


def test_a_method_with_a_hyphen_has_settings_under_its_name_with_an_underscore(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithSection(TrainConfig):
        my_method: GerneConfig = GerneConfig(c=0.25)

    monkeypatch.setattr(group_checks, "parameters_of", lambda _: ("c",))
    config = WithSection.model_construct(method="my-method", method_args={"k": 3.0})
    assert own_parameters(config) == {"c": 0.25, "beta": 1.0, "k": 3.0}


def graded(*, val_least: float = 0.1, own: bool = False) -> pd.DataFrame:
    """Groups at 0.25 and 0.9; training fractions 0.1 and 0.7 in both labels, validation `val_least` and 0.7."""
    rows = [
        (f"{split}@{i},{y}", split, f"p-{split}", split, y, fraction)
        for split, least in (("train", 0.1), ("val", val_least), ("test", 0.1))
        for y in (0, 1)
        for i, fraction in enumerate([least, 0.7] * 3)
    ]
    names = ["patch_id", "slide_id", "patient_id", "split", "label", "tissue_fraction"]
    table = pd.DataFrame(rows, columns=names)
    return assign_groups(table.assign(attribute="red") if own else table, (0.25, 0.9))


def test_the_message_names_threshold_groups_and_thresholds_that_would_do() -> None:
    with pytest.raises(GroupEmptyError) as caught:
        require_groups(graded(val_least=0.3), TrainConfig(method="gerne", threshold=0.9))
    assert caught.value.message.startswith(
        "gerne needs every group, and at tissue threshold 0.9 there is no patch of non-tumour with much tissue and "
        "none of tumour with much tissue ("
    )
    assert caught.value.place == "split train"
    # both splits count: validation has little tissue above 0.3 only
    assert caught.value.remedy == (
        "choose a threshold at which no group is empty: none in groups.parquet; 0.35 to 0.7 of 0.05, 0.1, … 0.95. "
        "Or train auto, which composes patches of any area from those that are there, or another method "
        "that needs no groups: erm, erm-balanced; with mask = 'interior' none of them sees the area"
    )
    with pytest.raises(GroupEmptyError, match=r"0\.25 in groups\.parquet; 0\.15 to 0\.7 of"):
        require_groups(graded(), TrainConfig(method="gerne", threshold=0.9))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_refused_if_and_only_if_it_needs_groups(name: str) -> None:
    config = TrainConfig(method=name, threshold=0.9)
    if name not in ("resample", "groupdro", "gerne"):
        require_groups(graded(), config)
    else:
        with pytest.raises(GroupEmptyError):
            require_groups(graded(), config)


def test_validation_needs_groups_unless_nothing_selects_or_draws_there() -> None:
    lacking = graded(val_least=0.3)
    last = {"select": "last", "tune_threshold": False}
    with pytest.raises(GroupEmptyError, match="non-tumour with little tissue and none of tumour with little") as caught:
        require_groups(lacking, TrainConfig(method="gerne"))
    assert caught.value.place == "split val"
    require_groups(lacking, TrainConfig(method="gerne", **last))


def test_an_own_attribute_of_one_value_has_no_threshold_to_choose() -> None:
    with pytest.raises(GroupEmptyError, match=r"by the patches' own attribute .*no other") as caught:
        require_groups(graded(own=True), TrainConfig(method="gerne"))
    assert caught.value.remedy.startswith("add slides that have them. Or train")


def test_runs_and_searches_are_refused_before_a_pixel_is_read(tmp_path: Path) -> None:
    write_work(tmp_path)
    write_table(
        tmp_path / "groups.parquet", graded(), Stamp(stage="groups", settings={"a": 1})
    )  # its patches have no pixels
    for slide in ("train", "val", "test"):
        write_table(
            tmp_path / "patches" / f"{slide}.parquet", graded()[["patch_id"]], Stamp(stage="tile", settings={"a": 1})
        )
    config = TrainConfig(method="resample", threshold=0.9, **SMALL)
    for run in (lambda: fit(tmp_path, config), lambda: tune(tmp_path, config, TuneConfig(trials=1))):
        with pytest.raises(GroupEmptyError, match="resample needs every group"):
            run()
    assert not (tmp_path / "runs").exists()


def test_of_several_runs_those_without_their_groups_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "groups.parquet", graded(), Stamp(stage="groups", settings={"a": 1}))
    runs = [TrainConfig(method=name, threshold=cut) for cut in (0.25, 0.9) for name in ("erm", "gerne")]
    left, refused = runs_with_groups([tmp_path], runs)
    assert [run.run_name for run in left] == ["erm-t0.25-s0", "gerne-t0.25-s0", "erm-t0.9-s0"]
    assert list(refused) == ["gerne-t0.9-s0"]
    with pytest.raises(GroupEmptyError):
        runs_with_groups([tmp_path], runs[3:])


def test_a_beta_out_of_bounds_is_refused_with_the_groups() -> None:
    # Groups of three each: all shares are 1/2, and no beta is out of bounds. Of 1 and 3 the bound at c = .5 is 5.
    require_groups(graded(), TrainConfig(method="gerne", gerne={"beta": 9.0}))
    table = graded()
    is_rare = (table["split"] == "train") & (table["tissue_fraction"] < 0.5)
    uneven = table.drop(index=table.index[is_rare & table["patch_id"].str.contains("@[24],")])
    require_groups(uneven, TrainConfig(method="gerne", gerne={"beta": 4.99}))
    with pytest.raises(BetaOutOfBoundsError, match="beta = 5.01"):
        require_groups(uneven, TrainConfig(method="gerne", gerne={"beta": 5.01}))
    # Of three values with shares 1/2, 1/3 and 1/6 it is .5 / (.5 / 6) - 1 = 5 too.
    several = assign_groups(graded().assign(attribute=[*"aaabbc"] * 6), (0.25,))
    require_groups(several, TrainConfig(method="gerne", gerne={"beta": 4.99}))
    with pytest.raises(BetaOutOfBoundsError, match="beta = 5.01"):
        require_groups(several, TrainConfig(method="gerne", gerne={"beta": 5.01}))
