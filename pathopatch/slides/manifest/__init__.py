"""Which slides make a cohort? A CSV file with a row a slide, and what its ids and paths mean."""

from pathopatch.slides.manifest.cells import ANNOTATION_SUFFIXES
from pathopatch.slides.manifest.ids import slide_id_from_path, valid_slide_id
from pathopatch.slides.manifest.paths import Fragment, expanded, split_fragment
from pathopatch.slides.manifest.read import read_manifest
from pathopatch.slides.manifest.rows import SPLITS, Manifest, SlideRow
from pathopatch.slides.manifest.write import manifest_text, write_parts

__all__ = [
    "ANNOTATION_SUFFIXES",
    "SPLITS",
    "Fragment",
    "Manifest",
    "SlideRow",
    "expanded",
    "manifest_text",
    "read_manifest",
    "slide_id_from_path",
    "split_fragment",
    "valid_slide_id",
    "write_parts",
]
