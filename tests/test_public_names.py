"""The names of `import pathopatch`: loaded on first use, and taking paths as texts."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from inspect import isfunction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_model import write_model
from made_slides import write_channel, write_png, write_rgb_pyramid

import pathopatch
from pathopatch.core.errors import InputUnsupportedError
from pathopatch.demo import EXAMPLE_MANIFEST, EXAMPLE_MODEL
from pathopatch.slides.manifest import read_manifest
from pathopatch.stages.predict import predict_cohort


def test_every_public_name_is_there_and_listed() -> None:
    for name in pathopatch.__all__:
        assert getattr(pathopatch, name) is not None
        assert name in dir(pathopatch)
    with pytest.raises(AttributeError, match="no attribute 'predict_slides'"):
        pathopatch.predict_slides  # noqa: B018


def test_the_import_loads_the_standard_library_alone_and_a_public_module_on_first_use() -> None:
    code = "import pathopatch, json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    code += "; print(pathopatch.debias.__name__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:  # not installed: the path is that of this process
        code = f"import sys; sys.path[:0] = {[str(Path(pathopatch.__file__).parents[1])]}; {code}"
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    third_party = {"numpy", "pandas", "matplotlib", "pydantic", "zarr", "torch", "openslide", "PIL", "scipy", "anndata"}
    loaded, module = done.stdout.splitlines()
    assert not third_party & set(json.loads(loaded))
    assert module == "pathopatch.debias"


def bright_image() -> np.ndarray:
    """Return 8 x 8 patches of 16 px, (3, 128, 128); the two columns on the left are full of tissue."""
    noise = np.random.default_rng(0).integers(-9, 10, (3, 128, 128))
    return (np.where(np.arange(128) < 32, 90, 240)[None, None] + noise).astype(np.uint8)


def test_slides_models_and_folders_are_given_as_texts(tmp_path: Path) -> None:
    write_rgb_pyramid(tmp_path / "a.tif", bright_image(), mpp=0.5)
    bundle = write_model(tmp_path / "model")
    config = pathopatch.PredictConfig(threads=1)
    prediction = pathopatch.predict_slide(str(tmp_path / "a.tif"), str(bundle), config=config)
    assert sorted(set(prediction.table["x"])) == [0, 16]
    both = pathopatch.load_ensemble([str(bundle)], threads=1)
    pd.testing.assert_frame_equal(pathopatch.predict_slide(tmp_path / "a.tif", both).table, prediction.table)
    with pathopatch.open_slide(str(tmp_path / "a.tif")) as slide:
        done = pathopatch.tile_slide(slide, pathopatch.TileConfig(patch_px=16), str(tmp_path / "work"))
    assert (done.state, done.patches) == ("done", 64)


def test_a_prediction_takes_files_by_channel_and_a_tissue_mask(tmp_path: Path) -> None:
    for name, plane in zip("RGB", bright_image(), strict=True):
        write_channel(tmp_path / f"{name}.tif", plane, mpp=0.5)
    write_png(tmp_path / "mask.png", np.tile(np.repeat(np.array([0, 255], np.uint8), 64), (1, 128, 1)))
    model = pathopatch.load_model(write_model(tmp_path / "model"), threads=1)
    files = {name: str(tmp_path / f"{name}.tif") for name in "RGB"}
    predicted = pathopatch.predict_slide(files, model, tissue_mask=str(tmp_path / "mask.png"))
    assert sorted(set(predicted.table["x"])) == [64, 80, 96, 112]


def test_every_public_function_has_an_example_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    predict_cohort(read_manifest(EXAMPLE_MANIFEST).rows, EXAMPLE_MODEL, Path("out"), pathopatch.PredictConfig())
    functions = [value for name in pathopatch.__all__ if isfunction(value := getattr(pathopatch, name))]
    known = {"pathopatch": pathopatch, "np": np, "pd": pd, "Path": Path}
    runner = doctest.DocTestRunner(verbose=False)
    for function in functions:
        (examples,) = doctest.DocTestFinder(recurse=False).find(function, globs=known)
        assert examples.examples, function
        assert not any(doctest.SKIP in example.options for example in examples.examples), function
        runner.run(examples)
    assert runner.failures == 0  # what failed is printed


def test_a_study_is_run_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('manifest = "m.csv"\nwork = "work"\nunknown = 1\n')
    with pytest.raises(InputUnsupportedError, match="unknown"):
        pathopatch.run_study(str(tmp_path / "study.toml"))
    with pytest.raises(InputUnsupportedError, match="unknown"):
        pathopatch.load_study(str(tmp_path / "study.toml"))
