"""The index holds what the prediction tables hold, and answers what labs ask, in DuckDB and Polars."""

from __future__ import annotations

from pathlib import Path

import duckdb
import made_slides as made
import numpy as np
import pandas as pd
import polars as pl
import pytest
from made_model import write_model
from made_review import write_other_model

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig
from pathopatch.core.errors import InputMissingError
from pathopatch.core.status import update_status
from pathopatch.stages.batch import indexing
from pathopatch.stages.batch.indexing import write_index
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.predict import predict_cohort

CONFIG = PredictConfig(device="cpu", precision="float32", threads=1)
NAMES = ("one", "two", "three")


def predict(folder: Path, *names: str, models: int = 1) -> None:
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    for number, name in enumerate(names):
        made.write_aperio(folder / f"{name}.svs", np.roll(image, 8 * number, axis=2), levels=1)
    lines = ["slide_id,patient_id,path", *(f"{name},p-{name},{name}.svs" for name in names)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    bundles = [write_model(folder / "model")]
    bundles += [write_other_model(folder / f"model-{seed}", seed=seed, like=bundles[0]) for seed in range(1, models)]
    rows = slides_to_predict(str(folder / "manifest.csv"))
    predict_cohort(rows, bundles, folder / "out", CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    predict(tmp_path, *NAMES)
    return tmp_path


def patches(out: Path) -> pd.DataFrame:
    table = pl.read_parquet(out / "index" / "patches" / "**" / "*.parquet").to_pandas()
    return table.sort_values(["slide_id", "patch_id"], ignore_index=True)


def due(out: Path, *names: str) -> pd.DataFrame:
    tables = [
        read_table(out / "predictions" / f"{name}.parquet").assign(slide_id=name, patient_id=f"p-{name}")
        for name in names
    ]
    return pd.concat(tables).sort_values(["slide_id", "patch_id"], ignore_index=True)


def files_of(out: Path) -> dict[str, tuple[int, bytes]]:
    index = out / "index"
    return {str(path.relative_to(index)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(index.rglob("*.parquet"))}  # fmt: skip


def test_the_index_holds_all_patch_rows_and_one_row_per_slide(folder: Path) -> None:
    assert write_index(folder / "out") == folder / "out" / "index"
    expected = due(folder / "out", *NAMES)
    pd.testing.assert_frame_equal(patches(folder / "out")[expected.columns], expected, check_dtype=False)
    slides = pl.read_parquet(folder / "out" / "index" / "slides.parquet")
    cohort = pd.read_csv(folder / "out" / "cohort.csv")
    assert slides["slide_id"].to_list() == cohort["slide_id"].tolist() == sorted(NAMES)
    assert slides["positive_mm2"].to_list() == pytest.approx(cohort["positive_mm2"].tolist())


def test_a_current_index_is_left_and_a_new_slide_rewrites_only_its_bucket(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "ROWS_A_BUCKET", 16)  # of 30 patches a slide
    out = folder / "out"
    write_index(out)
    before = files_of(out)
    assert len(before) > 2
    write_index(out)
    assert files_of(out) == before
    update_status(out, "three", "predict", {"state": "failed", "code": "TIMEOUT", "patient_id": "p-three"})
    write_index(out)
    assert set(patches(out)["slide_id"]) == {"one", "two"}
    predict(folder, *NAMES)
    write_index(out)
    after = files_of(out)
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in before.items()
    }


def test_tables_of_a_single_model_lack_what_an_ensemble_has(folder: Path) -> None:
    out = folder / "out"
    predict(folder, "four", models=2)
    write_index(out)
    table = patches(out).set_index("slide_id")
    assert table.loc["four", "spread"].notna().all()
    assert table.loc["one", "spread"].isna().all()


def test_a_folder_without_predictions_and_a_table_that_is_gone_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no predicted slide here"):
        write_index(tmp_path / "elsewhere")
    (folder / "out" / "predictions" / "two.parquet").unlink()
    with pytest.raises(InputMissingError, match=r"two\.parquet"):
        write_index(folder / "out")


def queries() -> list[str]:
    """The queries as the manual shows them."""
    text = (Path(__file__).parents[3] / "pipelines" / "batch-inference" / "README.md").read_text(encoding="utf-8")
    return [part.split("```")[0] for part in text.split("```sql\n")[1:]]


def test_the_manuals_queries_run_as_they_stand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out"
    write_index(out)
    expected = due(out, *NAMES)
    groups = expected[["patch_id", "slide_id"]].assign(**{"group@0.25": np.arange(len(expected)) % 4})
    groups.to_parquet(out / "groups.parquet")
    monkeypatch.chdir(folder)
    by_area, flagged, by_group = [duckdb.sql(query).df() for query in queries()]
    cohort = pd.read_csv(out / "cohort.csv").sort_values("positive_mm2", ascending=False)
    assert by_area["positive_mm2"].tolist() == pytest.approx(cohort["positive_mm2"].tolist())
    flags = [name for name in expected if name.startswith("flag_")]
    raised = expected[flags].fillna(False).astype(bool).any(axis=1)
    assert flagged.set_index("slide_id")["flagged"].to_dict() == raised.groupby(expected["slide_id"]).sum().to_dict()
    assert by_group["patches"].sum() == len(expected)
    assert by_group["group"].tolist() == [0, 1, 2, 3]
