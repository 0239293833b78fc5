"""Existing patches: their list, their store, and the later stages on them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import cv2
import made_slides as made
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from read_page import Page
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.artefacts import read_table
from pathopatch.core.config import GroupsConfig, ReadyConfig, TileConfig, TrainConfig
from pathopatch.core.errors import (
    ChannelMismatchError,
    InputCorruptError,
    InputMissingError,
    InputTooLargeError,
    InputUnsupportedError,
    ModalityMismatchError,
    NonFiniteError,
    StaleArtefactError,
    TableError,
)
from pathopatch.core.files import read_json
from pathopatch.core.status import read_status
from pathopatch.groups import threshold_attributes
from pathopatch.models.bundle import read_spec
from pathopatch.patches.import_list import common_spec, read_image, read_list, read_tumor_mask
from pathopatch.patches.patch_import import tile_patches
from pathopatch.patches.store import PatchStore
from pathopatch.report import write_report
from pathopatch.report.collect import Study
from pathopatch.review.reviewed_cohort import open_cohort
from pathopatch.review.values import browser_facts
from pathopatch.stages.audit import audit_text
from pathopatch.stages.groups import form_groups
from pathopatch.stages.tile import import_patches
from pathopatch.stages.train import train_run

CONFIG = TileConfig()
GLASS, STAIN = 240, (90, 120, 180)
SPLITS = [("train", "train", "val", "test")[i // 2 % 12 // 2 % 4] for i in range(48)]  # by patient, both labels in each


def patch(tissue_px: int, *, side: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """White glass with one square of tissue, (H, W, 3)."""
    pixels = np.full((side, side, 3), GLASS, np.uint8)
    pixels[2 : 2 + tissue_px, 3 : 3 + tissue_px] = STAIN
    pixels[-1, -1] = GLASS - 1 - seed % 8, GLASS - seed // 8 % 64, GLASS - seed // 512  # no two files are equal
    return pixels


def made_set(folder: Path, *, columns: dict[str, list[Any]] | None = None, n: int = 48) -> Path:
    """n patches of 12 patients, the odd ones tumour, with 4 to 25 px of tissue; returns the list."""
    rows = []
    for number in range(n):
        Image.fromarray(patch(4 + 3 * (number % 8), seed=number)).save(folder / f"{number}.png")
        rows.append({"path": f"{number}.png", "label": number // 2 % 2, "patient_id": f"p{number // 2 % 12}"})
    pd.DataFrame(rows).assign(**(columns or {})).to_csv(folder / "patches.csv", index=False)
    return folder / "patches.csv"


def write_list(folder: Path, text: str) -> Path:
    for name in "abc":
        Image.fromarray(patch(8, seed=ord(name))).save(folder / f"{name}.png")
    (folder / "l.csv").write_text(text, encoding="utf-8-sig")
    return folder / "l.csv"


def test_store_and_table_hold_each_patch_its_tissue_and_its_list_cells(tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    made_set(source, columns={"split": SPLITS})
    result, row = tile_patches(source, CONFIG, tmp_path / "work")
    assert (result.slide_id, result.patches, result.state) == ("set", 48, "done")
    table = read_table(tmp_path / "work" / "patches" / "set.parquet")
    assert table["tissue_fraction"].tolist() == [(4 + 3 * (i % 8)) ** 2 / 32**2 for i in range(48)]
    assert table["label"].tolist() == [i // 2 % 2 for i in range(48)]
    assert table["patient_id"].nunique() == 12
    assert table["path"].tolist() == [f"{i}.png" for i in range(48)]
    store = PatchStore(tmp_path / "work" / "slides" / "set.zarr")
    assert store.rows(table["patch_id"].tolist()).tolist() == list(range(48))
    assert table["patch_id"][8] == "set@32,32"  # the second of the second row of seven
    for number in (0, 8, 47):
        pixels = store.read(store.rows([table["patch_id"][number]]))[0]
        np.testing.assert_array_equal(pixels.transpose(1, 2, 0), patch(4 + 3 * (number % 8), seed=number))
    assert (row["channels"], row["dtype"], row["mpp"]) == ("R,G,B", "uint8", None)


def test_a_second_run_does_nothing_and_another_image_or_label_is_stale(tmp_path: Path) -> None:
    source, work = made_set(tmp_path), tmp_path / "work"
    tile_patches(source, CONFIG, work)
    assert tile_patches(source, CONFIG, work)[0].state == "current"
    Image.fromarray(patch(20, seed=999)).save(tmp_path / "3.png")
    with pytest.raises(StaleArtefactError, match="images"):
        tile_patches(source, CONFIG, work)
    assert tile_patches(source, CONFIG, work, force=True)[0].state == "done"
    source.write_text(source.read_text().replace("0.png,0", "0.png,1"))
    with pytest.raises(StaleArtefactError, match="list"):
        tile_patches(source, CONFIG, work)


def test_a_set_is_the_same_by_whichever_folder_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, work = made_set(tmp_path), tmp_path / "work"
    monkeypatch.chdir(tmp_path)
    import_patches(Path(source.name), work, CONFIG)
    form_groups(work, GroupsConfig())
    import_patches(source, work, CONFIG)
    form_groups(work, GroupsConfig())  # neither stale nor made again


def test_sixteen_bit_channels_get_one_window_for_the_set(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(9):
        pixels = generator.normal(100, 2, (2, 32, 32))
        pixels[0, 4:12, 4 : 12 + number] = 1000 + number
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels.astype(np.uint16), photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
    rows = "".join(f"{n}.tif,{n % 2},p{n}\n" for n in range(9))
    source = write_list(tmp_path, "path,label,patient_id\n" + rows)
    tile_patches(source, CONFIG, tmp_path / "work", ready=ReadyConfig(mpp=0.5))
    store = PatchStore(tmp_path / "work" / "slides" / "l.zarr")
    assert (store.attributes["background"], store.attributes["target_mpp"]) == ("dark", 0.5)
    assert store.windows[0] == pytest.approx([1000, 1008], abs=1)
    fractions = read_table(tmp_path / "work" / "patches" / "l.parquet")["tissue_fraction"]
    assert fractions.tolist() == [8 * (8 + n) / 1024 for n in range(9)]


def problems(source: Path) -> list[tuple[str, int | None, str]]:
    with pytest.raises(TableError) as caught:
        read_list(source)
    return [(problem.code, problem.row, problem.column) for problem in caught.value.problems]


def test_all_problems_of_a_list_are_reported_at_once(tmp_path: Path) -> None:
    text = (
        "path,label,patient_id,split,tissue_fraction\na.png,1,p1,train,0.5\n\nb.png,2,p 2,rest,1.5\nx.png,0,p1,val,\n"
    )
    assert problems(write_list(tmp_path, text)) == [
        ("INPUT_UNSUPPORTED", 4, "label"),
        ("INPUT_UNSUPPORTED", 4, "patient_id"),
        ("INPUT_UNSUPPORTED", 4, "split"),
        ("INPUT_UNSUPPORTED", 4, "tissue_fraction"),
        ("INPUT_MISSING", 5, "path"),
        ("INPUT_UNSUPPORTED", 5, "tissue_fraction"),
        ("SPLIT_LEAKAGE", 5, "patient_id"),
    ]


def test_slides_and_blocks_of_a_list_come_into_the_groups(tmp_path: Path) -> None:
    blocks, slides = ([f"{name}{i // 2 % 12 // per}" for i in range(48)] for name, per in (("array", 2), ("S", 1)))
    source, work = made_set(tmp_path, columns={"block": blocks, "slide_id": slides}), tmp_path / "work"
    import_patches(source, work, CONFIG)
    groups = form_groups(work, GroupsConfig(thresholds=(0.25,)), folds=3)
    assert (groups["block"].tolist(), groups["source_slide"].tolist()) == (blocks, slides)
    assert (groups.groupby("block")["fold"].nunique() == 1).all()
    assert groups["slide_id"].unique().tolist() == [tmp_path.name]  # the store that holds the pixels
    assert "6 blocks" in audit_text(work)
    assert Study(work).slides["slides"].tolist() == [12]  # all of the set are in one split, test


def test_slide_and_block_are_named_in_every_row_or_in_none(tmp_path: Path) -> None:
    text = "path,label,patient_id,slide_id,block\na.png,1,p1,S1,B\nb.png,0,p2,,B\nc.png,0,p3,../S,\n"
    assert problems(write_list(tmp_path, text)) == [
        ("INPUT_MISSING", 3, "slide_id"), ("INPUT_MISSING", 4, "block"), ("INPUT_UNSUPPORTED", 4, "slide_id"),
    ]  # fmt: skip


def test_one_image_under_two_patients_is_a_leak(tmp_path: Path) -> None:
    source = write_list(tmp_path, "path,label,patient_id\na.png,1,p1\nd.png,1,p2\n")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert problems(source) == [("SPLIT_LEAKAGE", 3, "path")]
    source.write_text(source.read_text().replace("p2", "p1"))
    assert len(read_list(source)) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label\na.png,1\n", ("INPUT_MISSING", None, "patient_id")),
        ("path,label,patient_id,mpp\na.png,1,p,1\n", ("INPUT_UNSUPPORTED", None, "mpp")),
        ("path,label,patient_id,tissue_fraction\na.png,1,p1,0_1\n", ("INPUT_UNSUPPORTED", 2, "tissue_fraction")),
        ("path,label,patient_id\n", ("INPUT_MISSING", None, "path")),
        ("path,label,patient_id\na.png,1,p1\na.png,1,p1\n", ("DUPLICATE_ID", 3, "path")),
        ("path,label,patient_id,split,block\na.png,1,p,train,B\nb.png,0,q,test,B\nc.png,0,r,test,C\n",
         ("SPLIT_LEAKAGE", 3, "block")),
    ],
)  # fmt: skip
def test_a_list_of_another_shape_or_with_one_contradiction_is_refused(
    tmp_path: Path, text: str, expected: tuple[str, int | None, str]
) -> None:
    assert problems(write_list(tmp_path, text)) == [expected]


def test_a_folder_needs_a_layout_with_class_and_patient(tmp_path: Path) -> None:
    for number, place in enumerate(("train/Tumor/p1", "val/non_tumor/p2", "val/tumor/p2")):
        (tmp_path / "set" / place).mkdir(parents=True)
        Image.fromarray(patch(8, seed=number)).save(tmp_path / "set" / place / "x.png")
        (tmp_path / "set" / place / "._x.png").write_bytes(b"what macOS leaves beside a file on a shared disk")
    table = read_list(tmp_path / "set")
    assert table["label"].tolist() == [1, 0, 1]
    assert table["patient_id"].tolist() == ["p1", "p2", "p2"]
    assert table["split"].tolist() == ["train", "val", "val"]
    Image.fromarray(patch(8)).save(tmp_path / "set" / "val" / "tumor" / "loose.png")
    with pytest.raises(InputUnsupportedError, match=r"1 images .* 'val/tumor/loose.png'"):
        read_list(tmp_path / "set")
    with pytest.raises(InputMissingError):
        read_list(tmp_path / "nowhere")


def test_images_that_differ_are_listed(tmp_path: Path) -> None:
    images = {"a": patch(8), "b": patch(8, seed=1), "c": patch(8, side=40), "d": patch(8)[..., 0]}
    files = [tmp_path / f"{name}.png" for name in images]
    for file, pixels in zip(files, images.values(), strict=True):
        Image.fromarray(pixels).save(file)
    with pytest.raises(ChannelMismatchError, match=r"2 patches are 32 x 32 px, R, G, B, uint8; 2 differ: c.png .40 x"):
        common_spec(files)
    assert "d.png (32 x 32 px, C0, uint8)" in str(pytest.raises(ChannelMismatchError, common_spec, files).value)


def test_an_image_that_is_no_patch_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(patch(8)[:20]).save(file)
    with pytest.raises(InputUnsupportedError, match="32 x 20 px"):
        common_spec([file])
    for mode, words in (("RGBA", "4 values"), ("P", "table of colours"), ("1", "1 bits")):
        Image.fromarray(patch(8)).convert(mode).save(file)
        with pytest.raises(InputUnsupportedError, match=words):
            common_spec([file])
    rgba = tmp_path / "a.tif"
    tifffile.imwrite(rgba, np.dstack([patch(8), patch(8)[..., :1]]), photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(InputUnsupportedError, match="without alpha"):
        common_spec([rgba])
    Image.fromarray(patch(8)).save(file)
    spec = common_spec([file])
    content = file.read_bytes()
    file.write_bytes(content[:60])
    with pytest.raises(InputCorruptError):
        read_image(file, spec)
    file.write_bytes(content[:16] + b"\0\x10\0\0" * 2 + content[24:])
    with pytest.raises(InputTooLargeError):
        common_spec([file])
    tifffile.imwrite(tmp_path / "n.tif", np.full((32, 32), np.nan, np.float32))
    with pytest.raises(NonFiniteError, match="1024 pixels"):
        read_image(tmp_path / "n.tif", common_spec([tmp_path / "n.tif"]))


def test_jpeg_patches_are_read_in_colour(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.jpg"), patch(20, side=64)[..., ::-1])
    spec = common_spec([tmp_path / "a.jpg"])
    pixels = read_image(tmp_path / "a.jpg", spec)
    assert np.abs(pixels[:, 6:18, 6:18].mean(axis=(1, 2)) - STAIN).max() < 3


TRAIN = TrainConfig(
    method="erm", input_px=8, steps=2, batch_per_class=2, evaluations=1, augment=False, threads=1, select="last",
    tune_threshold=False,
)  # fmt: skip


def test_the_command_takes_a_set_in_place_of_a_manifest(tmp_path: Path) -> None:
    command = ["tile", "-o", str(tmp_path / "work"), "--quiet", "--patches", str(made_set(tmp_path))]
    for wrong in (["m.csv"], ["--patch-px", "32"], ["--dry-run"]):
        assert CliRunner().invoke(app, [*command, *wrong]).exit_code == 2
    neither = CliRunner().invoke(app, command[:-2])
    assert (neither.exit_code, "MANIFEST or --patches" in neither.output) == (2, True)
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (0, "slides: 1 done\n")
    assert done.stderr.count("scale is unknown") == 1
    assert "1 current" in CliRunner().invoke(app, command).stdout


@pytest.mark.slow
def test_a_study_file_runs_a_set_to_its_report(tmp_path: Path) -> None:
    own = ["ink" if i % 3 else "clean" for i in range(48)]
    made_set(tmp_path, columns={"split": SPLITS, "attribute": own})
    train = TRAIN.model_dump(mode="json", include={"input_px", "steps", "batch_per_class", "evaluations", "threads"})
    settings = "\n".join(f"{key} = {value}" for key, value in train.items())
    (tmp_path / "study.toml").write_text(
        'patches = "patches.csv"\nwork = "work"\nmethods = ["erm"]\n'
        f"[groups]\nthresholds = [0.25]\n[evaluate]\nbootstrap = 0\n[train]\n{settings}\n"
    )
    done = CliRunner().invoke(app, ["run", str(tmp_path / "study.toml"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert "Groups by the patches' own attribute" in done.stdout
    assert "Groups: 0 non-tumour, clean; 1 non-tumour, ink; 2 tumour, clean; 3 tumour, ink." in done.stdout
    page = (tmp_path / "work" / "report" / "index.html").read_text()
    assert "tumour, ink" in page
    assert "1 slide of 12 patients" in page
    assert re.search(r"<th[^>]*>test</th><td[^>]*>1</td><td[^>]*>2</td><td[^>]*>8</td>", page)
    assert not (tmp_path / "work" / "predictions").exists()


@pytest.mark.parametrize("values", [("10", "9"), ("ink", "clean", "fold")])
def test_a_lists_own_attribute_replaces_the_tissue(tmp_path: Path, values: tuple[str, ...]) -> None:
    own = [values[i % len(values)] for i in range(48)]
    own[5] = ""
    source, work = made_set(tmp_path, columns={"split": SPLITS, "attribute": own}), tmp_path / "work"
    (outcome,) = import_patches(source, work, CONFIG)
    assert (outcome.state, outcome.counts) == ("done", {"patches": 48})
    table = form_groups(work, GroupsConfig())
    assert table["split"].tolist() == SPLITS
    order = {"9": 0, "10": 1, "clean": 0, "fold": 1, "ink": 2}
    expected = [order.get(value, -1) for value in own]
    for threshold in ("0.25", "0.5"):
        assert table[f"attribute@{threshold}"].tolist() == expected
        groups = [-1 if a < 0 else len(values) * (i // 2 % 2) + a for i, a in enumerate(expected)]
        assert table[f"group@{threshold}"].tolist() == groups
    text = audit_text(work)
    assert all(value in text for value in values)
    assert "tissue  " not in text
    validation = read_json(train_run(work, TRAIN) / "run.json")["validation"]
    assert f"accuracy of label 1, attribute {len(values) - 1}" in validation


def test_stated_tissue_fractions_are_kept_beside_the_masks_that_were_measured_in_a_store(tmp_path: Path) -> None:
    source = made_set(tmp_path, columns={"tissue_fraction": [i / 100 for i in range(48)]})
    tile_patches(source, CONFIG, tmp_path / "work")
    table = read_table(next((tmp_path / "work" / "patches").iterdir()))
    assert table["tissue_fraction"].tolist() == [i / 100 for i in range(48)]
    assert math.isnan(table["tumor_fraction"][0])
    with pytest.raises(InputUnsupportedError, match="store"):
        tile_patches(source, TileConfig(store="none"), tmp_path / "other")
    store = PatchStore(next((tmp_path / "work" / "slides").glob("*.zarr")))
    masks = store.masks(range(48), "tissue")
    for number, mask in enumerate(masks):
        expected = np.zeros((32, 32), bool)
        side = 4 + 3 * (number % 8)
        expected[2 : 2 + side, 3 : 3 + side] = True
        np.testing.assert_array_equal(mask, expected)
    assert not store.has_masks("tumor")


def with_tumor_masks(folder: Path, *, scale: int = 1) -> Path:
    """A set whose patches have tumour in their first columns, as many as their number modulo 16; returns the list."""
    names = []
    for number in range(48):
        mask = np.zeros((32 // scale, 32 // scale), np.uint8)
        mask[:, : number % 16] = 255
        Image.fromarray(mask).save(folder / f"mask-{number}.png")
        names.append(f"mask-{number}.png")
    return made_set(folder, columns={"tumor_mask": names})


@pytest.mark.parametrize("scale", [1, 2])
def test_tumour_masks_of_a_list_come_into_store_and_table(tmp_path: Path, scale: int) -> None:
    source, work = with_tumor_masks(tmp_path, scale=scale), tmp_path / "work"
    tile_patches(source, CONFIG, work)
    store = PatchStore(next((work / "slides").glob("*.zarr")))
    table = read_table(next((work / "patches").iterdir()))
    assert table["tumor_fraction"].tolist() == [i % 16 * scale / 32 for i in range(48)]
    columns = np.arange(32)[None] < np.arange(48)[:, None] % 16 * scale
    np.testing.assert_array_equal(store.masks(range(48), "tumor"), columns[:, None, :].repeat(32, axis=1))
    assert "tumor_mask" not in table
    assert tile_patches(source, CONFIG, work)[0].state == "current"
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "mask-3.png")
    with pytest.raises(StaleArtefactError, match="tumor_masks"):
        tile_patches(source, CONFIG, work)


def test_a_tumour_mask_is_cropped_and_resized_with_its_patch(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 48, 3), 200, np.uint8)).save(tmp_path / "wide.png")
    mask = np.zeros((8, 24), np.uint8)  # half its scale
    mask[:, 8:12] = 255  # the left half of the middle
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = tmp_path / "mask.png", tmp_path / "wide.png"
    crop = read_tumor_mask(*files, common_spec([files[1]], ReadyConfig(px=12)))
    assert crop.tolist() == [[True] * 6 + [False] * 6] * 12


def test_a_list_names_a_tumour_mask_for_all_patches_or_none_and_each_must_fit(tmp_path: Path) -> None:
    source = with_tumor_masks(tmp_path)
    text = source.read_text()
    source.write_text(text.replace("mask-3.png", "").replace("mask-5.png", "gone.png"))
    assert problems(source) == [("INPUT_MISSING", 5, "tumor_mask"), ("INPUT_MISSING", 7, "tumor_mask")]
    source.write_text(text)
    Image.fromarray(np.zeros((32, 24), np.uint8)).save(tmp_path / "mask-3.png")
    with pytest.raises(ModalityMismatchError, match="mask is 24 x 32 px and the patch 32 x 32 px"):
        tile_patches(source, CONFIG, tmp_path / "work")


@pytest.mark.real
def test_real_patches_of_lung_are_split_by_their_source_tile(tmp_path: Path, real_data: Path) -> None:
    listed = pd.read_csv(real_data / "lung" / "patches.csv")
    chosen = pd.concat([part[part["patient_id"].isin(part["patient_id"].unique()[::41][:6])]
                        for _, part in listed.groupby("label")])  # fmt: skip
    chosen["path"] = [str(real_data / "lung" / path) for path in chosen["path"]]
    chosen.to_csv(tmp_path / "lung.csv", index=False)
    import_patches(tmp_path / "lung.csv", tmp_path / "work", CONFIG)
    table = form_groups(tmp_path / "work", GroupsConfig(thresholds=(0.5,)))
    assert len(table) == len(chosen)
    assert table.groupby("patient_id")["split"].nunique().max() == 1
    assert table.groupby("split")["patient_id"].nunique().to_dict() == {"test": 2, "train": 8, "val": 2}
    means = table.groupby("label")["tissue_fraction"].mean()
    assert means[1] > means[0] + 0.1  # adenocarcinoma is dense, healthy lung mostly air
    store = PatchStore(tmp_path / "work" / "slides" / "lung.zarr")
    shown = cv2.imread(chosen["path"].iloc[7])[..., ::-1].astype(int)
    assert np.abs(store.read([7])[0].transpose(1, 2, 0) - shown).max() <= 3  # JPEG decoders differ by rounding


def test_images_of_several_sizes_are_cropped_to_one(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, :16], wide[:, 16:32], wide[:, 32:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    tall = np.zeros((48, 16, 3), np.uint8)
    tall[16:32] = (0, 200, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(tall).save(tmp_path / "tall.png")
    Image.fromarray(patch(8, side=8)).save(tmp_path / "small.png")
    files = [tmp_path / f"{name}.png" for name in ("wide", "tall", "small")]
    crop = common_spec(files, ReadyConfig(px=16))
    assert str(crop) == "16 x 16 px, R, G, B, uint8"
    for file in files[:2]:
        np.testing.assert_array_equal(read_image(file, crop)[1], 200)  # the green middle alone
        np.testing.assert_array_equal(read_image(file, crop)[[0, 2]], 0)
    assert read_image(files[2], crop).shape == (3, 16, 16)
    tifffile.imwrite(tmp_path / "g.tif", np.arange(64, dtype=np.float32).reshape(8, 8))
    grey = read_image(tmp_path / "g.tif", common_spec([tmp_path / "g.tif"], ReadyConfig(px=8)))
    np.testing.assert_array_equal(grey[0].ravel(), np.arange(64))
    with pytest.raises(ChannelMismatchError, match="differ"):
        common_spec([*files, tmp_path / "g.tif"], ReadyConfig(px=16))


def test_the_size_is_part_of_a_sets_stamp(tmp_path: Path) -> None:
    source, work = made_set(tmp_path), tmp_path / "work"
    command = ["tile", "-o", str(work), "--quiet", "--patches", str(source)]
    assert CliRunner().invoke(app, [*command, "--resize-px", "16"]).exit_code == 0
    assert PatchStore(next((work / "slides").glob("*.zarr"))).attributes["patch_px"] == 16
    other = CliRunner().invoke(app, [*command, "--resize-px", "24"])
    assert isinstance(other.exception, StaleArtefactError)
    wrong = ["tile", "m.csv", "-o", str(work), "--resize-px", "24"]
    assert CliRunner().invoke(app, wrong).exit_code == 2
    small = CliRunner().invoke(app, [*command, "--resize-px", "4"])
    assert small.exit_code == 2


@pytest.mark.parametrize(("side", "is_told"), [(32, True), (80, False)])
def test_the_audit_names_a_network_from_scratch_for_small_patches(tmp_path: Path, side: int, is_told: bool) -> None:
    label = np.arange(48) % 2
    for number in range(48):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((side, side, 3), 60 + number, np.uint8))
    paths, patients = [f"{i}.png" for i in range(48)], [f"p{i}" for i in range(48)]
    table = pd.DataFrame({"path": paths, "label": label, "patient_id": patients, "tissue_fraction": 0.2 + 0.6 * label})
    table.assign(split=SPLITS).to_csv(tmp_path / "set.csv", index=False)
    import_patches(tmp_path / "set.csv", tmp_path / "work", CONFIG)
    form_groups(tmp_path / "work", GroupsConfig(thresholds=(0.5,)))
    text = audit_text(tmp_path / "work")
    assert text.startswith("SHORTCUT")
    assert ("--method auto --mask normalise" in text) == is_told


def test_labels_may_have_names_of_their_own_one_each(tmp_path: Path) -> None:
    named = ["bird" if i // 2 % 2 else "plane" for i in range(48)]
    own = ["ink" if i % 3 else "clean" for i in range(48)]
    source = made_set(tmp_path, columns={"split": SPLITS, "attribute": own, "label_name": named})
    import_patches(source, tmp_path / "work", CONFIG)
    table = form_groups(tmp_path / "work", GroupsConfig())
    assert threshold_attributes(table)[0].group_names == ("plane, clean", "plane, ink", "bird, clean", "bird, ink")
    text = audit_text(tmp_path / "work")
    assert "plane" in text
    assert "non-tumour" not in text
    source.write_text(source.read_text().replace("plane", "ship", 1))
    reported = problems(source)
    assert {(code, column) for code, _, column in reported} == {("INPUT_UNSUPPORTED", "label_name")}


@pytest.mark.parametrize(
    ("sizes", "ready", "mpp"),
    [
        ([(32, 32), (32, 32)], {}, 0.5),  # as they are
        ([(32, 32), (32, 32)], {"px": 16}, 1.0),  # two of their px in one
        ([(48, 32), (32, 40)], {"px": 64}, 0.25),  # a middle of 32 px each, in twice as many
        ([(32, 32), (40, 40)], {"px": 16}, None),  # each image by its own factor
    ],
)
def test_the_patches_mpp_is_known_where_all_images_shrink_alike(
    tmp_path: Path, sizes: list[tuple[int, int]], ready: dict[str, Any], mpp: float | None
) -> None:
    rng = np.random.default_rng(0)
    for name, (width, height) in zip("ab", sizes, strict=True):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "l.csv").write_text("path,label,patient_id\na.png,0,p1\nb.png,1,p2\n")
    result, row = tile_patches(tmp_path / "l.csv", CONFIG, tmp_path / "work", ready=ReadyConfig(mpp=0.5, **ready))
    attributes = PatchStore(tmp_path / "work" / "slides" / "l.zarr").attributes
    assert (attributes["mpp"], attributes["target_mpp"], row["mpp"]) == (mpp, mpp, mpp)
    assert len(result.warnings) == (mpp is None)
    assert all("by different factors" in warning for warning in result.warnings)


def test_a_set_without_a_stated_mpp_gives_a_warning(tmp_path: Path) -> None:
    source = made_set(tmp_path)
    result, _ = tile_patches(source, CONFIG, tmp_path / "unknown")
    assert ["it is not stated" in warning for warning in result.warnings] == [True]
    assert read_status(tmp_path / "unknown", result.slide_id)["tile"]["warnings"] == list(result.warnings)
    assert tile_patches(source, CONFIG, tmp_path / "unknown")[0].warnings == result.warnings  # current, still unknown
    command = ["tile", "-o", str(tmp_path / "known"), "--quiet", "--patches", str(source), "--mpp", "0.25"]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert PatchStore(next((tmp_path / "known" / "slides").glob("*.zarr"))).attributes["target_mpp"] == 0.25
    with pytest.raises(StaleArtefactError):  # another scale is another set
        tile_patches(source, CONFIG, tmp_path / "known", ready=ReadyConfig(mpp=0.5))
    with pytest.raises(InputUnsupportedError, match=r"target of 0\.5 um/px"):
        tile_patches(source, TileConfig(mpp=0.5), tmp_path / "other")


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_predictions_at_an_unknown_scale_carry_a_warning_everywhere(tmp_path: Path, mpp: float | None) -> None:
    source, work, out = made_set(tmp_path, columns={"split": SPLITS}), tmp_path / "work", tmp_path / "out"
    import_patches(source, work, CONFIG, ready=ReadyConfig(mpp=mpp))
    form_groups(work, GroupsConfig(thresholds=(0.25,)))
    bundle = train_run(work, TRAIN) / "model"
    assert read_spec(bundle).mpp == mpp
    made.write_rgb_pyramid(tmp_path / "s.tif", np.full((3, 64, 64), 200, np.uint8), levels=1, mpp=0.5)
    (tmp_path / "all.toml").write_text("[predict]\nall_patches = true\n")
    typed = ["predict", tmp_path / "s.tif", "--model", bundle, "-o", out, "--quiet", "--config", tmp_path / "all.toml"]
    outcome = CliRunner().invoke(app, list(map(str, typed)))
    assert outcome.exit_code == 0, outcome.output
    cohort = open_cohort(out)
    page = Page(write_report(out))
    places = {
        "card": (bundle / "README.md").read_text(),
        "command": outcome.stderr,
        "status": str(read_status(out, "s")["predict"]["warnings"]),
        "heatmap.json": str(read_json(out / "heatmaps" / "s" / "heatmap.json")["warnings"]),
        "cohort.csv": str(pd.read_csv(out / "cohort.csv").loc[0, "warnings"]),
        "report": page.text,
        "review table": str(cohort.rows()[0]["warnings"]),
        "review page": str(browser_facts(cohort.open("s"))["warnings"]),
    }
    warned = [name for name, text in places.items() if "scale is unknown" in text or "are unknown" in text]
    assert warned == ([] if mpp else list(places))
    assert read_json(out / "heatmaps" / "s" / "heatmap.json")["model_mpp"] == mpp
