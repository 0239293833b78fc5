"""A manifest in parts: each slide in one of them, together the bytes of one command, and a missing part is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import made_slides as made
import pytest
from made_model import write_model
from typer.testing import CliRunner
from written_files import TIMES, contents

from pathopatch.cli import app
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import write_json
from pathopatch.stages.batch.parts import part_of_manifest, read_parts
from pathopatch.stages.batch.summaries import status_summary


def run(*arguments: object) -> str:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False).output


def test_parts_in_one_folder_are_what_one_command_writes(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    for number in range(5):
        image = made.disc_image(200, 200, (100, 100), 60 + number, tissue=(180, 90, 100), glass=(245, 245, 245))
        (tmp_path / "slides").mkdir(exist_ok=True)
        made.write_rgb_pyramid(tmp_path / "slides" / f"s{number}.tif", image, levels=1)
    run("manifest", tmp_path / "slides", "-o", tmp_path / "cohort.csv")
    command = ("predict", tmp_path / "cohort.csv", "--model", tmp_path / "model", "-q", "-o")
    run(*command, tmp_path / "one")
    joined = tmp_path / "joined"
    for number in (1, 2, 3):
        run(*command, tmp_path / f"part{number}", "--part", f"{number}/3")
    for number in (1, 3):
        shutil.copytree(tmp_path / f"part{number}", joined, dirs_exist_ok=True)
    for arguments in (("status", joined), ("report", joined), ("report", tmp_path / "part1")):
        with pytest.raises(InputMissingError, match="of 3 parts these are missing: 2"):
            run(*arguments)
    shutil.copytree(tmp_path / "part2", joined, dirs_exist_ok=True)
    assert "5 slides, all 3 parts" in run("status", joined)
    assert (joined / "cohort.csv").read_bytes() == (tmp_path / "one" / "cohort.csv").read_bytes()
    for folder in ("predictions", "heatmaps", "models"):
        assert contents(joined / folder, without=TIMES) == contents(tmp_path / "one" / folder, without=TIMES)
    (joined / "status" / "s3.json").unlink()
    assert status_summary(joined).counts.loc["predict", "not begun"] == 1


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "٣/٤"])
def test_what_is_no_part_is_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(InputUnsupportedError, match="no part"):
        part_of_manifest(["cohort.csv"], tmp_path, [], part, None)
    with pytest.raises(InputUnsupportedError, match="without a manifest"):
        part_of_manifest([str(tmp_path)], tmp_path, [], "1/3", None)


def test_parts_of_two_cohorts_are_not_joined(tmp_path: Path) -> None:
    write_json(tmp_path / "parts" / "1-of-2.json", {"cohort": "a", "slides": ["s"]})
    assert read_parts(tmp_path).text == "part 1 of 2"
    for name, cohort, error in (("2-of-2", "b", InputUnsupportedError), ("2-of-3", "a", InputUnsupportedError)):
        write_json(tmp_path / "parts" / f"{name}.json", {"cohort": cohort, "slides": []})
        with pytest.raises(error, match="are not of one cohort"):
            read_parts(tmp_path)
        (tmp_path / "parts" / f"{name}.json").unlink()
    with pytest.raises(InputMissingError):
        read_parts(tmp_path, is_whole=True)
