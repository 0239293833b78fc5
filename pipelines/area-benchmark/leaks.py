"""Check the patches that training would compose: print how well each trace of the edit tells the class.

``python leaks.py WORK [--threshold 0.5] [--input-px 64] [--growth own]``: WORK is a work folder with groups.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from area_benchmark.leak_controls import check_composition, composition_text

from pathopatch.core.artefacts import read_table
from pathopatch.core.config import TrainConfig
from pathopatch.core.work_folder import WorkFolder
from pathopatch.training.intervene import Intervention
from pathopatch.training.run import load_sets


def main() -> None:
    """Print the check of a work folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--threshold", type=float, default=0.25)
    parser.add_argument("--input-px", type=int, default=64)
    parser.add_argument("--growth", choices=("many", "own"), default="many")
    options = parser.parse_args()
    config = TrainConfig(method="erm", composing={"share": 1.0}, threshold=options.threshold, input_px=options.input_px)
    train, _ = load_sets(options.work, read_table(WorkFolder(options.work).groups), config)
    intervention = Intervention(train, share=1, seed=0, threshold=options.threshold, growth=options.growth)
    print(composition_text(check_composition(intervention)))


if __name__ == "__main__":
    main()
