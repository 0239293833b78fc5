"""Work folders to review: slides made on the spot, predicted by small models, once for all who look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import made_slides as made
import numpy as np
import pandas as pd
import torch
from made_model import write_model

from pathopatch.core.artefacts import Stamp, fingerprint_file, write_table
from pathopatch.core.config import PredictConfig, TissueConfig
from pathopatch.core.files import write_json
from pathopatch.groups import assign_groups
from pathopatch.models.bundle import read_spec, save_bundle
from pathopatch.models.networks import build_network
from pathopatch.slides import Slide
from pathopatch.stages.find_slides import slides_to_predict
from pathopatch.stages.predict import predict_cohort

CONFIG = PredictConfig(device="cpu", precision="float32", threads=1)
SHIFT = (12, -5)  # of TPEF against CARS, level-0 px
MODALITIES = ("CARS", "TPEF", "SHG")


@dataclass(frozen=True)
class Folders:
    """Folders of predictions: slides bright, dark and spoilt in `out`; bright by other models in `beside` and `fine`.

    The latter's patches begin every 8 px, the others' every 16.
    """

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def beside(self) -> Path:
        return self.root / "erm"

    @property
    def fine(self) -> Path:
        return self.root / "fine"


def bright_image() -> np.ndarray:
    """(3, 280, 300): a disc of stained tissue on glass, noise on both so that no two places are alike."""
    disc = made.disc_image(300, 280, (140, 130), 90, tissue=(170, 80, 140), glass=(240, 240, 240))
    return disc + np.random.default_rng(1).integers(0, 15, disc.shape).astype(np.uint8)


def dark_image() -> np.ndarray:
    """(3, 400, 400) photon counts: TPEF shows what CARS shows, moved by `SHIFT`; SHG something of its own."""
    generator = np.random.default_rng(3)

    def blobs(seed: int) -> np.ndarray:
        smooth = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(480, 480)), (0, 0), 6)
        return cv2.GaussianBlur((smooth > 0).astype(np.float64), (0, 0), 1.2)

    shared, own, (x, y) = blobs(0), blobs(7), SHIFT
    planes = (shared[40:440, 40:440], shared[40 - y : 440 - y, 40 - x : 440 - x], own[40:440, 40:440])
    return np.stack([generator.poisson(60 * plane + 5) for plane in planes]).astype(np.uint16)


def write_other_model(folder: Path, *, seed: int, like: Path, **changed: object) -> Path:
    """Write a bundle of other random weights."""
    torch.manual_seed(seed)
    spec = read_spec(like).model_copy(update=changed)
    save_bundle(folder, build_network("small-groupnorm", len(spec.channels)), spec)
    return folder


def predict(source: object, models: Sequence[Path], out: Path, slide_id: str, **changed: object) -> None:
    """Predict one slide into a work folder."""
    text = ",".join(f"{name}={path}" for name, path in source.items()) if isinstance(source, dict) else str(source)
    rows = slides_to_predict(text, slide_id=slide_id)
    predict_cohort(rows, list(models), out, CONFIG.model_copy(update=changed))


def write_folders(root: Path) -> Folders:
    """Predict the slides; the model of the bright one decides where about half of the patches are called tumour."""
    folders = Folders(root)
    made.write_aperio(root / "bright.svs", bright_image(), levels=2)
    made.write_aperio(root / "spoilt.svs", bright_image()[:, ::-1], levels=1)
    made.spoil_tile(root / "spoilt.svs", 0)
    (root / "modalities").mkdir()
    files = made.write_modalities(root / "modalities", dark_image(), MODALITIES)
    plain = write_model(root / "plain")
    model = write_other_model(root / "model", seed=0, like=plain, decision_threshold=0.65, method="gerne")
    other = write_other_model(root / "other", seed=1, like=plain)
    of_dark = {
        "channels": MODALITIES, "dtype": "uint16", "background": "dark", "align": True,
        "decision_threshold": -0.5, "temperature": 1.5, "tissue": TissueConfig(background="dark"),
    }  # fmt: skip
    dark = write_other_model(root / "dark-model", seed=2, like=plain, **of_dark)
    predict(root / "bright.svs", [model], folders.out, "bright")
    predict(files, [dark], folders.out, "dark")
    predict(root / "spoilt.svs", [model], folders.out, "spoilt")
    predict(root / "bright.svs", [other], folders.beside, "bright")
    predict(root / "bright.svs", [other, model], folders.fine, "bright", stride_px=8)
    return folders


def write_facts(out: Path, slide_id: str, slide: Slide, windows: Sequence[Sequence[float]]) -> None:
    """Write what a heatmap says of a slide that no model has seen: enough to look at its pixels."""
    facts = {
        "size_px": slide.size, "bounds_px": slide.bounds, "mpp": slide.mpp, "channels": slide.channels,
        "dtype": str(slide.dtype), "background": slide.background, "intensity_windows": windows,
        "files": [fingerprint_file(path) for path in slide.paths], "offsets_px": [],
        "stamp": Stamp(stage="predict", inputs={"model": "none"}).to_dict(),
    }  # fmt: skip
    write_json(out / "heatmaps" / slide_id / "heatmap.json", facts)


def write_labels(work: Path, table: pd.DataFrame, slide_id: str, labels: Sequence[int]) -> None:
    """Write the groups table of a slide's patches, at thresholds of 0.25 and 0.5, beside another slide's."""
    own = table[["patch_id", "tissue_fraction"]].assign(slide_id=slide_id, label=labels)
    elsewhere = own.assign(slide_id="elsewhere", patch_id="elsewhere@" + own["patch_id"].str.split("@").str[1], label=1)
    patches = pd.concat([elsewhere, own], ignore_index=True).assign(patient_id="p")
    write_table(work / "groups.parquet", assign_groups(patches, (0.25, 0.5)), Stamp(stage="groups"))
