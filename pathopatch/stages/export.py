"""Export reviews, predictions and models to other programs: the commands of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, StaleArtefactError
from pathopatch.core.files import atomic_path, write_bytes
from pathopatch.core.task import Progress

if TYPE_CHECKING:
    from pathopatch.groups.decisions.decision import RecordedDecision
    from pathopatch.heatmaps.qupath import ExportFolder
    from pathopatch.models.verify import Verified


def export_review(out: Path, path: Path | None = None, *, force: bool = False) -> Path:
    """Write what reviewers decided of predictions as CSV; return the file, ``review.csv`` if None.

    Without `force` StaleArtefactError for a file of other content.
    """
    from pathopatch.groups.decisions.table import decisions_csv

    path = Path("review.csv") if path is None else path
    if path.suffix.lower() != ".csv":
        raise InputUnsupportedError(f"not a CSV file: {path.name}", place=str(path), remedy="say -o review.csv")
    return _write_text(path, decisions_csv(_decisions(out)), force=force)


def export_regions(out: Path, folder: Path | None = None, *, force: bool = False) -> Path:
    """Write the regions that reviewers drew, ``<slide_id>.geojson`` per slide, as `pathopatch tile` reads them.

    Return the folder, ``regions`` if None. `force` replaces exported regions, and nothing else.
    """
    from pathopatch.heatmaps.qupath import region_files
    from pathopatch.review.reviewed_slide import bounds_origin

    folder = Path("regions") if folder is None else folder
    files = region_files(_decisions(out), lambda slide_id: bounds_origin(out, slide_id))
    if not files:
        raise InputMissingError("no region was drawn", place=str(out), remedy="draw one with pathopatch review OUT")
    if folder.exists() or folder.is_symlink():
        is_export = folder.is_dir() and all(path.suffix == ".geojson" for path in folder.iterdir())
        if not is_export:
            raise InputUnsupportedError(
                "there is something else than exported regions", place=str(folder), remedy="give another folder"
            )
        if not force:
            raise StaleArtefactError(
                "there are regions already", place=str(folder), remedy="use --force to replace them, or another folder"
            )
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
    return folder


def export_qupath(
    out: Path, folder: Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> ExportFolder:
    """Write a folder of GeoJSON for each predicted slide, see `write_qupath_folder`; ``qupath`` if None."""
    from pathopatch.heatmaps.qupath import write_qupath_folder

    return write_qupath_folder(out, folder or Path("qupath"), force=force, progress=progress)


def export_dicom(
    out: Path, folder: Path | None = None, *, force: bool = False, progress: Progress | None = None
) -> ExportFolder:
    """Write a DICOM Parametric Map of each slide predicted from DICOM, see `write_dicom_folder`; ``dicom`` if None."""
    from pathopatch.heatmaps.dicom_export import write_dicom_folder

    return write_dicom_folder(out, folder or Path("dicom"), force=force, progress=progress)


def export_bundle(bundle: Path, out: Path | None, kind: Literal["onnx", "wsinfer"], *, force: bool = False) -> Path:
    """Write a model, or that of a run, for other programs, see `export_model`; by default into a folder of its name."""
    from pathopatch.models.bundle import bundle_folder
    from pathopatch.models.export import export_model

    bundle = bundle_folder(bundle)
    home = bundle.resolve()
    run = home.parent.name if home.name == "model" else home.name  # what a run calls its bundle says less
    path = out or Path(f"{run}-{kind}")
    export_model(bundle, path, kind=kind, force=force)
    return path


def _decisions(out: Path) -> list[RecordedDecision]:
    """Return the log of a folder of predictions; InputMissingError if there is none."""
    from pathopatch.groups.decisions.log import LOG_NAME, read_log

    rows = read_log(out / LOG_NAME)
    if not rows:
        raise InputMissingError("no decisions", place=str(out / LOG_NAME), remedy="decide with pathopatch review OUT")
    return rows


def _write_text(path: Path, text: str, *, force: bool) -> Path:
    """Write a file unless there is another one; StaleArtefactError."""
    content = text.encode()
    if path.exists() and not force and (not path.is_file() or path.read_bytes() != content):
        raise StaleArtefactError(
            "there is something else already", place=str(path), remedy="use --force to replace it, or another file"
        )
    write_bytes(path, content)
    return path


def add_graph(bundle: Path) -> Path:
    """Write ``model.onnx`` into a bundle that has none, or a damaged one; return its path."""
    from pathopatch.models.bundle import bundle_folder, rewrite_graph
    from pathopatch.models.loading import load_network

    bundle = bundle_folder(bundle)
    return rewrite_graph(bundle, load_network(bundle))


def verify_model(folder: Path, *, write: bool = False) -> list[Verified]:
    """Compare a bundle, that of a run, or an export with its answers, see `verify_bundle`; `write` stores them anew."""
    from pathopatch.core.artefacts import EXPORT
    from pathopatch.models.bundle import bundle_folder
    from pathopatch.models.verify import rewrite_check, verify_bundle

    is_export = (folder / EXPORT).is_file()
    if is_export and write:
        raise InputUnsupportedError("answers of an export stay", place=str(folder), remedy="export the bundle again")
    folder = folder if is_export else bundle_folder(folder)
    if write:
        rewrite_check(folder)
    return verify_bundle(folder)
