"""Give slides ids of their own, and propose patients where names or folders show them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pathopatch.core.patients import id_key
from pathopatch.slides.discovery.names import channel_of
from pathopatch.slides.manifest import slide_id_from_text

_NO_PATIENTS = {
    "train", "val", "validation", "test", "training", "slides", "images", "wsi", "data", "raw", "tumor", "tumour",
    "normal", "benign", "malignant", "masks", "annotations", "svs", "ndpi", "mrxs", "tif", "tiff", "dicom", "he", "h&e",
}  # fmt: skip
"""Names of folders that hold several patients."""
_MOST_SLIDES = 10  # of a patient, in the mean; folders of more are rather scanners, stains or batches


def slide_ids(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return an id for each slide: its name or, where several have it, its folder and name, or the file's whole name.

    `paths` are the slides' first files.
    """
    ids = [slide_id_from_text(name) for name in names]
    for form in (_with_folder, _with_ending, _with_digest):
        counts = Counter(map(id_key, ids))
        ids = [
            form(name, path) if counts[id_key(slide_id)] > 1 else slide_id
            for name, path, slide_id in zip(names, paths, ids, strict=True)
        ]
    return ids


def _with_folder(name: str, path: Path) -> str:
    return slide_id_from_text(f"{path.absolute().parent.name}_{name}")


def _with_ending(_name: str, path: Path) -> str:
    return slide_id_from_text(path.name)


def _with_digest(name: str, path: Path) -> str:
    return slide_id_from_text(f"{hashlib.sha256(str(path).encode(errors='replace')).hexdigest()[:8]}_{name}")


def patient_ids(
    stated: Sequence[str | None], ids: Sequence[str], paths: Sequence[Path], roots: Sequence[Path]
) -> tuple[list[str], str]:
    """Return a patient for each slide, and in words where they come from; "": each slide is a patient of its own.

    Parameters
    ----------
    stated : sequence of str or None
        Patients that the names of the files state.
    ids : sequence of str
        The slides' ids.
    paths : sequence of Path
        The slides' first files.
    roots : sequence of Path
        The folders that were searched.
    """
    if any(stated):
        patients = [slide_id_from_text(name) if name else own for name, own in zip(stated, ids, strict=True)]
        rest = "" if all(stated) else "; a slide whose name has none is a patient of its own"
        return patients, f"the names of the files{rest}"
    folders = [_folder_below(path, roots) for path in paths]
    slides_of = Counter(folders)
    is_evident = (
        len(slides_of) > 1
        and max(slides_of.values()) > 1
        and len(folders) <= _MOST_SLIDES * len(slides_of)
        and all(map(_may_be_patient, slides_of))
    )
    if is_evident:
        return [slide_id_from_text(name) for name in folders], "the folders of the slides"
    return list(ids), ""


def _may_be_patient(folder: str) -> bool:
    return bool(folder) and folder.casefold() not in _NO_PATIENTS and channel_of(folder) is None


def _folder_below(path: Path, roots: Sequence[Path]) -> str:
    """Return the name of the folder just below a root that a file lies in; empty if it lies in the root itself."""
    root = next((root for root in roots if path.is_relative_to(root)), None)
    parts = () if root is None else path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""
