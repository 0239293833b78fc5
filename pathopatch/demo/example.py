"""The example that comes with the package: a small made slide, and the debiased model of the quick demo."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("example_data")
MANIFEST, MODEL = FOLDER / "manifest.csv", FOLDER / "model"
"""Made by ``pipelines/example/make_example.py``, which `make example` runs."""
