"""Compare prediction with other packages: the same patches of one slide, the same network.

All patches of a grid side by side, of one thread each, in batches of as many. Measured are reading, forward pass and
each one's own table (CSV, CSV, Zarr), and of us the search for tissue, which the others are spared. The model is loaded
before, but for wsinfer, which loads it in a tenth of a second within. wsinfer has its defaults, by which it reads
through TiffSlide; its command line fetches a list of models when it starts, so its functions are called.

What limits whom, ms a patch (tf_efficientnet_lite0, float32, one thread, a processor with AVX2, nothing beside):

- The forward pass is nearly all: 34 as we have it, channels last, batch norms folded into the convolutions, a few
  patches at a time; 3.8 times that with channels first and whole batches, as both peers have it. wsinfer folds under
  ``--speedup``, which is off by default.
- Reading and scaling: ours, with the search for tissue and what is measured of each patch, 4 to 5 on this slide, which
  is no larger than its overview, and 2.8 to 4 on one of four times the area.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from environments import TIATOOLBOX, WSINFER, Peer, PeerError, Process, at_work, measured, speedup
from inputs import TILE_PX, Inputs
from measure import Row, cpu_seconds
from predicting import ARCHITECTURE, BATCH, bare_seconds, write_bundle

from pathopatch.heatmaps.patch_exports import write_wsinfer_csv
from pathopatch.heatmaps.slide_prediction import predict_slide
from pathopatch.models.export import export_model
from pathopatch.models.forward import PatchClassifier
from pathopatch.models.loading import load_model
from pathopatch.models.runtime.openvino_runtime import is_bfloat16_native
from pathopatch.slides import open_slide

_ACROSS = 16  # patches along a side of the slide: of fewer, most is overview; each peer takes some 20 s three times
_MPP = 0.5
_REPEATS = 3
_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.01}  # of a probability
_CLASSES = ("non-tumour", "tumour")

_BEGIN = f"""
import json, logging, shutil
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
path, bundle, exported, across, out = map(Path, sys.argv[1:])
results, side, across, batch, mpp = out / "results", {TILE_PX}, int(str(across)), {BATCH}, {_MPP}
first = ""
"""
# It wants a folder of nothing but slides, and the list of patches that its own search for tissue would have written.
_WSINFER = """
from wsinfer.modellib.models import LocalModelTorchScript
from wsinfer.modellib.run_inference import run_inference
from wsinfer.patchlib import save_hdf5
from wsinfer_zoo.client import ModelConfiguration
slides = out / "slides"
for folder in (slides, results / "patches"):
    folder.mkdir(parents=True)
(slides / path.name).symlink_to(path)
places = side * np.indices((across, across)).reshape(2, -1).T
save_hdf5(results / "patches" / f"{path.stem}.h5", places, side, mpp)
config = ModelConfiguration.from_dict(json.loads((exported / "config.json").read_text()))
model = LocalModelTorchScript(config=config, model_path=str(exported / "torchscript_model.pt"))
def work():
    shutil.rmtree(results / "model-outputs-csv", ignore_errors=True)
    run_inference(slides, results, model, batch_size=batch)
"""
# Its TimmModel calls the layers by their numbers: their order is the same.
_TIATOOLBOX = """
import timm
from safetensors.torch import load_file
from tiatoolbox.models.architecture.vanilla import TimmModel
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
logging.getLogger().setLevel(logging.ERROR)
spec = json.loads((bundle / "config.json").read_text())["pathopatch"]
plain = timm.create_model(spec["architecture"], num_classes=2)
plain.load_state_dict(load_file(bundle / "model.safetensors"))
model = TimmModel(spec["architecture"], num_classes=2, pretrained=False)
model.load_state_dict(dict(zip(model.state_dict(), plain.state_dict().values(), strict=True)))
mean, std = (np.float32(spec[name]) for name in ("mean", "std"))
model.preproc_func = lambda image: (image / np.float32(255) - mean) / std
resolutions = [{"units": "mpp", "resolution": mpp}]
geometry = IOPatchPredictorConfig(resolutions, (side, side), (side, side), resolutions)
def work():
    predictor = PatchPredictor(model, batch_size=batch, verbose=False)
    predictor.run([path], patch_mode=False, auto_get_mask=False, ioconfig=geometry, return_probabilities=True,
                  save_dir=results, overwrite=True, output_type="zarr")
"""


def _of_csv(path: Path) -> pd.DataFrame:
    """A table of wsinfer's form, as x, y and the probability of the second class."""
    table = pd.read_csv(path)[["minx", "miny", f"prob_{_CLASSES[1]}"]]
    return table.set_axis(["x", "y", "probability"], axis=1)


def _of_wsinfer(results: Path, stem: str) -> pd.DataFrame:
    """Read the probabilities that wsinfer wrote."""
    return _of_csv(results / "model-outputs-csv" / f"{stem}.csv")


def _of_tiatoolbox(results: Path, stem: str) -> pd.DataFrame:
    """Read the probabilities that tiatoolbox wrote."""
    group = zarr.open_group(results / f"{stem}.zarr", mode="r")
    bounds, probabilities = (np.asarray(group[name]) for name in ("coordinates", "probabilities"))
    return pd.DataFrame({"x": bounds[:, 0], "y": bounds[:, 1], "probability": probabilities[:, 1]})


@dataclass(frozen=True)
class Predictor(Peer):
    """A peer that predicts; `table` reads what it wrote into a folder, by the slide's stem."""

    table: Callable[[Path, str], pd.DataFrame]


PEERS = (
    Predictor("wsinfer 0.6.1", WSINFER, _BEGIN + _WSINFER, 3.0, _of_wsinfer),
    Predictor("tiatoolbox's PatchPredictor", TIATOOLBOX, _BEGIN + _TIATOOLBOX, 2.0, _of_tiatoolbox),
)


def rows(inputs: Inputs, environments: Path | None = None) -> Iterator[Row]:
    """A row for each predictor that installs here and gives the same probabilities; a word about each other one."""
    bundle, exported = write_bundle(inputs.folder / "bundle"), inputs.folder / "exported"
    export_model(bundle, exported, kind="wsinfer")
    path = inputs.rgb_jpeg(TILE_PX * _ACROSS)
    for precision in ("float32", "bfloat16") if is_bfloat16_native() else ("float32",):
        model = load_model(bundle, device="cpu", precision=precision, threads=1)

        def row(peer: Predictor, model: PatchClassifier = model) -> Row:
            out = inputs.folder / f"by-{peer.environment.name}-{model.runtime.precision}"
            out.mkdir()
            with at_work(peer, environments or inputs.folder, path, bundle, exported, _ACROSS, out) as process:
                ratio, limit = _speedup(process, peer, model, path, out)
            name = f"predict, {_ACROSS**2} patches, {ARCHITECTURE}, {model.runtime.precision}, by {peer.name}"
            return Row.of_limit(name, ratio, limit, 0.7)

        yield from measured(PEERS, row)


def _speedup(process: Process, peer: Predictor, model: PatchClassifier, path: Path, out: Path) -> tuple[float, float]:
    """Return the speedup over a predictor, both writing their table, and that of decoding and forward pass alone."""
    csv = out / "ours.csv"

    def ours() -> None:
        with open_slide(path, mpp=_MPP, background="bright") as slide:
            table = predict_slide(slide, model).table
        write_wsinfer_csv(csv, table, class_names=_CLASSES)

    def check() -> None:
        require_agreement(_of_csv(csv), peer.table(out / "results", path.stem), _TOLERANCE[model.runtime.precision])

    shares = []  # of the bare work in ours

    def seconds() -> float:
        spent = cpu_seconds(ours)
        shares.append(bare_seconds(path, model, _ACROSS**2) / spent)
        return spent

    ratio = speedup(process, seconds, check=check, repeats=_REPEATS)
    return ratio, ratio / statistics.median(shares)


def require_agreement(ours: pd.DataFrame, theirs: pd.DataFrame, tolerance: float) -> None:
    """Refuse a peer that predicted other patches or otherwise; so would it be if all patches looked alike.

    Parameters
    ----------
    ours, theirs : DataFrame
        x, y (level-0 px) and probability, in any order.
    tolerance : float
        Of a probability.
    """
    one, two = (table.sort_values(["x", "y"], ignore_index=True) for table in (ours, theirs))
    if not one[["x", "y"]].equals(two[["x", "y"]].astype(one[["x", "y"]].dtypes)):
        raise PeerError(f"it predicts {len(two)} patches, we {len(one)}, and not the same")
    apart = np.abs(one["probability"].to_numpy() - two["probability"].to_numpy()).max()
    if not apart <= tolerance:  # NaN is not
        raise PeerError(f"its probabilities are up to {apart:.2g} apart from ours")
    if np.ptp(one["probability"]) < 5 * tolerance:
        raise PeerError(f"all patches have a probability of about {one['probability'].mean():.2g}: nothing to compare")
