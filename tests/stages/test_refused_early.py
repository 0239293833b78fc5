"""`predict` refuses bad inputs before it loads what runs networks, and never loads torch on a processor."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_model import edit_spec, write_model
from made_slides import disc_image, write_rgb_pyramid

PROGRAM = """
import sys
from pathopatch import cli
sys.argv = ["pathopatch", *sys.argv[1:]]
try:
    cli.main()
finally:
    print([name for name in ("openvino", "torch", "timm") if name in sys.modules])
"""


def typed(*arguments: object) -> tuple[int, str, list[str]]:
    """Type a command in a process of its own; return its exit code, its errors, and the runtimes that were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr, ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides, models and manifests with one fault each, and a pair of slide and model without one."""
    folder = tmp_path_factory.mktemp("refused")
    write_model(folder / "model")
    write_model(folder / "edited")
    edit_spec(folder / "edited", patch_px=32)
    (folder / "pickled").mkdir()
    (folder / "pickled" / "model.pt").write_bytes(b"\x80\x02")
    bright = disc_image(96, 96, (48, 48), 30, tissue=(180, 90, 150), glass=(240, 240, 240))
    write_rgb_pyramid(folder / "good.tif", bright, levels=1)
    write_rgb_pyramid(folder / "without-mpp.tif", bright, mpp=None, levels=1)
    write_rgb_pyramid(folder / "coarse.tif", bright, mpp=2.0, levels=1)
    write_rgb_pyramid(folder / "dark.tif", 255 - bright, levels=1)
    write_rgb_pyramid(folder / "deep.tif", bright.astype(np.uint16), levels=1)
    (folder / "cohort.csv").write_text("slide_id,patient_id,path\na,p,nothing.tif\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slide", "model", "code"),
    [
        ("without-mpp.tif", "model", "MPP_MISSING"),
        ("nothing.tif", "model", "INPUT_MISSING"),
        ("good.tif", "nothing", "INPUT_MISSING"),
        ("cohort.csv", "model", "INPUT_MISSING"),
        ("deep.tif", "model", "CHANNEL_MISMATCH"),
        ("coarse.tif", "model", "CHECKPOINT_INCOMPATIBLE"),
        ("dark.tif", "model", "CHECKPOINT_INCOMPATIBLE"),
        ("good.tif", "edited", "CHECKPOINT_INCOMPATIBLE"),
        ("good.tif", "pickled", "CHECKPOINT_UNSAFE"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_refusal_by_slide_manifest_or_model_json_loads_no_runtime(
    inputs: Path, tmp_path: Path, slide: str, model: str, code: str, options: tuple[str, ...]
) -> None:
    arguments = ("predict", inputs / slide, "--model", inputs / model, "-o", tmp_path, "--quiet", *options)
    status, output, loaded = typed(*arguments)
    assert (status, loaded) == (1, []), output
    assert code in output


def test_a_slide_that_the_model_takes_is_predicted_by_openvino_alone(inputs: Path, tmp_path: Path) -> None:
    model = inputs / "model"
    status, output, loaded = typed("predict", inputs / "good.tif", "--model", model, "-o", tmp_path, "--quiet")
    assert (status, loaded) == (0, ["openvino"]), output
