"""Sets with an attribute of their own, as they are published: converted by one line, run by one configuration."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from pathopatch.cli import app
from pathopatch.core.config import load_study
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.patches.import_list import read_list

FOLDER = Path(__file__).parents[2] / "pipelines" / "group-robustness"
sys.path.insert(0, str(FOLDER))
convert = import_module("convert")

GROUND = {0: (60, 120, 50), 1: (50, 90, 180)}  # land, water
# images of (y, place) in each split: birds are mostly at home in training, half and half in validation and test
COUNTS = {0: ((14, 4), (4, 14)), 1: ((4, 4), (4, 4)), 2: ((4, 4), (4, 4))}


def bird(y: int, place: int, rng: np.random.Generator) -> Image.Image:
    """A bright bird, high or broad, on green or blue ground; no two images have one size."""
    height, width = rng.integers(36, 52, 2)
    pixels = np.clip(GROUND[place] + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    top, left = height // 2 - 12, width // 2 - 12
    long, short = slice(0, 24), slice(9, 15)
    rows, columns = (long, short) if y else (short, long)
    pixels[top : top + 24, left : left + 24][rows, columns] = (220, 200, 180)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def waterbirds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made folder in the published layout."""
    folder, rng = tmp_path_factory.mktemp("set") / "waterbirds", np.random.default_rng(0)
    rows = []
    for split, cells in COUNTS.items():
        for y, places in enumerate(cells):
            for place, n in enumerate(places):
                for _ in range(n):
                    number = len(rows) + 1
                    name = f"{number:03d}.Some_bird/Some_Bird_{number:04d}.jpg"
                    (folder / name).parent.mkdir(parents=True)
                    bird(y, place, rng).save(folder / name, quality=95)
                    rows.append((number, name, y, split, place, f"/o/{'ocean' if place else 'forest'}/{number}.jpg"))
    columns = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)
    return folder


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


@pytest.mark.slow
def test_from_the_published_folder_to_the_report_by_the_command_line(
    waterbirds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, work = tmp_path / "waterbirds.csv", tmp_path / "work"
    assert convert.main(["waterbirds", str(waterbirds), "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[4:8] == [
        "train  landbird, land: 14",
        "train  landbird, water: 4",
        "train  waterbird, land: 4",
        "train  waterbird, water: 14",
    ]
    invoke("tile", "--patches", out, "-o", work, "--resize-px", 24, "--quiet")
    output = invoke("groups", work, "--threshold", 0.5)
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "split label land water" in lines
    assert "train landbird 14 / 14 77.8% 4 / 4 22.2%" in lines
    assert "test waterbird 4 / 4 50.0% 4 / 4 50.0%" in lines
    (tmp_path / "small.toml").write_text(
        'patches = "waterbirds.csv"\nwork = "work"\n[train]\ninput_px = 24\nbatch_per_class = 8\nevaluations = 2\n'
        "threads = 1\naugment = false\nlearning_rate = 3e-3\n"
    )
    for method in ("erm-balanced", "gerne"):
        invoke("train", work, "--method", method, "--threshold", 0.5, "--config", tmp_path / "small.toml",
               "--steps", 40, "--trials", 2, "--quiet")  # fmt: skip
    compared = invoke("evaluate", work, "--quiet")
    assert "Groups: 0 landbird, land; 1 landbird, water; 2 waterbird, land; 3 waterbird, water." in compared
    assert "  2      80" in compared  # trials and steps of each
    table = pd.read_csv(work / "comparison.csv")
    assert table["gba"].max() >= 0.9  # high or broad is easy to see, so that something was learnt from the images
    invoke("report", work)
    page = (work / "report" / "index.html").read_text()
    for name in ("landbird, water", "waterbird, land"):
        assert name in page
    trials = pd.read_csv(work / "runs" / "gerne-t0.5-s0" / "trials.csv")
    assert (trials["wga_low"] <= trials["wga"]).all()


def test_celeba_has_its_groups_its_splits_and_its_persons(tmp_path: Path) -> None:
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba" / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 5)]
    for number, name in enumerate(names):
        Image.fromarray(np.full((22, 18, 3), 40 * number, np.uint8)).save(
            folder / "img_align_celeba" / "img_align_celeba" / name
        )
    traits = pd.DataFrame({"image_id": names, "Blond_Hair": [1, -1, 1, -1], "Male": [-1, -1, 1, 1]})
    traits.to_csv(folder / "list_attr_celeba.csv", index=False)
    pd.DataFrame({"image_id": names, "partition": [0, 0, 1, 2]}).to_csv(folder / "list_eval_partition.csv", index=False)
    convert.convert("celeba", folder, folder / "l.csv")
    patches = read_list(folder / "l.csv")
    assert patches["label"].tolist() == [1, 0, 1, 0]
    assert patches["label_name"].tolist() == ["blond", "not blond"] * 2
    assert patches["attribute"].tolist() == ["woman", "woman", "man", "man"]
    assert patches["split"].tolist() == ["train", "train", "val", "test"]
    assert patches["patient_id"].tolist() == ["000001", "000002", "000003", "000004"]
    assert patches["path"][0] == "img_align_celeba/img_align_celeba/000001.jpg"  # below the list's folder
    (folder / "identity_CelebA.txt").write_text("".join(f"{name} {7 + i // 2}\n" for i, name in enumerate(names)))
    persons = convert.convert("celeba", folder, folder / "l.csv")["patient_id"]
    assert persons.tolist() == ["person7", "person7", "person8", "person8"]


def test_bffhq_is_read_from_folders_and_names(tmp_path: Path) -> None:
    places = ("0.5pct/align/0/11_0_0", "0.5pct/conflict/1/12_1_0", "0.5pct/valid/13_1_1", "test/14_0_1")
    for number, place in enumerate(places):
        path = tmp_path / "bffhq" / f"{place}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((16, 16, 3), 50 * number, np.uint8)).save(path)
    convert.convert("bffhq", tmp_path / "bffhq", tmp_path / "l.csv")
    patches = read_list(tmp_path / "l.csv").sort_values("patient_id")
    assert patches["label"].tolist() == [0, 1, 1, 0]
    assert patches["attribute"].tolist() == ["woman", "woman", "man", "man"]
    assert patches["split"].tolist() == ["train", "train", "val", "test"]
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "bffhq" / "test" / "15_old.png")
    with pytest.raises(InputUnsupportedError, match=r"15_old\.png"):
        convert.convert("bffhq", tmp_path / "bffhq", tmp_path / "l.csv")


def test_files_that_differ_from_the_publication_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputMissingError, match=r"no metadata\.csv"):
        convert.convert("waterbirds", tmp_path, tmp_path / "l.csv")
    metadata = tmp_path / "metadata.csv"
    metadata.write_text("img_id,img_filename,y,split\n1,a.jpg,0,0\n")
    with pytest.raises(InputUnsupportedError, match="no column place"):
        convert.convert("waterbirds", tmp_path, tmp_path / "l.csv")
    metadata.write_text("img_id,img_filename,y,split,place\n1,a.jpg,0,0,1\n2,b.jpg,2,0,1\n")
    with pytest.raises(InputUnsupportedError, match=r"y is '2', not one of 0, 1 \[row 3\]"):
        convert.convert("waterbirds", tmp_path, tmp_path / "l.csv")
    assert convert.main(["celeba", str(tmp_path / "nowhere"), "-o", str(tmp_path / "l.csv")]) == 1
    assert "INPUT_MISSING" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.toml")))
def test_the_shipped_configurations_accept_the_converters_list(name: str) -> None:
    study = load_study(FOLDER / f"{name}.toml")
    assert name in convert.LAYOUTS
    assert study.patches == FOLDER.resolve() / f"{name}.csv"
    assert (study.train.optimizer, study.train.weight_decay, study.seeds) == ("sgd", 0.01, (0, 1, 2))
    assert study.tune is not None
    assert study.tune.c_values == (0.5, 1.0)
    assert study.ready.px == study.train.input_px
