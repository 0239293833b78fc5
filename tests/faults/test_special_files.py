"""Pipes, sockets, devices, links and closed folders among people's files: named and skipped, and nothing waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_features
import made_slides as made
import numpy as np
import pandas as pd
import pytest
import torch
from made_model import write_model
from made_omezarr import chunk_files, write_omezarr
from malformed_slides import bounded

from pathopatch.core.artefacts import fingerprint_file
from pathopatch.core.config import TrainConfig
from pathopatch.core.config.study import load_settings
from pathopatch.core.csv_table import read_csv_table
from pathopatch.core.errors import InputUnsupportedError, PathopatchError, TableError
from pathopatch.core.input_files import LeftOut, walk_files
from pathopatch.features.readers import open_features
from pathopatch.features.tissue import find_slides
from pathopatch.groups.decisions.table import read_decisions
from pathopatch.models.networks import read_weights
from pathopatch.models.torchscript_archive import load_program
from pathopatch.patches.annotations.masks import read_mask
from pathopatch.patches.annotations.outlines import read_annotations
from pathopatch.patches.import_list import read_list
from pathopatch.slides import open_slide
from pathopatch.slides.discovery import discover
from pathopatch.slides.manifest import read_manifest
from pathopatch.training.frozen import open_backbone

pytestmark = pytest.mark.fault("special-files")


def unix_socket(path: Path) -> None:
    # A socket's address has at most 107 bytes.
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o020600, os.makedev(1, 5))  # /dev/zero
    except PermissionError:  # only root may
        path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


KINDS = {"named pipe": os.mkfifo, "socket": unix_socket, "device": device, "link that leads in a circle": loop}


@pytest.fixture(params=sorted(KINDS))
def special(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Return a function that makes a special file and returns what messages call it."""

    def make(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[request.param](path)
        return f"a {request.param}, not a file"

    return make


def write_slide(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.write_channel(path, np.full((32, 32), value, np.uint8))


def reasons(left_out: list[LeftOut]) -> dict[str, str]:
    return {item.path.name: item.reason for item in left_out}


def test_special_files_among_slides_are_named_and_left_out(special: Callable[[Path], str], tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tif")
    names = ("b.tif", "c.geojson", "d.vms", "e.mrxs", "f.dcm", "g", "sub/h.svs")
    words = {Path(name).name: special(tmp_path / name) for name in names}
    special(tmp_path / ".hidden")
    with bounded():
        found = discover([tmp_path])
    assert [slide.row.slide_id for slide in found.slides] == ["a"]
    assert reasons(list(found.left_out)) == words


def test_special_files_among_features_are_named_and_left_out(
    special: Callable[[Path], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = made_features.trident(tmp_path)
    endings = (".h5", ".npz", ".csv", ".pt", ".parquet", ".zarr")
    words = [f"{folder / f'z{ending}'}: {special(folder / f'z{ending}')}" for ending in endings]
    with bounded():
        assert open_features(folder).slide_ids == ("A", "B")
    assert all(f"left out: {line}" in caplog.messages for line in words)


def test_special_files_among_slides_of_features_are_left_out(special: Callable[[Path], str], tmp_path: Path) -> None:
    write_slide(tmp_path / "A.tif")
    special(tmp_path / "sub" / "A.tif")
    assert find_slides(tmp_path, ["A"]) == {"A": tmp_path / "A.tif"}


def test_special_files_among_patches_are_named_and_left_out(
    special: Callable[[Path], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, place in enumerate(("tumor/p1", "non_tumor/p2")):
        (tmp_path / place).mkdir(parents=True)
        made.write_png(tmp_path / place / "a.png", np.full((1, 16, 16), number, np.uint8))
    words = special(tmp_path / "tumor" / "p3" / "b.png")
    assert len(read_list(tmp_path)) == 2
    assert f"left out: {tmp_path / 'tumor' / 'p3' / 'b.png'}: {words}" in caplog.messages


def read_table(path: Path) -> None:
    read_csv_table(path, kind="table", item="row", required=("a",), optional=()).raise_problems()


def read_settings(path: Path) -> None:
    load_settings(path, reads=["tile"])


def read_program(path: Path) -> None:
    load_program(path, torch.device("cpu"))


READERS = [
    (".csv", read_table), (".csv", read_list), (".json", read_decisions), (".toml", read_settings),
    (".geojson", read_annotations), (".geojson.gz", read_annotations), (".xml", read_annotations),
    (".png", read_mask), (".tif", open_slide), (".svs", open_slide), (".png", open_slide), (".h5", open_features),
    (".npz", open_features), (".pt", read_weights), (".safetensors", read_weights), (".pt", read_program),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "read"), READERS)
def test_a_special_file_that_is_named_is_refused_and_not_read(
    ending: str, read: Callable[[Path], object], special: Callable[[Path], str], tmp_path: Path
) -> None:
    words = special(tmp_path / f"a{ending}")
    with bounded(), pytest.raises(PathopatchError) as raised:
        read(tmp_path / f"a{ending}")
    assert f"a{ending} is {words}" in str(raised.value)
    assert str(tmp_path) in str(raised.value)
    assert getattr(raised.value, "problems", [raised.value])[0].code == InputUnsupportedError.code


def test_a_manifest_that_names_a_special_file_is_refused_with_the_row(
    special: Callable[[Path], str], tmp_path: Path
) -> None:
    words = special(tmp_path / "a.tif")
    (tmp_path / "m.csv").write_text("slide_id,patient_id,path\na,a,a.tif\n")
    with bounded(), pytest.raises(TableError) as raised:
        read_manifest(tmp_path / "m.csv")
    (problem,) = raised.value.problems
    assert (problem.code, problem.row, problem.column) == ("INPUT_UNSUPPORTED", 2, "path")
    assert problem.message == f"{tmp_path / 'a.tif'} is {words}"


def test_weights_are_a_file_of_the_size_of_weights(special: Callable[[Path], str], tmp_path: Path) -> None:
    words = special(tmp_path / "w.safetensors")
    os.truncate(_touched(tmp_path / "sparse.safetensors"), 60 * 10**9)
    for name, told in (("w", words), ("sparse", "60 GB")):
        config = TrainConfig(architecture="test_vit", pretrained=tmp_path / f"{name}.safetensors")
        with bounded(), pytest.raises(PathopatchError, match=told):
            open_backbone(config, 3)


def _touched(path: Path) -> Path:
    path.touch()
    return path


def test_a_pipe_has_no_fingerprint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    with bounded(), pytest.raises(InputUnsupportedError, match="a named pipe"):
        fingerprint_file(tmp_path / "a.tif")


def test_links_around_a_folder_are_named_and_others_followed(tmp_path: Path) -> None:
    inside, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    write_slide(inside / "a.tif", 1)
    write_slide(elsewhere / "b.tif", 2)
    (inside / "disk").symlink_to("/")
    (inside / "me").symlink_to(".")
    (inside / "up").symlink_to("..")
    (inside / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(inside)
    with bounded():
        found = discover([inside])
    assert sorted(slide.row.slide_id for slide in found.slides) == ["a", "b"]
    assert reasons(list(found.left_out)) == {
        "disk": "a link to a folder around it [/]",
        "me": f"a link to a folder around it [{inside}]",
        "up": f"a link to a folder around it [{tmp_path}]",
    }


def test_links_around_a_folder_of_features_are_not_followed(tmp_path: Path) -> None:
    folder = made_features.trident(tmp_path)
    (folder / "disk").symlink_to("/")
    with bounded():
        assert open_features(folder).slide_ids == ("A", "B")


_CLOSED = """
import logging, sys
from pathlib import Path
from pathopatch.features.readers import open_features
from pathopatch.patches.import_list import read_list
from pathopatch.slides.discovery import discover
slides, features, patches = map(Path, sys.argv[1:])
logging.basicConfig(format="%(message)s", stream=sys.stdout)
found = discover([slides])
print(*(slide.row.slide_id for slide in found.slides), *(f"{item.path}: {item.reason}" for item in found.left_out))
print(*open_features(features).slide_ids)
print(len(read_list(patches)))
"""


_AS_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
"""Root may read everything."""


@pytest.mark.slow
def test_a_slide_that_may_not_be_read_fails_in_status_and_tables(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    write_slide(slides / "shut.tif", 2)
    disc = made.disc_image(64, 64, (32, 32), 20, tissue=(170, 80, 140), glass=(240, 240, 240))
    made.write_rgb_pyramid(slides / "a.tif", disc, levels=1)
    (slides / "notes.txt").touch(0)
    (slides / "closed").mkdir(0)
    (slides / "shut.tif").chmod(0)
    program = [*_AS_USER, sys.executable, "-m", "pathopatch"]
    predicting = [*program, "predict", slides, "--model", write_model(tmp_path / "model"), "-o", out, "--device", "cpu"]
    assert subprocess.run(predicting, check=False, capture_output=True).returncode == 3
    status = subprocess.run([*program, "status", out], check=False, capture_output=True, text=True)
    assert (status.returncode, "2 failed" in status.stdout) == (3, True)
    table = pd.read_csv(out / "cohort.csv")
    assert dict(zip(table["slide_id"], table["state"].str.startswith("done"), strict=True)) == {
        "a": True, "closed": False, "shut": False
    }  # fmt: skip
    subprocess.run([*program, "report", out], check=True, capture_output=True)
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "shut" in page
    assert "closed" in page


def test_a_closed_folder_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    slides, patches, features = tmp_path / "slides", tmp_path / "patches", made_features.trident(tmp_path)
    write_slide(slides / "a.tif", 1)
    write_slide(slides / "open" / "b.tif", 2)
    for number, place in enumerate(("tumor/p1", "non_tumor/p2")):
        (patches / place).mkdir(parents=True)
        made.write_png(patches / place / "a.png", np.full((1, 16, 16), number, np.uint8))
    closed = [folder / "closed" for folder in (slides, features, patches)]
    for folder in closed:
        folder.mkdir()
        folder.chmod(0)
    command = [*_AS_USER, sys.executable, "-c", _CLOSED, *map(str, (slides, features, patches))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    for folder in closed:
        folder.chmod(0o700)
    words = [f"{folder}: the folder cannot be read: Permission denied" for folder in closed]  # of slides it is one
    assert ended.stdout.splitlines() == [
        "a closed b", f"left out: {words[1]}", "A B", f"left out: {words[2]}", "2"
    ], ended.stderr  # fmt: skip


def test_hidden_files_and_folders_are_not_walked(tmp_path: Path) -> None:
    for name in (".hidden/a", "b", ".c", "sub/d", "sub/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    left_out: list[LeftOut] = []
    walked = [(folder.name, list(folders), files) for folder, folders, files in walk_files(tmp_path, left_out.append)]
    assert walked == [(tmp_path.name, ["sub"], ["b"]), ("sub", [], ["d", "e"])]
    assert left_out == []


@pytest.mark.parametrize("kind", ["named pipe", "device"])
def test_a_special_file_inside_a_slide_of_many_files_is_refused(kind: str, tmp_path: Path) -> None:
    image = np.stack([np.full((256, 256), 240, np.uint8)] * 3)
    (chunk, *_) = chunk_files(write_omezarr(tmp_path / "a.zarr", [image]))
    chunk.unlink()
    KINDS[kind](chunk)
    with bounded(), pytest.raises(InputUnsupportedError, match=f"is a {kind}, not a file"):
        open_slide(tmp_path / "a.zarr")
