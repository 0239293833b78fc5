"""Commands to exchange heatmaps, models and decisions with other programs: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import Force, Quiet
from pathopatch.cli.output import progress_bars, say, say_warnings
from pathopatch.core.text import pluralize

Bundle = Annotated[Path, typer.Argument(help="Model bundle, runs/<run>/model.", metavar="BUNDLE")]
Folder = Annotated[Path | None, "Folder to write; default: <run>-<format>."]
ReviewFile = Annotated[Path | None, "CSV file to write; default: review.csv."]
RegionsFolder = Annotated[Path | None, "Folder to write; default: regions."]
QupathFolder = Annotated[Path | None, "Folder to write; default: qupath."]
DicomFolder = Annotated[Path | None, "Folder to write; default: dicom."]
Predictions = Annotated[Path, typer.Argument(help="Folder of predictions.", metavar="OUT")]


def export_onnx(
    bundle: Bundle,
    out: Folder = None,
    into_bundle: Annotated[bool, "Write the bundle's own model.onnx, by which OpenVINO predicts."] = False,
    force: Force = False,
) -> None:
    """Write a model as ONNX: patches in [0, 1] to probabilities. Needs the extra `train`."""
    if into_bundle and out is not None:
        raise typer.BadParameter("--out and --into-bundle exclude each other")
    from pathopatch.stages.export import add_graph, export_bundle

    print(add_graph(bundle) if into_bundle else export_bundle(bundle, out, "onnx", force=force))


def export_wsinfer(bundle: Bundle, out: Folder = None, force: Force = False) -> None:
    """Write a model of 8-bit RGB slides for wsinfer and QuPath's wsinfer extension."""
    from pathopatch.stages.export import export_bundle

    print(export_bundle(bundle, out, "wsinfer", force=force))


def export_review(source: Predictions, out: ReviewFile = None, force: Force = False) -> None:
    """Write what reviewers decided, for spreadsheets and `groups --decisions`."""
    from pathopatch.stages import export

    print(export.export_review(source, out, force=force))


def export_regions(source: Predictions, out: RegionsFolder = None, force: Force = False) -> None:
    """Write the regions that reviewers drew: GeoJSON for `tile` and QuPath, one file per slide."""
    from pathopatch.stages import export

    print(export.export_regions(source, out, force=force))


def export_qupath(source: Predictions, out: QupathFolder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write GeoJSON for QuPath, a folder per slide: patches, positive regions and what reviewers decided."""
    from pathopatch.stages import export

    with progress_bars(quiet) as progress:
        written = export.export_qupath(source, out, force=force, progress=progress)
    say_warnings(written.notes.items())
    if not quiet:
        slides = pluralize(written.slides, "slide")
        left_out = f", {len(written.notes)} left out" if written.notes else ""
        say(f"{slides}{left_out}; next, in QuPath: open a slide, and drag the files of its folder onto it")
    print(written.path)


def export_dicom(source: Predictions, out: DicomFolder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write heatmaps of DICOM slides as DICOM Parametric Maps, where the slides lie. Needs the extra `dicom`."""
    from pathopatch.stages import export

    with progress_bars(quiet) as progress:
        written = export.export_dicom(source, out, force=force, progress=progress)
    say_warnings(written.notes.items())
    print(written.path)


def import_model(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of a model of wsinfer, or a file of ONNX.", metavar="FOLDER_OR_FILE"),
    ],
    out: Annotated[Path, "Model bundle to write."],
    tumor_class: Annotated[
        list[str] | None, "Class that counts as tumour; repeat for several. Default: the one whose name says so."
    ] = None,
    description: Annotated[
        Path | None, "TOML file with what the model's files do not state. Default: the network's name, but .toml."
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="File .npz of at least three patches and their answers.", metavar="PATCHES")
    ] = None,
    untested: Annotated[bool, "Compare no answers; the model card says so."] = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make a model of another program a bundle, to predict with it and to ask whether it relies on tissue area."""
    if test and untested:
        raise typer.BadParameter("--test and --untested exclude each other")
    from pathopatch.stages import import_model

    spec = import_model.import_model(
        source, out, description=description, tumor_classes=tumor_class or (), test=test, untested=untested, force=force
    )
    if not quiet:
        say(f"counted as tumour: {spec.class_names[1]}; as the rest: {spec.class_names[0]}")
        say(f"licence: {spec.parameters['licence']}")
        compared = spec.parameters.get("test_patches")
        say(f"its answers to {compared} test patches are those due" if compared else spec.parameters["note"])
        if spec.onnx is None:
            say("the network cannot be written as ONNX: torch runs it")
    print(out)
