"""The manifest: a CSV table with one slide a row, and what its ids and paths mean."""

from pathopatch.slides.manifest.read import ANNOTATION_SUFFIXES, read_manifest, write_parts
from pathopatch.slides.manifest.rows import (
    PSEUDONYM,
    SPLITS,
    Fragment,
    Manifest,
    SlideRow,
    expand_variables,
    pseudonym,
    pseudonymize,
    slide_id_from_path,
    split_fragment,
    valid_slide_id,
)

__all__ = [
    "ANNOTATION_SUFFIXES",
    "PSEUDONYM",
    "SPLITS",
    "Fragment",
    "Manifest",
    "SlideRow",
    "expand_variables",
    "pseudonym",
    "pseudonymize",
    "read_manifest",
    "slide_id_from_path",
    "split_fragment",
    "valid_slide_id",
    "write_parts",
]
