"""The manifest: a CSV table with one slide a row, and what its ids and paths mean."""

from pathopatch.slides.manifest.read import ANNOTATION_SUFFIXES, is_manifest, read_manifest, rows_of_same_content
from pathopatch.slides.manifest.rows import (
    ID_REMEDY,
    PSEUDONYM,
    SPLITS,
    Fragment,
    Manifest,
    SlideRow,
    expand_variables,
    pseudonym,
    pseudonymize,
    slide_id_from_path,
    slide_id_from_text,
    split_fragment,
    valid_slide_id,
)
from pathopatch.slides.manifest.write import write_parts, write_rows

__all__ = [
    "ANNOTATION_SUFFIXES",
    "PSEUDONYM",
    "SPLITS",
    "ID_REMEDY",
    "Fragment",
    "Manifest",
    "SlideRow",
    "expand_variables",
    "is_manifest",
    "pseudonym",
    "pseudonymize",
    "read_manifest",
    "rows_of_same_content",
    "slide_id_from_path",
    "slide_id_from_text",
    "split_fragment",
    "valid_slide_id",
    "write_parts",
    "write_rows",
]
