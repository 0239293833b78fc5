"""Names that are not UTF-8, too long or looping, and drives that fail or fill up: their codes, never INTERNAL."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import sys
from pathlib import Path

import made_slides as made
import numpy as np
import pytest
import safetensors.torch
import torch
from fresh_process import FRESH
from made_model import made_spec, write_model
from made_omezarr import write_omezarr

from pathopatch.cli.program import main
from pathopatch.core.config import TileConfig
from pathopatch.core.errors import InputUnsupportedError, InternalError, with_code
from pathopatch.core.files import atomic_path, write_bytes
from pathopatch.core.status import read_status
from pathopatch.models.bundle import save_bundle, write_tensors
from pathopatch.models.loading import load_model
from pathopatch.models.networks import build_network
from pathopatch.stages.clean import clean
from pathopatch.stages.tile import tile_cohort

NOT_UTF8 = os.fsdecode(b"caf\xe9")
LONG = "x" * 300


@pytest.mark.fault("drives-and-names")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "DISK_FULL"),
        (OSError(errno.EIO, "Input/output error"), "INPUT_UNSUPPORTED"),
        (OSError(errno.ESTALE, "Stale file handle"), "INPUT_UNSUPPORTED"),
        (OSError(errno.EFBIG, "File too large"), "INPUT_UNSUPPORTED"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "INPUT_UNSUPPORTED"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links"), "INPUT_UNSUPPORTED"),
        (OSError(errno.EACCES, "Permission denied"), "INPUT_UNSUPPORTED"),
        (OSError(errno.ENOENT, "No such file or directory", "a.tif"), "INPUT_MISSING"),
        (MemoryError(), "OUT_OF_MEMORY"),
        (UnicodeEncodeError("utf-8", NOT_UTF8, 3, 4, "surrogates not allowed"), "INPUT_UNSUPPORTED"),
        (ValueError("embedded null byte"), "INPUT_UNSUPPORTED"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"), "INTERNAL"),
        (OSError(errno.EBADF, "Bad file descriptor"), "INTERNAL"),
        (ValueError("something else"), "INTERNAL"),
    ],
)
def test_errors_of_drives_and_names_have_codes_and_faults_stay_internal(error: Exception, code: str) -> None:
    known = with_code(error, place="here")
    assert (known.code, known.place) == (code, "here")
    assert known.remedy or isinstance(known, InternalError)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a slide, a model, and names that lead nowhere."""
    monkeypatch.chdir(tmp_path)
    image = made.disc_image(96, 80, (40, 40), 25, tissue=(180, 90, 150), glass=(245, 245, 245))
    made.write_rgb_pyramid(tmp_path / "a.tif", image, levels=1)
    write_model(tmp_path / "model")
    (tmp_path / NOT_UTF8).mkdir()
    (tmp_path / f"{NOT_UTF8}.tif").symlink_to("a.tif")
    (tmp_path / NOT_UTF8 / "model").symlink_to("../model")
    (tmp_path / "manifest.csv").write_text("slide_id,patient_id,path\na,a,a.tif\n")
    for name, text in {"nul.csv": "a\0.tif", "long.csv": f"{LONG}.tif", "broken.csv": "broken.tif"}.items():
        (tmp_path / name).write_text(f"slide_id,patient_id,path\ns,s,{text}\n")
    for name in ("loop", "loop.csv", "loop.tif"):
        (tmp_path / name).symlink_to(name)
    for name in ("broken.tif", "broken.svs", "broken.png", "io.csv"):
        (tmp_path / name).symlink_to("/proc/self/mem")  # whose first page cannot be read: EIO
    return tmp_path


COMMANDS = [
    "info NOT_UTF8.tif",
    "info NOT_UTF8/none.tif",
    "info LONG.tif",
    "info loop.tif",
    "info broken.tif",
    "info broken.svs",
    "info broken.png",
    "check nul.csv -o out",
    "check long.csv -o out",
    "check loop.csv -o out",
    "check io.csv -o out",
    "check LONG.csv -o out",
    "check manifest.csv -o LONG",
    "tile broken.csv -o out",
    "tile manifest.csv -o NOT_UTF8/out",
    "predict NOT_UTF8.tif --model model -o out",
    "predict broken.tif --model model -o out",
    "predict a.tif --model NOT_UTF8/model -o out",
    "predict a.tif --model LONG -o out",
    "predict a.tif --model loop -o out",
    "predict a.tif --model model -o NOT_UTF8/out",
    "predict a.tif --model model -o loop",
    "report NOT_UTF8",
    "status LONG",
    "train LONG",
    "clean loop",
]


@pytest.mark.fault("drives-and-names")
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_names_and_failing_drives_are_never_internal(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("NOT_UTF8", NOT_UTF8).replace("LONG", LONG) for word in command.split()]
    monkeypatch.setattr(sys, "argv", ["pathopatch", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = "".join(capsys.readouterr())
    assert "INTERNAL" not in said
    assert ended.value.code in (0, 1)
    assert ended.value.code == 0 or any(code in said for code in ("INPUT_", "CHECKPOINT_"))


@pytest.mark.fault("drives-and-names")
def test_a_manifest_in_a_folder_that_is_not_utf8_is_worked_through(place: Path) -> None:
    (place / "manifest.csv").rename(place / NOT_UTF8 / "manifest.csv")
    (place / NOT_UTF8 / "a.tif").symlink_to("../a.tif")
    (outcome,) = tile_cohort(place / NOT_UTF8 / "manifest.csv", place / "out", TileConfig(patch_px=16))
    assert (outcome.state, read_status(place / "out", "a")["tile"]["state"]) == ("done", "done")


@pytest.mark.fault("drives-and-names")
def test_files_of_one_size_that_cannot_be_compared_cost_only_their_slides(place: Path) -> None:
    rows = ["slide_id,patient_id,path", "a,a,a.tif", "b,b,broken.tif", "c,c,broken.svs"]
    (place / "manifest.csv").write_text("\n".join(rows))
    outcomes = tile_cohort(place / "manifest.csv", place / "out", TileConfig(patch_px=16))
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "failed"]


@pytest.mark.fault("drives-and-names")
def test_an_omezarr_with_a_file_that_cannot_be_looked_at_fails_alone(place: Path) -> None:
    write_omezarr(place / "b.zarr", [np.zeros((3, 64, 64), np.uint8)], labels=("R", "G", "B"))
    (place / "b.zarr" / "link").symlink_to(LONG)
    (place / "manifest.csv").write_text("slide_id,patient_id,path\na,a,a.tif\nb,b,b.zarr\n")
    outcomes = tile_cohort(place / "manifest.csv", place / "out", TileConfig(patch_px=16))
    assert [(outcome.state, outcome.code) for outcome in outcomes] == [("done", ""), ("failed", "INPUT_CORRUPT")]
    assert "cannot be read: File name too long" in outcomes[1].message


@pytest.mark.fault("drives-and-names")
def test_a_file_larger_than_allowed_is_said_and_leaves_the_earlier_one(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InputUnsupportedError, match="cannot write here: File too large"):
            write_bytes(tmp_path / "a", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


# --- model files ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("bundle-mode")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_model_files_are_readable_as_any_new_file_of_their_folder(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_bundle(tmp_path / "model", build_network("small-groupnorm", 3), made_spec())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    names = ("README.md", "check.json", "config.json", "model.onnx", "model.safetensors")
    assert modes == dict.fromkeys(names, 0o666 & ~umask)
    load_model(tmp_path / "model")


def write_and_be_killed(folder: Path) -> None:
    def killed(_tensors: object, path: Path, metadata: object) -> None:
        (Path(path).parent / ".tmpA1b2C3").write_bytes(b"half")  # the name that safetensors writes to
        os.kill(os.getpid(), signal.SIGKILL)

    safetensors.torch.save_file = killed
    with atomic_path(folder / "checkpoint.safetensors") as temporary:
        write_tensors(temporary, {"a": torch.zeros(3)}, {})


@pytest.mark.fault("kill-checkpoint")
def test_what_a_kill_in_a_checkpoint_leaves_is_removed_by_clean(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    process = FRESH.Process(target=write_and_be_killed, args=(run,))
    process.start()
    process.join(60)
    assert [path.name for path in run.rglob(".tmp*")] == [".tmpA1b2C3"]
    assert [finding.goes for finding in clean(tmp_path)] == [True]
    assert list(run.iterdir()) == []
