"""The command audit-model: patches of slides without labels are set to areas, and the answers judged and kept."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from array_slides import h_and_e
from made_model import made_spec, write_model
from made_slides import write_png, write_rgb_pyramid

from pathopatch.core.config import GroupsConfig, PredictConfig, ReadyConfig, TileConfig
from pathopatch.core.errors import (
    CheckpointIncompatibleError,
    InputUnsupportedError,
    PathopatchError,
    StaleArtefactError,
)
from pathopatch.core.files import read_json, write_json
from pathopatch.models.bundle import read_spec, save_bundle
from pathopatch.models.card import reliance_text
from pathopatch.models.networks import build_network
from pathopatch.models.spec import BundleSpec
from pathopatch.report import write_report
from pathopatch.slides.manifest import SlideRow
from pathopatch.stages import area_samples
from pathopatch.stages import audit_model as stage
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import import_patches, tile_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine slides of nine patients with smooth tissue, the last one damaged, as a manifest."""
    folder, rng, rows = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0), []
    for number in range(9):
        field = cv2.GaussianBlur(rng.normal(size=(128, 128)), (0, 0), 8)
        image = h_and_e(field > np.quantile(field, 0.6)) + rng.integers(0, 8, (3, 128, 128)).astype(np.uint8)
        write_rgb_pyramid(folder / f"S{number}.tif", image, levels=1)
        rows.append((f"S{number}", f"P{number}", f"S{number}.tif"))
    (folder / "S8.tif").write_bytes(b"II*\0")
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "path"]).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def _counts_tissue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model call patches with much tissue tumour."""

    def margins(_ensemble: Any) -> Callable[..., np.ndarray]:
        return lambda x, _: 10.0 * ((x.mean(axis=1) < 0.8).mean(axis=(1, 2)) - 0.5)

    monkeypatch.setattr(stage, "margins_of", margins)


@pytest.mark.usefixtures("_counts_tissue")
def test_a_model_that_counts_tissue_is_found_and_recorded_where_asked(
    typed: Callable[..., int], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    command = ("audit-model", model, cohort, "-o", out, "--per-slide", "20")
    assert typed(*command) == 3  # a slide failed
    text = capsys.readouterr().out
    assert "RELIES ON AREA: more tissue, more tumour" in text
    assert "S8: INPUT_CORRUPT" in text  # and the others were asked
    result, table = read_json(out / stage.RESULT), pd.read_csv(out / stage.TABLE)
    assert (result["slides"], result["patients"], result["verdict"]) == (8, 8, "relies")
    assert result["glass"]["positive"] == 0
    assert len(table) == result["patches"] == 8 * 20
    assert (table["margin@0.9"] > table["margin@0.1"]).all()
    assert np.floor(10 * table["tissue_fraction"]).value_counts().min() >= 5  # spread over the area
    page = (out / stage.PAGE).read_text()
    assert page.count("<tr>") == 12
    assert page.count("data:image/png") == 12 * 6 + 1
    assert "http" not in page.replace("http://www.w3.org", "")  # it opens without a network
    assert typed(*command, "--fail-on", "relies") == 1
    # The finished result is recorded in the bundle where asked.
    assert read_spec(model).area_reliance is None
    assert typed(*command, "--record") == 3
    found = read_spec(model).area_reliance
    assert found is not None
    assert (found.verdict, found.direction, found.slides, found.date) == ("relies", 1, 8, result["date"])
    assert (found.backgrounds, found.mpp) == (("bright",), (0.5, 0.5))
    assert list(found.response) == sorted(found.response)
    assert f"asked on {found.date} by 160 patches of 8 slides" in " ".join((model / "README.md").read_text().split())
    assert set(found.turned) == {"subtract", "average"}
    capsys.readouterr()
    assert typed(*command) == 3  # the record does not make the result stale
    assert "predict --area-correct would change" in capsys.readouterr().out
    assert typed(*command[:-1], "2") == 1  # another result stands there
    assert typed(*command[:-1], "2", "--force") == 3


def test_a_head_on_features_cannot_be_asked_about_patches(tmp_path: Path) -> None:
    spec = BundleSpec(
        architecture="linear", channels=(), encoder={"dim": 3}, dtype="float32", patch_px=1, stride_px=1, input_px=1,
        mean=(0.5,) * 3, std=(1.0,) * 3, method="erm",
    )  # fmt: skip
    save_bundle(tmp_path / "head", build_network("linear", 3, n_classes=2, input_px=1), spec)
    with pytest.raises(InputUnsupportedError, match="frozen = true"):
        stage.audit_model([tmp_path / "head"], (), tmp_path / "out", PredictConfig(device="cpu"))


def test_one_patient_has_measures_without_intervals(said: Callable, cohort: Path, model: Path, tmp_path: Path) -> None:
    text = said("audit-model", model, cohort.parent / "S0.tif", "-o", tmp_path, "--per-slide", "20").out
    assert "NOT KNOWN: 1 of at least 8 patients" in text
    assert "(no interval)" in text


def write_set(folder: Path) -> Path:
    """Write a work folder of 60 ready patches of ten patients, 20 slides and five blocks; return its list."""
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        field = cv2.GaussianBlur(rng.normal(size=(16, 16)), (0, 0), 3)
        image = h_and_e(field > np.quantile(field, rng.uniform(0.2, 0.8)))
        write_png(folder / f"{number}.png", image)
        rows.append((f"{number}.png", number % 2, f"P{number % 10}", f"S{number % 20}", f"B{number % 5}"))
    columns = ["path", "label", "patient_id", "slide_id", "block"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "patches.csv", index=False)
    return folder / "patches.csv"


@pytest.mark.usefixtures("_counts_tissue")
def test_ready_patches_are_of_many_patients(model: Path, tmp_path: Path) -> None:
    listed = write_set(tmp_path)
    pd.read_csv(listed).drop(columns=["slide_id", "block"]).to_csv(listed, index=False)
    import_patches(listed, tmp_path / "work", TileConfig(), ready=ReadyConfig(mpp=0.5))
    result = stage.audit_model([model], tmp_path / "work", tmp_path / "out", PredictConfig(device="cpu"), per_slide=40)
    assert result["patients"] == 10
    other = write_other(tmp_path / "other")
    with pytest.raises(CheckpointIncompatibleError, match="patch"):
        stage.audit_model([other], tmp_path / "work", tmp_path / "out2", PredictConfig(device="cpu"))


@pytest.mark.usefixtures("_counts_tissue")
def test_ready_patches_are_drawn_by_their_slides_and_counted_by_blocks(model: Path, tmp_path: Path) -> None:
    import_patches(write_set(tmp_path), tmp_path / "work", TileConfig(), ready=ReadyConfig(mpp=0.5))
    result = stage.audit_model([model], tmp_path / "work", tmp_path / "out", PredictConfig(device="cpu"), per_slide=2)
    assert (result["unit"], result["patients"], result["given"]["slides"]) == ("block", 5, 20)
    assert result["patches"] == 2 * 20
    assert result["reasons"][0] == "5 of at least 8 blocks, counted by their shares of the patches"
    assert "asked about 40 of 60 patches, 5 of 5 blocks" in stage.result_text(result)
    assert "40 patches of 20 slides and 5 blocks" in reliance_text(stage.reliance_of(result, "model"))
    table = pd.read_csv(tmp_path / "out" / stage.TABLE)
    assert (set(table["unit"]), table["patient_id"].nunique()) == ({f"B{i}" for i in range(5)}, 10)
    assert set(table["slide_id"]) <= {f"S{i}" for i in range(20)}


def test_blocks_of_slides_are_one_unit_where_a_patient_is_in_both() -> None:
    rows = [
        SlideRow(slide_id=f"S{i}", patient_id=patient, block=block, source="s.tif", row=i)
        for i, (patient, block) in enumerate([("P", "b"), ("P", "a"), ("Q", "b"), ("R", "c")])
    ]
    assert [about["unit"] for about in area_samples._with_units(area_samples._listed(rows))] == ["a", "a", "a", "c"]
    without = area_samples._listed([replace(row, block="") for row in rows])
    assert [about["unit"] for about in area_samples._with_units(without)] == ["P", "P", "Q", "R"]


def write_other(folder: Path) -> Path:
    """Write a model for patches of 32 px."""
    save_bundle(folder, build_network("small-groupnorm", 3), made_spec(32))
    return folder


def test_a_tiled_work_folder_is_asked_as_its_slides_are(cohort: Path, model: Path, tmp_path: Path) -> None:
    good = pd.read_csv(cohort).iloc[:8].assign(path=lambda table: str(cohort.parent) + "/" + table["path"])
    good.to_csv(tmp_path / "good.csv", index=False)
    tile_cohort(tmp_path / "good.csv", tmp_path / "work", TileConfig(patch_px=16))
    form_groups(tmp_path / "work", GroupsConfig(thresholds=(0.5,)))
    out = tmp_path / "work" / "area-reliance" / "mine"
    sources = area_samples.find_sources([str(tmp_path / "work")], out=out)
    result = stage.audit_model([model], sources, out, PredictConfig(device="cpu"), per_slide=2)
    assert (result["slides"], result["patients"], result["failed"], result["patches"]) == (8, 8, {}, 16)
    assert stage.result_text(result).splitlines()[-1].startswith("The area was set, and nothing else")
    point = {"value": 1.0, "low": 0.5, "high": 1.5}
    curve = [
        {"area": area, "margin": point, "by_class": []} for area in (0.1, 0.5, 0.9)
    ]  # of few patches there is none
    write_json(out / stage.RESULT, read_json(out / stage.RESULT) | {"curve": curve})
    page = write_report(tmp_path / "work").read_text()  # and shows it
    assert 'src="area_response.png"' in page
    assert (tmp_path / "work" / "report" / "area_response.png").is_file()
    assert '<a href="area-reliance/mine.html">mine: look for yourself</a>' in page
    assert (tmp_path / "work" / "report" / "area-reliance" / "mine.html").read_text() == (out / stage.PAGE).read_text()


@pytest.mark.parametrize(("name", "changed"), [("case#1.tif", "case#1.tif"), ("a.mrxs", "a/Data0000.dat")])
def test_a_slide_that_changed_under_its_name_is_asked_again(
    name: str, changed: str, cohort: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pathopatch.slides.open._is_for_openslide", lambda path: path.suffix == ".mrxs")
    copied = shutil.copy(cohort.parent / "S0.tif", tmp_path / name)
    if name.endswith(".mrxs"):  # OpenSlide goes by the content
        (tmp_path / "a").mkdir()
        (tmp_path / changed).write_bytes(bytes(9))
    audit = partial(stage.audit_model, [model], out=tmp_path / "out", config=PredictConfig(device="cpu"), per_slide=1)
    sources = area_samples.find_sources([str(copied)], out=tmp_path)
    assert audit(sources=sources)["stamp"] == audit(sources=sources)["stamp"]
    (tmp_path / changed).write_bytes((cohort.parent / "S1.tif").read_bytes())
    with pytest.raises(StaleArtefactError, match="differs"):
        audit(sources=sources)


@pytest.mark.slow
@pytest.mark.usefixtures("_counts_tissue")
def test_what_is_not_asked_about_is_counted_by_its_reason(
    typed: Callable[..., int], cohort: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half, thin = np.zeros((128, 128), np.bool_), np.zeros((832, 32), np.bool_)
    half[:, :65] = True  # four columns of 8 full patches, and one with a sixteenth of tissue
    thin[:, 15:17] = True  # 104 patches with a sixteenth
    for name, tissue in {"half": half, "thin": thin}.items():
        grain = np.random.default_rng(0).integers(0, 8, (3, *tissue.shape), np.uint8)
        write_rgb_pyramid(tmp_path / f"{name}.tif", h_and_e(tissue) + grain, levels=1)
    slides = [tmp_path / "half.tif", tmp_path / "thin.tif", cohort.parent / "S0.tif"]
    rows = [(path.stem, path.stem, path) for path in slides]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "path"]).to_csv(tmp_path / "slides.csv", index=False)
    assert typed("audit-model", model, tmp_path / "slides.csv", "-o", tmp_path / "out", "--per-slide", "20") == 0
    result, text = read_json(tmp_path / "out" / stage.RESULT), capsys.readouterr().out
    asked, left_out = pd.read_csv(tmp_path / "out" / stage.TABLE)["slide_id"].value_counts(), result["left_out"]
    assert asked.to_dict() == {"half": 20, "S0": 20}
    assert left_out["with less than 10 % tissue"] >= 8 + 104
    assert left_out["not drawn"] >= 32 - 20
    assert result["patches"] + sum(left_out.values()) == result["given"]["patches"]
    assert (result["given"]["slides"], result["slides"], result["patients"]) == (3, 2, 2)
    assert f"asked about 40 of {result['given']['patches']} patches, 2 of 3 patients, 2 of 3 slides" in text
    assert result["little"]["patches"] >= 8 + 10  # of which only the answer is asked
    assert result["little"]["positive"] == 0
    assert stage.reliance_of(result, "model").adj is None  # of a verdict NOT KNOWN no measure is on the card


def test_patients_take_turns_where_patches_are_drawn() -> None:
    fractions, patients = np.full(260, 0.55), np.repeat(["A", "B", "C"], (240, 10, 10))
    rows = area_samples._spread(fractions, patients, 30, area_samples.BLANKS, np.random.default_rng(0))
    assert np.unique(patients[rows], return_counts=True)[1].tolist() == [10, 10, 10]


def test_a_patient_of_many_slides_does_not_outweigh_the_others(
    cohort: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, list[int]] = {"P": [], "Q": [], "R": []}
    sources = area_samples.find_sources([str(cohort.parent / "S0.tif")], out=tmp_path)
    assert isinstance(sources, Sequence)

    def count_drawn(_source: Any, about: dict[str, str], *, count: int, **_: Any) -> None:
        counts[about["patient_id"]].append(count)
        raise InputUnsupportedError("counted", remedy="none")

    monkeypatch.setattr(area_samples, "draw", count_drawn)
    rows = [replace(sources[0], slide_id=f"S{k}", patient_id=patient) for k, patient in enumerate("PPPPPPPPQR")]
    with pytest.raises(PathopatchError, match="counted"):
        stage.audit_model([model], rows, tmp_path, PredictConfig(device="cpu"), per_slide=20)
    assert counts == {"P": [5] * 8, "Q": [20], "R": [20]}  # at most twice what the median patient has


def test_the_threads_of_the_settings_are_used(
    typed: Callable[..., int], cohort: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = dict[str, Any]()
    load = stage.load_ensemble
    monkeypatch.setattr(
        stage, "load_ensemble", lambda models, **options: seen.update(options) or load(models, **options)
    )
    (tmp_path / "settings.toml").write_text("[predict]\nthreads = 1\n")
    command = ("audit-model", model, cohort.parent / "S0.tif", "-o", tmp_path, "--per-slide", "1")
    assert typed(*command, "--config", tmp_path / "settings.toml") == 0
    assert seen["threads"] == 1


def test_without_a_slide_that_opens_there_is_no_verdict(cohort: Path, model: Path, tmp_path: Path) -> None:
    sources = area_samples.find_sources([str(cohort.parent / "S8.tif")], out=tmp_path)
    with pytest.raises(PathopatchError, match="no slide could be asked about"):
        stage.audit_model([model], sources, tmp_path, PredictConfig(device="cpu"))
    assert not (tmp_path / stage.RESULT).exists()
