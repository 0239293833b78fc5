"""Several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_patches import write_work

from pathopatch.core.artefacts import Stamp, read_table, write_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.errors import StaleArtefactError
from pathopatch.stages.train import recommended, train_many


def config_of(**changes: Any) -> TrainConfig:
    small = {"input_px": 16, "steps": 4, "batch_per_class": 4, "evaluations": 2, "threads": 1}
    return TrainConfig(**{**small, **changes})


def test_who_names_no_method_gets_composed_patches_and_a_masked_network(tmp_path: Path) -> None:
    write_work(tmp_path)
    given = config_of(threshold=0.5)
    chosen = recommended(tmp_path, given)
    assert (chosen.method, chosen.mask, chosen.run_name, chosen.steps) == (
        "auto",
        "normalise",
        "auto-t0.5-s0-masked",
        4,
    )
    for own in ({"method": "gerne"}, {"mask": "none"}, {"c": 1.0}):
        assert recommended(tmp_path, config_of(**own)) == config_of(**own)
    groups = read_table(tmp_path / "groups.parquet").assign(attribute="scanner")
    write_table(tmp_path / "groups.parquet", groups, Stamp(stage="groups"))
    assert recommended(tmp_path, given) is given  # which is not composed


@pytest.mark.slow
def test_runs_side_by_side_equal_runs_one_by_one_and_an_error_comes_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_work(tmp_path / name)
    configs = [config_of(method=method) for method in ("erm", "resample")]
    shown: list[tuple[str, int, int, str]] = []
    one = train_many(tmp_path / "a", configs, None, jobs=1)
    two = train_many(tmp_path / "b", configs, None, jobs=2, progress=lambda *words: shown.append(words))
    assert [folder.name for folder in two] == [folder.name for folder in one] == [config.run_name for config in configs]
    for before, after in zip(one, two, strict=True):
        assert (before / "model/model.safetensors").read_bytes() == (after / "model/model.safetensors").read_bytes()
    assert sorted(words[:3] for words in shown) == [("train", 0, 2), ("train", 1, 2), ("train", 2, 2)]
    # The first of the two is stale: the second is trained nevertheless.
    longer = [config_of(method="erm", steps=5), config_of(method="groupdro")]
    with pytest.raises(StaleArtefactError, match="steps was 4, is 5"):
        train_many(tmp_path / "b", longer, None, jobs=2)
    assert (tmp_path / "b" / "runs" / longer[1].run_name / "run.json").is_file()
