"""The page on asking what cannot be loaded: each recipe runs, and writes its model's answers in the right order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from array_slides import write_he_cohort
from doc_pages import DOCS, code_blocks
from made_model import made_spec
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from pathopatch.core.config import TileConfig
from pathopatch.core.files import read_json
from pathopatch.models.bundle import save_bundle
from pathopatch.models.export import export_model
from pathopatch.models.networks import build_network
from pathopatch.stages.area_samples import find_sources
from pathopatch.stages.audit_model import RESULT
from pathopatch.stages.pack import make_pack

pytestmark = pytest.mark.slow
PAGE = DOCS / "how-to" / "ask-anything.md"
PX = 32
Answer = Callable[[NDArray[np.float32]], float]
Judge = Callable[..., None]


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    sources = find_sources([str(write_he_cohort(folder))], out=folder)
    make_pack(sources, folder / "pack", TileConfig(patch_px=PX), images=100, seed=0)
    return folder / "pack"


@pytest.fixture
def judge(pack: Path, tmp_path: Path, typed: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Go to a folder with a pack; return a function that judges answers, which must be those of single images."""
    shutil.copytree(pack, tmp_path / "pack")
    monkeypatch.chdir(tmp_path)

    def run(answer: Answer | None = None, command: str = code_blocks(PAGE, "sh")[0].splitlines()[1]) -> None:
        if answer is not None:
            table = pd.read_csv("answers.csv")
            for name, score in table[::9].itertuples(index=False):
                picture = np.asarray(Image.open(f"pack/send/images/{name}"), np.float32) / np.float32(255)
                assert score == pytest.approx(answer(picture.transpose(2, 0, 1)), abs=1e-4)
        assert typed(*command.split()[1:]) == 0
        found = read_json(Path("asked") / RESULT)["answers"]
        assert found["answered"] == found["images"]
        assert found["overlap"] in (None, 1)

    return run


def run_recipe(package: str, words: tuple[str, str] = ("", ""), **names: Any) -> None:
    """Run the recipe that imports a package, with some words replaced and names defined."""
    begin, *recipes = code_blocks(PAGE, "python")
    (recipe,) = (text for text in recipes if f"import {package}" in text or f"from {package}" in text)
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 10
    assert words[0] in recipe
    exec(begin + recipe.replace(*words), names)


def tumor(network: torch.nn.Module, x: NDArray[np.float32]) -> float:
    with torch.inference_mode():
        return float(network(torch.from_numpy(x[None])).softmax(1)[0, 1])


def test_torch(judge: Judge) -> None:
    network = build_network("small-groupnorm", 3)
    run_recipe("torch\n\nmean", network=network)
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)[..., None, None]
    judge(lambda x: tumor(network.eval(), (x - mean) / std))


def test_onnx_runtime(judge: Judge) -> None:
    network = build_network("small-groupnorm", 3).eval()
    save_bundle(Path("bundle"), network, made_spec(PX, background="bright"))
    export_model(Path("bundle"), Path("onnx"), kind="onnx")
    run_recipe("onnxruntime")
    judge(lambda x: tumor(network, (x - np.float32(0.5)) / np.float32(0.2)))


def test_monai(judge: Judge) -> None:
    networks = pytest.importorskip("monai.networks.nets")
    network = networks.DenseNet121(spatial_dims=2, in_channels=3, out_channels=2).eval()
    torch.save(network.state_dict(), "densenet.pt")
    run_recipe("monai")
    judge(lambda x: tumor(network, x))


def test_an_encoder_and_a_head_of_scikit_learn(judge: Judge) -> None:
    timm, linear = pytest.importorskip("timm"), pytest.importorskip("sklearn.linear_model")
    rng, encoder = np.random.default_rng(0), timm.create_model("resnet18", num_classes=0).eval()
    save_file(encoder.state_dict(), "encoder.safetensors")
    np.save("features.npy", features := rng.normal(size=(40, 512)))
    np.save("labels.npy", labels := rng.integers(0, 2, 40))
    head = linear.LogisticRegression(max_iter=1000).fit(features, labels)
    run_recipe("timm")
    with torch.inference_mode():
        judge(lambda x: float(head.predict_proba(encoder(torch.from_numpy(x[None])).numpy())[0, 1]))


def test_a_web_service(judge: Judge) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            pixels = np.asarray(Image.open(BytesIO(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"probability": pixels[..., 0].mean() / 255}).encode())

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run_recipe("json", ("localhost:8080", f"127.0.0.1:{server.server_port}"))
        server.shutdown()
    judge(lambda x: float(x[0].mean()))


@pytest.mark.skipif(not shutil.which("wsinfer"), reason="no wsinfer")
def test_wsinfer_keeps_every_image(judge: Judge, tmp_path: Path) -> None:
    save_bundle(Path("bundle"), build_network("small-groupnorm", 3), made_spec(PX, background="bright"))
    export_model(Path("bundle"), Path("model"), kind="wsinfer")
    Path(".wsinfer-zoo").mkdir()
    Path(".wsinfer-zoo/wsinfer-zoo-registry.json").write_text('{"models": {}}')
    run, last = code_blocks(PAGE, "sh")[1].rstrip().rsplit("\n", 1)
    subprocess.run(run, shell=True, check=True, env=os.environ | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    judge(command=last)


def test_a_workbook_that_a_person_fills(judge: Judge) -> None:
    table = pd.read_csv("pack/send/answers.csv", dtype=str)
    table.assign(score=np.resize(["yes", "no", "no"], len(table))).to_excel("answers.xlsx", index=False)
    judge(command=code_blocks(PAGE, "sh")[0].splitlines()[1].replace(".csv", ".xlsx"))
