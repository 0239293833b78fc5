"""A cohort predicted again and again: its tables follow the manifest, and a wrong command costs no results."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import made_slides as made
import numpy as np
import pandas as pd
import pytest
import torch
from made_model import write_model
from made_review import write_other_model
from PIL import Image
from written_files import contents

from pathopatch.core.artefacts import content_fingerprint, read_table
from pathopatch.core.config import BatchOptions, PredictConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    InputCorruptError,
    InputMissingError,
    InputUnsupportedError,
    PathopatchError,
)
from pathopatch.core.files import temporary_path
from pathopatch.core.task import Outcome
from pathopatch.models.bundle import read_spec, save_bundle
from pathopatch.models.networks import build_network
from pathopatch.report import write_report
from pathopatch.review.reviewed_cohort import open_cohort
from pathopatch.review.values import browser_facts
from pathopatch.stages.find_slides import find_cohort
from pathopatch.stages.predict import predict_cohort

CONFIG = PredictConfig(device="cpu", precision="float32", threads=1)
PATIENTS = {"good": "p1", "spoilt": "p1", "other": "p2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three slides, one of them spoilt, and a model."""
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    for number, name in enumerate(PATIENTS):
        made.write_aperio(tmp_path / f"{name}.svs", np.roll(image, 8 * number, axis=2), levels=1)
    made.spoil_tile(tmp_path / "spoilt.svs", 0)
    write_model(tmp_path / "model")
    return tmp_path


def predict(
    folder: Path, models: tuple[str, ...] = ("model",), patients: dict[str, str] = PATIENTS, **changed: Any
) -> list[Outcome]:
    """Predict all slides, as of the patients of a manifest."""
    lines = ["slide_id,patient_id,path", *(f"{name},{patients[name]},{name}.svs" for name in PATIENTS)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    rows = find_cohort([str(folder / "manifest.csv")]).rows
    progress = changed.pop("progress", None)
    batch = BatchOptions(**{name: changed.pop(name) for name in tuple(changed) if name in BatchOptions.model_fields})
    config, bundles = CONFIG.model_copy(update=changed), [folder / name for name in models]
    return predict_cohort(rows, bundles, folder / "out", config, batch, progress=progress)


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "out" / name, index_col=0)


def test_a_slide_that_failed_is_counted_for_its_patient(folder: Path) -> None:
    assert [outcome.state for outcome in predict(folder)] == ["done", "failed", "done"]
    assert table(folder, "cohort.csv").loc["spoilt", ["patient_id", "state"]].tolist() == ["p1", "failed"]


def test_an_interrupted_run_leaves_tables_of_what_it_did(folder: Path) -> None:
    def until_the_second(what: str, done: int, total: int, note: str = "") -> None:
        if (what, done) == ("predict", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(folder, progress=until_the_second)
    assert table(folder, "cohort.csv")["state"].to_dict() == {"good": "done", "spoilt": "failed"}


def test_a_patient_corrected_in_the_manifest_is_corrected_in_the_tables(folder: Path) -> None:
    predict(folder)
    corrected = PATIENTS | {"good": "p3"}
    assert [outcome.state for outcome in predict(folder, patients=corrected)] == ["current", "failed", "current"]
    assert table(folder, "cohort.csv").loc[["good", "other"], "patient_id"].tolist() == ["p3", "p2"]


def spoil_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def with_other_patches(model: Path) -> None:
    spec = read_spec(model)
    torch.manual_seed(1)
    save_bundle(model, build_network(spec.architecture, 3), spec.model_copy(update={"patch_px": 32}))


WRONG: dict[str, tuple[dict[str, Any], Callable[[Path], object], type[PathopatchError], str]] = {
    "weights that are missing": (
        {}, lambda model: (model / "model.safetensors").unlink(), InputMissingError, "no model.safetensors",
    ),
    "weights that are cut": ({}, spoil_weights, InputCorruptError, "cut off or damaged"),
    "members that see other patches": ({}, with_other_patches, CheckpointIncompatibleError, "patch_px is 16 and 32"),
    "a network given twice": ({}, lambda _: None, CheckpointIncompatibleError, "model and .*second have the same"),
    "a stride beyond the patch": (
        {"models": ("model",), "stride_px": 17}, lambda _: None, InputUnsupportedError, "stride of 17 px",
    ),
    "a device that is not there": (
        {"models": ("model",), "device": "cuda:99"}, lambda _: None, InputUnsupportedError, "no device",
    ),
}  # fmt: skip


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "channels": (
        {"channels": ("C0",), "mean": (0.5,), "std": (0.2,), "dtype": "uint16", "background": "dark"},
        "CHANNEL_MISMATCH",
    ),
    "scale": ({"mpp": 0.2}, "CHECKPOINT_INCOMPATIBLE"),
}


@pytest.mark.parametrize(("name", "force"), [("channels", False), ("scale", True)])
def test_a_model_that_does_not_fit_leaves_what_is_finished(name: str, force: bool, folder: Path) -> None:
    changes, code = MISFITS[name]
    predict(folder)
    shown = table(folder, "cohort.csv")
    before = contents(folder / "out")
    spec = read_spec(folder / "model").model_copy(update={**changes, "onnx": None})
    save_bundle(folder / "other", build_network(spec.architecture, len(spec.channels)), spec)
    outcomes = predict(folder, models=("other",), force=force)
    assert {outcome.slide_id: outcome.code for outcome in outcomes}["good"] == code
    pd.testing.assert_frame_equal(table(folder, "cohort.csv").drop("spoilt"), shown.drop("spoilt"))
    after = contents(folder / "out")
    kept = [name for name in before if {Path(part).stem for part in Path(name).parts} & {"good", "other"}]
    assert len(kept) > 10
    assert all(after[name] == before[name] for name in kept)
    with closing(open_cohort(folder / "out")) as cohort:
        assert {row["slide_id"]: row["state"] for row in cohort.rows()}["good"] == "done"
        assert cohort.open("good").facts["counts"]["predicted"] > 0
    assert predict(folder)[0].state == "current"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_is_one_error_and_costs_no_results(name: str, folder: Path) -> None:
    changed, spoil, error, message = WRONG[name]
    predict(folder)
    before = contents(folder / "out")
    shutil.copytree(folder / "model", folder / "second")
    spoil(folder / "second")
    with pytest.raises(error, match=message):
        predict(folder, **{"models": ("model", "second"), **changed})
    assert contents(folder / "out") == before


def test_a_bundle_that_was_trained_anew_in_its_place_is_read_anew(folder: Path) -> None:
    predict(folder)
    torch.manual_seed(1)
    save_bundle(folder / "model", build_network("small-groupnorm", 3), read_spec(folder / "model"))
    assert [outcome.code for outcome in predict(folder)][0] == "STALE_ARTEFACT"


def test_only_failed_slides_are_predicted_again_with_only_failed(folder: Path) -> None:
    assert [outcome.state for outcome in predict(folder)] == ["done", "failed", "done"]
    mended = made.disc_image(96, 80, (50, 40), 28, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_aperio(folder / "spoilt.svs", mended, levels=1)
    outcomes = predict(folder, retry_failed=True)
    assert [(outcome.slide_id, outcome.state) for outcome in outcomes] == [("spoilt", "done")]
    assert predict(folder, retry_failed=True) == []
    assert table(folder, "cohort.csv")["state"].to_dict() == {"good": "done", "other": "done", "spoilt": "done"}


def test_a_run_removes_what_killed_ones_left_and_nothing_of_those_that_run(folder: Path) -> None:
    say = (
        "import sys; from pathlib import Path; from pathopatch.core.files import temporary_path;"
        "print(temporary_path(Path(sys.argv[1])))"
    )
    predict(folder)
    heatmaps, predictions = folder / "out" / "heatmaps", folder / "out" / "predictions"
    named = [
        Path(subprocess.check_output([sys.executable, "-c", say, str(path)], text=True).strip())
        for path in (heatmaps / "good", predictions / "good.parquet", folder / "out" / "cohort.csv")
    ]
    named[0].mkdir()
    (named[0] / "overlay.png").touch()
    named[1].touch()
    named[2].touch()
    own = temporary_path(heatmaps / "good")
    own.mkdir()
    predict(folder)
    assert not any(path.exists() for path in named)
    assert own.is_dir()


def with_marks(folder: Path, **split_of: str) -> None:
    """Let the bundle say which slides it was trained and selected on, as training writes it."""
    marks = {
        f"{split}_slides": content_fingerprint([folder / f"{slide}.svs"])[:16] for slide, split in split_of.items()
    }
    spec = read_spec(folder / "model")
    save_bundle(
        folder / "model", build_network(spec.architecture, 3), spec.model_copy(update={"training": marks, "onnx": None})
    )


@pytest.mark.parametrize("models", [("model",), ("blank", "model")])
def test_slides_that_the_model_knows_are_told_wherever_they_are_shown(folder: Path, models: tuple[str, ...]) -> None:
    write_model(folder / "blank")  # it lists no slides
    torch.manual_seed(1)
    with_marks(folder, good="train", other="val")
    (folder / "good.svs").rename(folder / "renamed.svs")
    shutil.copy(folder / "spoilt.svs", folder / "good.svs")  # another slide under the name
    shutil.copy(folder / "renamed.svs", folder / "spoilt.svs")
    outcomes = {outcome.slide_id: outcome for outcome in predict(folder, models=models)}
    assert "the model was trained on this slide" in outcomes["spoilt"].warnings[0]
    assert "the model was selected on this slide" in outcomes["other"].warnings[0]
    shown = table(folder, "cohort.csv")
    assert shown["leakage"].fillna("").to_dict() == {"good": "", "spoilt": "trained on", "other": "selected on"}
    assert shown.loc["spoilt", "warnings"].startswith("the model was trained on this slide")
    with closing(open_cohort(folder / "out")) as cohort:
        assert {row["slide_id"]: row["leakage"] for row in cohort.rows()}["other"] == "selected on"
        assert browser_facts(cohort.open("spoilt"))["leakage"] == "trained on"
    page = write_report(folder / "out").read_text()
    for word in ("trained", "selected"):
        assert f"<strong>The model was {word} on 1 of these 3 slides.</strong>" in page
        assert f"<strong>model was {word} on it</strong>" in page


def test_the_picture_of_a_training_slide_says_so_beside_the_map(folder: Path) -> None:
    with_marks(folder, other="val")
    predict(folder, models=("model",))
    plain = np.asarray(Image.open(folder / "out" / "heatmaps" / "good" / "overlay.png"))
    red = (plain == (200, 40, 40)).all(axis=2).sum()
    with_marks(folder, good="train")
    predict(folder, force=True)
    told = np.asarray(Image.open(folder / "out" / "heatmaps" / "good" / "overlay.png"))
    assert (told == (200, 40, 40)).all(axis=2).sum() > red + 500


@pytest.mark.slow
def test_the_queries_of_the_manual_run_on_tables_of_one_model_and_several(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, root = folder / "out", Path(__file__).parents[3]
    predict(folder)
    write_other_model(folder / "second", seed=1, like=folder / "model")
    (folder / "out" / "predictions" / "other.parquet").unlink()
    predict(folder, ("model", "second"), force=False)
    page = (root / "docs" / "how-to" / "folder.md").read_text()
    queries = [part.split("```")[0] for part in page.split("```sql\n")[1:]]
    names = sorted(path.stem for path in (out / "predictions").iterdir())
    tables = [read_table(out / "predictions" / f"{name}.parquet").assign(slide_id=name) for name in names]
    due = pd.concat(tables, ignore_index=True)
    groups = due[["patch_id"]].assign(**{"group@0.25": np.arange(len(due)) % 4})
    groups.to_parquet(out / "groups.parquet")
    monkeypatch.chdir(folder)
    patches, by_area, flagged, by_group = [duckdb.sql(query).df() for query in queries]
    assert patches.set_index("patch_id")["slide_id"].to_dict() == due.set_index("patch_id")["slide_id"].to_dict()
    assert patches["spread"].notna().sum() == due["spread"].notna().sum() > 0
    assert by_area["slide_id"].tolist()[-1] == "spoilt"  # which has no area
    raised = due.filter(like="flag_").fillna(False).astype(bool).any(axis=1)
    assert flagged.set_index("slide_id")["flagged"].to_dict() == raised.groupby(due["slide_id"]).sum().to_dict()
    assert by_group["patches"].tolist() == groups["group@0.25"].value_counts().sort_index().tolist()
