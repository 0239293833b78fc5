"""Commands to use a model and its results: predict, report, review, export."""

from __future__ import annotations

import getpass
import importlib.util
import shlex
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathopatch.cli.options import (
    DryRun,
    Force,
    MemoryGb,
    Quiet,
    RetryFailed,
    Runtime,
    Settings,
    SlideMpp,
    Timeout,
    TrainDevice,
    Work,
    Workers,
    require_no_limits,
    with_options,
)
from pathopatch.cli.output import finish, progress_bars, say, set_interrupt_note, show_plan
from pathopatch.core.errors import InputMissingError
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder

if TYPE_CHECKING:
    from pathopatch.stages.batch.tasks import Outcome

Bundle = Annotated[Path, typer.Argument(help="Model bundle, runs/<run>/model.", metavar="BUNDLE", show_default=False)]
Folder = Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write; default: <run>-<format>.")]


def predict(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Slide, CARS=a.tif,TPEF=b.tif,SHG=c.tif, or a manifest (.csv); features for a head on features.",
            metavar="SLIDE|MANIFEST|FEATURES",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="Model bundle: the folder model/ of a run; repeat for several, whose mean is taken.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Work folder for the outputs.", show_default=False)
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Predict a small made slide that comes with the package.")
    ] = False,
    slides: Annotated[
        Path | None,
        typer.Option(help="With features: folder or manifest of their slides, to draw under the map."),
    ] = None,
    slide_mpp: SlideMpp = None,
    slide_id: Annotated[str | None, typer.Option(help="Id of a single slide; default: the file's stem.")] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between patches; default: the bundle's.")] = None,
    all_patches: Annotated[bool, typer.Option("--all", help="Predict patches without tissue too.")] = False,
    min_tissue: Annotated[float | None, typer.Option(help="Least tissue fraction; default: the bundle's.")] = None,
    max_bad_tiles: Annotated[
        float | None,
        typer.Option(help="Share of a slide's area that may be undecodable, such as 0.02; its patches have no value."),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Mean over the eight flips and quarter turns of each patch.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Name neither files nor patients: slides are called by their content.")
    ] = False,
    device: TrainDevice = None,
    runtime: Runtime = None,
    settings: Settings = None,
    workers: Workers = 1,
    timeout: Timeout = None,
    memory_gb: MemoryGb = None,
    retry_failed: RetryFailed = False,
    no_totals: Annotated[
        bool, typer.Option("--no-totals", help="Leave cohort.csv and patients.csv to a later `pathopatch index`.")
    ] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Predict one slide or a cohort: table, heatmap, overlay, and files for other viewers."""
    from pathopatch.core.config import PredictConfig, load_settings
    from pathopatch.models.bundle import INTO_BUNDLE, bundles_without_graph
    from pathopatch.slides.manifest import pseudonymize
    from pathopatch.stages.predict import predict_cohort, slides_to_predict
    from pathopatch.stages.predict_features import predict_features, takes_features

    source, model, out = _what_to_predict(source, model, out, example=example)
    config = with_options(
        PredictConfig() if settings is None else load_settings(settings, reads=("predict",)).predict,
        all_patches=all_patches or None,
        min_tissue=min_tissue,
        max_bad_tiles=max_bad_tiles,
        stride_px=stride_px,
        device=device,
        runtime=runtime,
        tta=tta or None,
        deidentify=deidentify or None,
    )
    if takes_features(model):
        if slide_id is not None or dry_run or timeout or memory_gb:
            raise typer.BadParameter("features go without --slide-id, --dry-run, --timeout and --memory-gb")
        with progress_bars(quiet) as progress:
            outcomes = predict_features(
                Path(source),
                model,
                out,
                config,
                slides=slides,
                slide_mpp=slide_mpp,
                workers=workers,
                only_failed=retry_failed,
                totals=not no_totals,
                force=force,
                progress=progress,
            )
        _finish_predictions(out, outcomes, quiet=quiet)
        return
    if slides is not None:
        raise typer.BadParameter("--slides goes with features, and the model takes slides: name them in place of it")
    cohort = slides_to_predict(source, slide_id=slide_id)
    for bundle in bundles_without_graph(model) if config.runtime == "auto" else ():
        say(f"{bundle} has no model.onnx, so torch runs it, which is slow on a processor; add it: {INTO_BUNDLE}")
    if config.deidentify:
        named, cohort = cohort, pseudonymize(cohort)
        for before, after in zip(named, cohort, strict=True):
            say(f"{before.slide_id} is {after.slide_id}")  # on the screen alone
    if dry_run:
        require_no_limits(timeout, memory_gb)
        from pathopatch.stages.dry_run import predict_plan

        show_plan(predict_plan(cohort, model, config, slide_mpp=slide_mpp, out=out, force=force), workers)
        return
    with progress_bars(quiet) as progress:
        outcomes = predict_cohort(
            cohort,
            model,
            out,
            config,
            slide_mpp=slide_mpp,
            workers=workers,
            limit_s=timeout,
            limit_bytes=memory_gb and 1e9 * memory_gb,
            only_failed=retry_failed,
            totals=not no_totals,
            force=force,
            progress=progress,
        )
    _finish_predictions(out, outcomes, quiet=quiet)


def _what_to_predict(
    source: str | None, model: list[Path] | None, out: Path | None, *, example: bool
) -> tuple[str, list[Path], Path]:
    """Return slide, models and folder: those that were given, or the packaged ones of the example."""
    if example:
        if source or model:
            raise typer.BadParameter("--example brings its own slide and model: leave SLIDE and --model out")
        from pathopatch.demo.example import MANIFEST, MODEL

        return str(MANIFEST), [MODEL], out or Path("pathopatch-example")
    if not (source and model and out):
        raise typer.BadParameter("name a SLIDE, --model and --out, or try --example")
    return source, model, out


def _finish_predictions(out: Path, outcomes: Sequence[Outcome], *, quiet: bool) -> None:
    """Print the overlays and the commands that come next, and exit as the outcomes say."""
    overlays = [
        WorkFolder(out).heatmap(outcome.slide_id) / "overlay.png" for outcome in outcomes if outcome.state != "failed"
    ]
    for overlay in overlays:
        print(overlay)
    if overlays and not quiet:
        folder = shlex.quote(str(out))
        say(f"next: pathopatch review {folder}   (look at the maps, accept or reject)")
        say(f"      pathopatch report {folder}   (one folder to mail or archive)")
    finish(outcomes)


def report(work: Work, quiet: Quiet = False, force: Force = False) -> None:
    """Write report/index.html from whatever is in a work folder; it opens without a network."""
    from pathopatch.report import write_report

    print(write_report(work))


def review(
    out: Annotated[Path, typer.Argument(help="Folder that predict wrote.", metavar="OUT", show_default=False)],
    beside: Annotated[
        Path | None, typer.Option(help="Predictions of another model for the same slides, to compare with.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Where the slides lie, if they were moved or deidentified.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Work folder with labels and groups. Default: OUT.")] = None,
    host: Annotated[str, typer.Option(help="Address to answer at; others than this one let other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is a free one.")] = 8000,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let every user of this machine in, without the token of the address.")
    ] = False,
    reviewer: Annotated[str | None, typer.Option(help="Who decides. Default: the user's name on this machine.")] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", help="First take over decisions from an exported review.csv.")
    ] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Show predictions as a web page on this machine, where a person accepts or rejects; Ctrl-C ends it."""
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise InputMissingError("starlette or uvicorn is not installed", remedy="pip install starlette uvicorn")
    from pathopatch.review import viewer

    viewer.require()
    from pathopatch.review.app import create_app, create_server, listen
    from pathopatch.review.cohort import open_review
    from pathopatch.review.security import access_for

    who = _user() if reviewer is None else reviewer
    with (
        open_review(out, reviewer=who, beside=beside, manifest=manifest, work=work, imported=imported) as opened,
        listen(host, port) as listener,
    ):
        address, bound = listener.getsockname()[:2]
        set_interrupt_note(f"every decision is in {out / 'review.sqlite'}")
        access = access_for(host, address, bound, with_token=not no_token)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{bound}/" + (f"?token={access.token}" if access.token else ""), flush=True)
        if not ip_address(address).is_loopback:
            say("others can reach this page: the token opens it, and what is sent is not encrypted")
        if not quiet:
            slides = pluralize(len(opened.cohort.ids()), "slide")
            say(f"research use only, not for diagnosis; {slides}; Ctrl-C ends the page")
        create_server(create_app(opened, access)).run(sockets=[listener])


def _user() -> str:
    """Return the user's name on this machine; some containers have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "reviewer"


def export_torchscript(bundle: Bundle, out: Folder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write a model as TorchScript: patches in [0, 1] to probabilities."""
    from pathopatch.stages import export

    print(export.export_model(bundle, out, kind="torchscript", force=force))


def export_onnx(
    bundle: Bundle,
    out: Folder = None,
    into_bundle: Annotated[
        bool, typer.Option("--into-bundle", help="Write the bundle's own model.onnx, by which OpenVINO predicts.")
    ] = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write a model as ONNX: patches in [0, 1] to probabilities. Needs the extra `train`."""
    from pathopatch.stages import export

    if into_bundle:
        if out is not None:
            raise typer.BadParameter("--out and --into-bundle exclude each other")
        print(export.add_graph(bundle))
        return
    print(export.export_model(bundle, out, kind="onnx", force=force))


def export_openvino(
    bundle: Bundle,
    out: Folder = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute in int8; needs --calibrate and the extra `int8`.")
    ] = False,
    calibrate: Annotated[Path | None, typer.Option(help="Work folder whose training patches calibrate int8.")] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write a model for OpenVINO: patches in [0, 1] to probabilities; in int8 only if no group loses accuracy."""
    from pathopatch.stages import export

    if int8 != (calibrate is not None):
        raise typer.BadParameter("--int8 and --calibrate go together")
    if calibrate is not None:
        from pathopatch.stages.export_int8 import export_int8

        print(export_int8(bundle, calibrate, out, force=force))
    else:
        print(export.export_model(bundle, out, kind="openvino", force=force))


def export_wsinfer(bundle: Bundle, out: Folder = None, quiet: Quiet = False, force: Force = False) -> None:
    """Write a model of 8-bit RGB slides for wsinfer and QuPath's wsinfer extension."""
    from pathopatch.stages import export

    print(export.export_model(bundle, out, kind="wsinfer", force=force))


def export_review(
    out: Annotated[Path, typer.Argument(help="Folder of predictions.", metavar="OUT", show_default=False)],
    file: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV or JSON file to write; default: review.csv.")
    ] = None,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Write what reviewers decided: CSV for spreadsheets and `groups --decisions`, or JSON."""
    from pathopatch.stages import export

    print(export.export_review(out, file, force=force))


def import_wsinfer(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with config.json and torchscript_model.pt.", metavar="FOLDER", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model bundle to write.", show_default=False)],
    tumor_class: Annotated[
        list[str] | None,
        typer.Option(help="Class that counts as tumour; repeat for several. Default: the one whose name says so."),
    ] = None,
    made_by: Annotated[str, typer.Option(help="Who made the model, for the model card.")] = "",
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make a model for wsinfer a bundle, to predict with it and to measure whether it relies on tissue area."""
    from pathopatch.stages import import_model

    spec = import_model.import_wsinfer(folder, out, tumor_classes=tumor_class or (), made_by=made_by, force=force)
    if not quiet:
        say(f"counted as tumour: {spec.class_names[1]}; as the rest: {spec.class_names[0]}")
        probability = import_model.glass_probability(out)
        say(f"blank glass (a patch of grey value 240) has a probability of {probability:.3f} of {spec.class_names[1]}")
        if spec.onnx is None:
            say("the network cannot be written as ONNX: torch runs it")
    print(out)
