"""A pack of edited patches: what is sent tells nothing, and answers get the verdict of a model that can be loaded."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from array_slides import write_he_cohort
from made_model import made_spec
from numpy.typing import NDArray

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import PredictConfig, TileConfig
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.core.files import read_json
from pathopatch.models.bundle import save_bundle
from pathopatch.models.networks import build_network
from pathopatch.stages import audit_model as stage
from pathopatch.stages import pack as packs
from pathopatch.stages.area_samples import find_sources
from pathopatch.stages.pack import make_pack
from pathopatch.stages.tile import import_patches, tile_cohort

PX = 32
MTIME = 946684800  # 2000-01-01


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_he_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def pack(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 108 patches, in few edits each."""
    out = tmp_path_factory.mktemp("packs") / "pack"
    make_pack(find_sources([str(cohort)], out=out), out, TileConfig(patch_px=PX), images=600, seed=0)
    return out


def stained(pixels: NDArray[Any]) -> float:
    """Share of tissue of an image (H, W, 3) of uint8 or a patch (3, H, W) in [0, 1]."""
    grey = pixels.mean(axis=0) * 255 if pixels.dtype != np.uint8 else pixels.mean(axis=-1)
    return float((grey < 200).mean())


def logits(pack: Path, answer: Callable[[float], float]) -> pd.DataFrame:
    table = pd.read_csv(pack / "send" / "answers.csv", dtype=str)
    shares = [stained(np.asarray(cv2.imread(str(pack / "send/images" / name)))) for name in table["image"]]
    return table.assign(score=[answer(share) for share in shares])


def follows(share: float) -> float:
    return 10 * (share - 0.5)


def test_what_is_sent_tells_nothing_of_slide_area_or_edit(pack: Path) -> None:
    send, key = pack / "send", read_table(pack / "key.parquet")
    files = sorted((send / "images").iterdir())
    assert sorted(key["image"]) == [file.name for file in files]
    assert {(file.stat().st_size, file.stat().st_mtime) for file in files} == {(files[0].stat().st_size, MTIME)}
    assert {file.name for file in send.iterdir()} == {
        "images", "answers.csv", "README.txt", "mosaic.ome.tif", "mosaic.svs",
    }  # fmt: skip
    assert all(file.stat().st_mtime == MTIME for file in send.iterdir() if file.is_file())
    # Nor the order of writing, in which a file system may list them: that of their names.
    assert files == sorted(files, key=lambda file: (file.stat().st_ctime_ns, file.name))
    assert {chunk for file in files for chunk in _chunks(file.read_bytes())} == {b"IHDR", b"IDAT", b"IEND"}
    # Names in order, patches at random: the correlation of ranks is that of chance.
    for column in ("patch", "edit", "area"):
        assert abs(key[column].rank().corr(pd.Series(range(len(key))))) < 0.12
    for name in ("S0", "P0", "area", "edit"):
        assert name not in (send / "README.txt").read_text().replace("edited", "")
    assert len((send / "README.txt").read_text().split()) <= 190


def _chunks(content: bytes) -> list[bytes]:
    found, place = [], 8
    while place < len(content):
        found.append(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4], "big")
    return found


def test_a_short_pack_has_so_many_images_and_every_kind_of_edit(pack: Path) -> None:
    key, about = read_table(pack / "key.parquet"), read_json(pack / "pack.json")
    assert 590 <= len(key) == about["images"] <= 645
    assert about["patches"] == key["patch"].max() + 1 >= 100
    edited = key[key["patch"] >= 0]
    assert set(edited["edit"]) == {0, 1, 3, 5, 11, 13, 15, 16, 17, 18}
    assert edited.duplicated(["patch", "edit"]).sum() == -(-about["patches"] // 10)
    assert set(key.loc[key["patch"] < 0, "area"] < 0.01) == {True, False}


@pytest.mark.parametrize("name", ["mosaic.ome.tif", "mosaic.svs"])
def test_the_mosaic_holds_each_image_at_its_place_amid_ground(pack: Path, name: str) -> None:
    key = read_table(pack / "key.parquet")
    with tifffile.TiffFile(pack / "send" / name) as file:
        whole = file.series[0].asarray()
        assert len(file.series[0].levels) > 1 or name.endswith(".svs")
    for image, x, y in key[["image", "x", "y"]].itertuples(index=False):
        assert x % PX == y % PX == 0
        pixels = cv2.imread(str(pack / "send/images" / image))
        assert pixels is not None
        assert np.array_equal(whole[y : y + PX, x : x + PX], pixels[..., ::-1])
        assert stained(np.ascontiguousarray(whole[y - PX // 2 : y, x : x + PX])) < 0.02
    if name.endswith(".svs"):
        with openslide.OpenSlide(str(pack / "send" / name)) as slide:
            assert slide.level_count == 2
            assert float(slide.properties["openslide.mpp-x"]) == 0.5
            x, y = key[["x", "y"]].iloc[7]
            seen = np.asarray(slide.read_region((x, y), 0, (PX, PX)))[..., :3]
        assert np.array_equal(seen, whole[y : y + PX, x : x + PX])


def test_a_full_pack_gets_the_verdict_and_eta_of_the_same_model_loaded(
    cohort: Path, tmp_path: Path, typed: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def margins(_ensemble: Any) -> Callable[..., NDArray[np.float64]]:
        return lambda x, _: np.array([3 * stained(patch) + 40 * float(patch.std()) - 7 for patch in x])

    monkeypatch.setattr(stage, "margins_of", margins)
    monkeypatch.setattr(packs, "FULL", 900)  # a full one asks about 109 patches, this one about 48
    tile_cohort(cohort, tmp_path / "work", TileConfig(patch_px=PX))
    per_slide = -(-packs.patches_of(900) // 9)
    network, spec = build_network("small-groupnorm", 3), made_spec(PX, background="bright")
    save_bundle(tmp_path / "model", network, spec)
    config = PredictConfig(device="cpu")
    models, work = [tmp_path / "model"], tmp_path / "work"
    loaded = stage.audit_model(models, work, tmp_path / "loaded", config, per_slide=per_slide)
    about = make_pack(tmp_path / "work", tmp_path / "pack", TileConfig(), images=900, seed=0)
    assert about["patches"] == loaded["patches"]
    table = pd.read_csv(tmp_path / "pack/send/answers.csv", dtype=str)
    asked = []
    for name in table["image"]:
        pixels = cv2.imread(str(tmp_path / "pack/send/images" / name))
        assert pixels is not None
        asked.append(margins(None)(pixels[None, ..., ::-1].transpose(0, 3, 1, 2) / 255.0, None)[0])
    table.assign(score=asked).to_csv(tmp_path / "answers.csv", index=False)
    command = ("audit-model", "--answers", tmp_path / "answers.csv", "--pack", tmp_path / "pack")
    assert typed(*command, "--answers-are", "logit", "-o", tmp_path / "asked") == 0
    answered = read_json(tmp_path / "asked" / stage.RESULT)
    assert answered["verdict"] == loaded["verdict"]
    assert answered["eta"]["value"] == pytest.approx(loaded["eta"]["value"], abs=0.01)
    assert answered["adj"]["value"] == pytest.approx(loaded["adj"]["value"], rel=0.01)
    assert answered["answers"]["twice"] == answered["answers"]["alike"] > 0
    page = (tmp_path / "asked" / stage.PAGE).read_text()
    assert page.count("data:image/png") == 12 * 6 + 1


@pytest.mark.parametrize("shares", [(0.1,), pytest.param((0.05, 0.15, 0.3), marks=pytest.mark.slow)])
def test_answers_without_information_are_never_acquitted_and_forms_keep_the_verdict(
    pack: Path, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "pipelines" / "area-reliance"))
    script = importlib.import_module("without_information")
    found = pd.DataFrame(script.judged(pack, tables=1 if shares == (0.1,) else 4, tumour=shares))
    found[["kind", "form"]] = found["kind"].str.split(", ", expand=True)
    is_program = found["kind"].isin(list(script.SLOPES))
    assert set(found.loc[~is_program, "verdict"]) == {"not known"}
    by_form = found[is_program].pivot(index=["kind", "tumour", "seed"], columns="form", values="verdict")
    for form in ("probability", "two decimals", "8 bits"):
        assert ((by_form[form] == by_form["logit"]) | (by_form[form] == "not known")).all()
    assert {"not shown", "relies"} <= set(by_form["8 bits"])


def test_answers_out_of_order_are_asked_about(pack: Path, tmp_path: Path, typed: Callable[..., int]) -> None:
    table = logits(pack, lambda share: share)
    table["score"] = np.random.default_rng(0).choice(["yes", "no", "no", "no", "no"], len(table))
    table.to_csv(tmp_path / "answers.csv", index=False)
    out, command = tmp_path / "asked", ("audit-model", "--answers", tmp_path / "answers.csv", "--pack", pack)
    assert typed(*command, "-o", out, "--decision", "nan") == 1
    assert typed(*command, "-o", out) == 0
    result = read_json(out / stage.RESULT)
    assert (result["verdict"], result["answers"]["agreement"]["pairs"]) == ("not known", 11 + 27 + 27)
    assert result["reasons"][0].endswith("are the rows in order?")
    assert abs(result["answers"]["agreement"]["value"]) < 0.3
    page = (out / stage.PAGE).read_text()
    assert "kappa" in page
    assert "yes and no see less than scores" in page


@pytest.mark.parametrize("form", ["probability", "words", "places", "geojson"])
def test_answers_of_any_form_get_the_verdict(
    pack: Path, tmp_path: Path, typed: Callable[..., int], capsys: pytest.CaptureFixture[str], form: str
) -> None:
    table, options = logits(pack, follows), ["--fail-on", "relies"]
    answers = tmp_path / "answers.csv"
    if form == "probability":
        table["score"] = [f"{1 / (1 + np.exp(-z)):.3f}" for z in table["score"]]
    elif form == "words":
        table["score"] = np.where(table["score"] > 0, "Krebs", "keiner")
        options += ["--yes", "krebs"]
    if form in ("probability", "words"):
        table.to_csv(answers, index=False)
    else:
        key = read_table(pack / "key.parquet")
        key = key.assign(score=table["score"].to_numpy())  # both in the order of names
        boxes = [(x + 3, y - 2, PX, PX, 1 / (1 + np.exp(-z))) for x, y, z in key[["x", "y", "score"]].to_numpy()]
        boxes += [(0, 0, PX, PX, 0.5), (10**6, 0, PX, PX, 0.5)]  # ground, and beside the slide
        if form == "places":
            names = ["minx", "miny", "width", "height", "prob_tumour"]
            pd.DataFrame(boxes, columns=names).sample(frac=1, random_state=0).to_csv(answers, index=False)
        else:
            answers = tmp_path / "answers.geojson"
            answers.write_text(json.dumps({"features": [_feature(*box) for box in boxes]}))
            options += ["--score", "prob_tumour"]
    assert typed("audit-model", "--answers", answers, "--pack", pack, "-o", tmp_path / "asked", *options) == 1
    text = capsys.readouterr().out
    assert "RELIES ON AREA: more tissue, more tumour" in text
    result = read_json(tmp_path / "asked" / stage.RESULT)
    assert result["areas"] == [0.1, 0.5, 0.9]
    assert result["answers"]["kind"] == ("yes-no" if form == "words" else "probability")
    if form in ("places", "geojson"):
        assert result["answers"]["overlap"] == pytest.approx(29 * 30 / (2 * 32**2 - 29 * 30))


def _feature(x: float, y: float, width: int, height: int, value: float) -> dict[str, Any]:
    ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
    measured = {"prob_tumour": value, "prob_other": 1 - value}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "tumour"}, "measurements": measured},
    }


def test_another_pack_is_refused_and_a_seed_that_is_not_given_is_not_guessed(cohort: Path, tmp_path: Path) -> None:
    sources, config = find_sources([str(cohort)], out=tmp_path), TileConfig(patch_px=PX)
    first = make_pack(sources, tmp_path / "pack", config, images=100)
    assert make_pack(sources, tmp_path / "pack", config, images=100) == first  # finished
    assert make_pack(sources, tmp_path / "again", config, images=100)["seed"] != first["seed"]
    names = [read_table(tmp_path / name / "key.parquet")["image"].tolist() for name in ("pack", "again")]
    assert not set(names[0]) & set(names[1])
    assert len({name.partition("-")[0] for name in names[0]}) == 1
    with pytest.raises(Exception, match="images was 100, is 200"):
        make_pack(sources, tmp_path / "pack", config, images=200)
    with pytest.raises(InputUnsupportedError, match="99 images"):
        make_pack(sources, tmp_path / "other", config, images=99)


def test_each_ready_patch_lies_amid_its_own_ground(tmp_path: Path) -> None:
    rows = []
    for number in range(24):
        pixels = np.full((PX, PX, 3), 250 - 3 * number, np.uint8)
        pixels[4 : 12 + number % 8, 4:20] = 120, 60, 150
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        rows.append({"path": f"{number}.png", "label": number % 2, "patient_id": f"p{number // 2}"})
    pd.DataFrame(rows).to_csv(tmp_path / "patches.csv", index=False)
    import_patches(tmp_path / "patches.csv", tmp_path / "work", TileConfig())
    make_pack(tmp_path / "work", tmp_path / "pack", images=100, seed=0)
    key = read_table(tmp_path / "pack" / "key.parquet")
    whole = tifffile.imread(tmp_path / "pack" / "send" / "mosaic.svs")
    for x, y in key.loc[key["edit"] == 0, ["x", "y"]].to_numpy():
        assert abs(int(whole[y, x, 0]) - float(whole[y - PX // 2 : y, x : x + PX].mean())) <= 1
