"""The demo: synthetic slides of known truth, the study on them, and the example that comes with the package."""

from __future__ import annotations

from pathlib import Path

EXAMPLE = Path(__file__).with_name("example_data")
"""A small made slide and the debiased model of the demo, by `make example`."""
EXAMPLE_MANIFEST, EXAMPLE_MODEL = EXAMPLE / "manifest.csv", EXAMPLE / "model"
EXAMPLE_HE_MODEL = EXAMPLE / "he_model"
"""A small model of haematoxylin and eosin for trying the tool, by `make example-model`."""
