"""The manifest: a CSV table with one slide a row, and what its ids and paths mean."""

from pathopatch.slides.manifest.cells import ANNOTATION_SUFFIXES
from pathopatch.slides.manifest.paths import (
    Fragment,
    expand_variables,
    slide_id_from_path,
    split_fragment,
    valid_slide_id,
)
from pathopatch.slides.manifest.read import read_manifest
from pathopatch.slides.manifest.rows import SPLITS, Manifest, SlideRow, write_parts

__all__ = [
    "ANNOTATION_SUFFIXES",
    "SPLITS",
    "Fragment",
    "Manifest",
    "SlideRow",
    "expand_variables",
    "read_manifest",
    "slide_id_from_path",
    "split_fragment",
    "valid_slide_id",
    "write_parts",
]
