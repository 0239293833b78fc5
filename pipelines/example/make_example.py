"""Make the example of `pathopatch predict --example` anew: run the demo, and draw a small slide of its kind."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import tifffile

from pathopatch import demo
from pathopatch.core.files import write_bytes, write_csv
from pathopatch.core.work_folder import WorkFolder
from pathopatch.demo import quick
from pathopatch.demo.slides import CHANNELS, make_cohort
from pathopatch.slides.manifest import read_manifest

SEED = 2
"""Of the slide: none of the slides that the model was trained on, whose seed is 0."""
SPEC = replace(quick.SPEC, slides=(1, 1, 1), patients=(1, 1, 1), fields=5)


CARD = """# The example of pathopatch

What `pathopatch predict --example` predicts, and with what. *For research only; not for diagnosis.*

- `example_CARS.tif`, `example_TPEF.tif`, `example_SHG.tif`: one synthetic slide of 480 px a side at 1 um/px. No patient
  and no tissue is behind it. `manifest.csv` names its files.
- `model/`: the model that `pathopatch demo` trains on synthetic slides (method `auto`). Its card is
  `model/README.md`. It has seen no real tissue, and on real slides its probabilities mean nothing.
- `he_model/`: the model of `pathopatch predict SLIDES --example-model`, for trying pathopatch alone: the tumour of two
  patients is all that it has seen. It learnt from two breast carcinoma slides (haematoxylin and eosin, 4.0 um/px, IDC
  data set, CC0). Trained on one patient, it has an AUROC of 0.88 and 0.98 on the other (909 squares of 50 px,
  2026-11-30, AMD EPYC, one run of seed 0 each); the tissue fraction alone has 0.82 and 0.88 there.
  `make example-model` measures this, and makes the model anew.

`make example` makes the other files anew. Licence: Apache-2.0, as the package.
"""


def write_slide(folder: Path, work: Path) -> None:
    """Write the slide of three TIFF files and its manifest into a folder; `work` is for intermediate files."""
    row = next(row for row in read_manifest(make_cohort(work, seed=SEED, spec=SPEC)).rows if row.split == "test")
    assert isinstance(row.source, dict)
    cells = {"slide_id": "example", "patient_id": "example", "split": "test"}
    for channel in CHANNELS:
        cells[f"path:{channel}"] = f"example_{channel}.tif"
        tifffile.imwrite(
            folder / cells[f"path:{channel}"],
            tifffile.imread(row.source[channel]),
            tile=(240, 240),
            # Lossless: it takes 0.7 of the bytes of zlib, and the package is to stay small.
            compression="jpeg2000",
            compressionargs={"level": 0, "reversible": True},
            photometric="minisblack",
            resolution=(1e4 / SPEC.mpp, 1e4 / SPEC.mpp),
            resolutionunit="CENTIMETER",
            software="pathopatch",
            metadata=None,
        )
    cells |= {"mpp": f"{SPEC.mpp:g}", "background": "dark"}
    write_csv(folder / "manifest.csv", pd.DataFrame([cells]))
    write_bytes(folder / "README.md", CARD.encode())


def main(work: Path) -> None:
    """Make the example in the package's folder; `work` holds the demo."""
    print(quick.run_quick(work))
    demo.EXAMPLE.mkdir(exist_ok=True)
    write_slide(demo.EXAMPLE, work / "example")
    shutil.rmtree(demo.EXAMPLE_MODEL, ignore_errors=True)
    shutil.copytree(WorkFolder(work).model("auto-t0.5-s0"), demo.EXAMPLE_MODEL)
    print(f"{sum(path.stat().st_size for path in demo.EXAMPLE.rglob('*') if path.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
