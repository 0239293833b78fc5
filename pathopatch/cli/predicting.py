"""Commands to use a model and its results: predict, report, review."""

from __future__ import annotations

import importlib.util
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pathopatch.cli.options import IN_DRY_RUN, Batch, ConfigFile, Fields, Quiet, SlideId, SlideMpp, Work, refuse
from pathopatch.cli.output import finish, progress_bars, say, say_left_out, say_warnings, set_interrupt_note, show_plan
from pathopatch.core.errors import InputMissingError, PathopatchError
from pathopatch.core.text import pluralize
from pathopatch.core.work_folder import WorkFolder

if TYPE_CHECKING:
    from socket import socket as Socket

    from pathopatch.core.config import BatchOptions, PredictConfig
    from pathopatch.core.input_files import LeftOut
    from pathopatch.core.task import Outcome
    from pathopatch.review.decisions import DecisionLog
    from pathopatch.review.security import Access, Guard
    from pathopatch.stages.batch.run_summary import RunSummary
    from pathopatch.stages.find_slides import Cohort, ToPredict


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        help="Slides or folders of slides, CARS=a.tif,TPEF=b.tif,SHG=c.tif, or a manifest (.csv, .xlsx); "
        "features for a head on features.",
        metavar="SLIDES|FOLDER|MANIFEST",
    ),
]


def predict(
    context: typer.Context,
    source: Sources = None,
    model: Annotated[
        list[Path] | None,
        "Model bundle, or the folder of the run that made it; repeat for several, whose mean is taken.",
    ] = None,
    out: Annotated[Path | None, "Work folder for the outputs."] = None,
    example: Annotated[bool, "Predict a small made slide that comes with the package."] = False,
    example_model: Annotated[bool, "In place of --model: a small one of two H&E slides, for trying alone."] = False,
    slides: Annotated[Path | None, "With features: folder or manifest of their slides, to draw under the map."] = None,
    slide_mpp: SlideMpp = None,
    slide_id: SlideId = None,
    summary: Annotated[
        Path | None, "JSON of what this run found, with a .txt beside it; print this text alone."
    ] = None,
    part: Annotated[
        str | None,
        "3/20: the third of 20 parts of a manifest, into a folder of its own, for drives without shared locks.",
    ] = None,
    config: ConfigFile = None,
    *,
    settings: Annotated[PredictConfig, Fields("max_bad_tiles deidentify area_correct device replace_changed")],
    batch: Batch,
) -> None:
    """Predict slides, a folder or a cohort: table, heatmap, overlay, and files for other viewers."""
    from pathopatch.stages.batch.parts import part_of_manifest
    from pathopatch.stages.batch.run import exit_code
    from pathopatch.stages.find_slides import features_to_predict
    from pathopatch.stages.predict import named, open_model, predict_cohort, predict_plan, slow_model_notes

    sources, models, out = _what_to_predict(source, model, out, example=example, example_model=example_model)
    if summary is not None and (settings.deidentify or batch.dry_run or summary.suffix != ".json"):
        raise typer.BadParameter("--summary takes a .json, and goes without --dry-run and --deidentify: it names files")
    is_quiet = batch.quiet or summary is not None
    with nullcontext() if summary is None else _summarized(summary, out) as record:
        opened = open_model(models, settings)  # before every file of a large folder is opened
        cohort: ToPredict
        left_out: tuple[LeftOut, ...] = ()
        if opened.spec.encoder is None:
            if slides is not None:
                raise typer.BadParameter("--slides goes with features; slides to predict are named in place of it")
            for note in slow_model_notes(opened, settings) if summary is None else ():
                say(note)
            found = _find_slides(sources, out, slide_id, is_quiet=is_quiet, record=record)
            cohort, left_out = found.rows, found.left_out
            if part is not None:
                names = None if batch.dry_run else partial(named, config=settings)
                cohort = part_of_manifest(sources, out, cohort, part, names)
            if settings.deidentify:
                for row, renamed in zip(cohort, named(cohort, settings), strict=True):
                    say(f"{row.slide_id} is {renamed.slide_id}")  # on the screen alone
            if batch.dry_run:
                refuse(context, IN_DRY_RUN)
                plan = predict_plan(cohort, opened, out, settings, batch, slide_mpp=slide_mpp)
                show_plan(plan, batch.workers)
                return
        else:
            _require_features_alone(sources, slide_id, part, batch)
            cohort = features_to_predict(Path(sources[0]), slides=slides)
        with progress_bars(is_quiet) as progress:
            outcomes = predict_cohort(
                cohort, opened, out, settings, batch, slide_mpp=slide_mpp, left_out=left_out, progress=progress
            )
        text = "" if record is None else record.write(cohort, outcomes, left_out)
    if record is not None:
        print(text)
        raise typer.Exit(exit_code(outcomes))
    _show_maps(out, outcomes, batch.quiet)
    finish(outcomes, batch)


@contextmanager
def _summarized(path: Path, out: Path) -> Iterator[RunSummary]:
    """Summarize a run; print the text of one that an error ends, since a mail may be all that is read of it."""
    from pathopatch.stages.batch.run_summary import RunSummary

    record = RunSummary(path, out)
    try:
        record.begin()
        yield record
    except Exception as error:
        text = record.fail(error)
        if not isinstance(error, PathopatchError):
            raise
        print(text)
        raise typer.Exit(1) from error


def _what_to_predict(
    source: list[str] | None, model: list[Path] | None, out: Path | None, *, example: bool, example_model: bool
) -> tuple[list[str], list[Path], Path]:
    """Return slides, models and folder: those that were given, or the packaged ones of the example."""
    if example:
        if source or model or example_model:
            raise typer.BadParameter("--example brings its own slide and model: leave SLIDE and --model out")
        from pathopatch.demo import EXAMPLE_MANIFEST, EXAMPLE_MODEL

        return [str(EXAMPLE_MANIFEST)], [EXAMPLE_MODEL], out or Path("pathopatch-example")
    if example_model:
        if model:
            raise typer.BadParameter("--example-model takes the place of --model")
        from pathopatch.demo import EXAMPLE_HE_MODEL

        say("the example model is for trying the tool: it learnt from two slides, and says nothing about a patient")
        model = [EXAMPLE_HE_MODEL]
    if not (source and model and out):
        raise typer.BadParameter("name a SLIDE, --model and --out, or try --example or --example-model")
    return source, model, out


def _find_slides(
    sources: list[str], out: Path, slide_id: str | None, *, is_quiet: bool, record: RunSummary | None
) -> Cohort:
    """Return the slides that are named; what is left out, and what has moved, is printed or recorded."""
    from pathopatch.stages.find_slides import find_cohort

    with progress_bars(is_quiet) as progress:
        found = find_cohort(sources, out=out, slide_id=slide_id, progress=progress)
    if record is None:
        say_left_out(found.left_out)
        say_warnings(found.moved.items())
    else:
        record.moved = found.moved
    return found


def _require_features_alone(sources: list[str], slide_id: str | None, part: str | None, batch: BatchOptions) -> None:
    """Refuse what a head on features does not take."""
    if part is not None:
        raise typer.BadParameter("features go without --part")
    if batch.dry_run:
        raise typer.BadParameter("a head on features goes without --dry-run")
    if slide_id is not None:
        raise typer.BadParameter("features go without --slide-id: their files name the slides")
    if len(sources) > 1:
        raise typer.BadParameter("name one folder or file of features")


def _show_maps(out: Path, outcomes: list[Outcome], quiet: bool) -> None:
    """Print the picture of each slide that was predicted, and say what to do with them."""
    overlays = [WorkFolder(out).heatmap(outcome.slide_id) / "overlay.png" for outcome in outcomes if not outcome.code]
    for overlay in overlays:
        print(overlay)
    if overlays and not quiet:
        folder = shlex.quote(str(out))
        say(f"next: pathopatch review {folder}   (look at the maps, accept or reject)")
        say(f"      pathopatch report {folder}   (one folder to mail or archive)")


def report(work: Work) -> None:
    """Write report/index.html from whatever is in a work folder; it opens without a network."""
    from pathopatch.report import write_report
    from pathopatch.stages.batch.parts import read_parts

    read_parts(work, is_whole=True)
    print(write_report(work))


class _Page(NamedTuple):
    """A page to serve: how it is made, what is said of it, and who may open it."""

    create: Callable[[Access], Guard]
    shows: str
    tokens: Mapping[str, str]
    note: str = ""


_REVIEW_REFUSES = {
    "--socket": {"it goes without --socket": "host port no_token reader new_links pack"},
    "--pack": {"it goes without --pack": "beside manifest work host imported blinded new_links"},
}
"""Options that are refused behind a proxy, and where a pack is answered, by the reason."""


def review(
    context: typer.Context,
    out: Annotated[Path | None, typer.Argument(help="Folder that predict wrote.", metavar="OUT")] = None,
    beside: Annotated[Path | None, "Predictions of another model for the same slides, to compare with."] = None,
    manifest: Annotated[Path | None, "Where the slides lie, if they were moved or deidentified."] = None,
    work: Annotated[Path | None, "Work folder with labels and groups. Default: OUT."] = None,
    host: Annotated[str, "Address to answer at; others than this one let other machines in."] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is a free one.")] = 8000,
    no_token: Annotated[bool, "Let every user of this machine in, without the token of the address."] = False,
    reader: Annotated[
        list[str] | None, "Who decides, once for each: a link of one's own. Default: this user; of --pack: reader."
    ] = None,
    new_links: Annotated[bool, "End the links of earlier starts, which else stay good."] = False,
    socket: Annotated[Path | None, "Answer at a unix socket, for a proxy on this machine, in place of a port."] = None,
    trust_header: Annotated[str | None, "With --socket: the header in which the proxy names who has logged in."] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", help="First take over decisions from an exported review.csv.")
    ] = None,
    blinded: Annotated[
        bool | None,
        typer.Option("--blinded/--no-blinded", help="Hide others' verdicts until yours; the folder keeps it."),
    ] = None,
    pack: Annotated[Path | None, "In place of OUT: a pack to answer, or what was sent."] = None,
    quiet: Quiet = False,
) -> None:
    """Show predictions as a web page on this machine, where a person accepts or rejects; Ctrl-C ends it."""
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise InputMissingError("starlette or uvicorn is not installed", remedy="pip install starlette uvicorn")
    from pathopatch.review.security import proxy_access
    from pathopatch.review.server import create_server, listen, listen_at

    if (socket is None) != (trust_header is None):
        raise typer.BadParameter("--socket and --trust-header go together")
    if socket is not None:
        refuse(context, _REVIEW_REFUSES["--socket"])
    by_proxy = None if trust_header is None else proxy_access(trust_header)
    if reader is not None and len(reader) > 1 and (no_token or pack is not None):
        raise typer.BadParameter("several readers go without --no-token and without --pack")
    with ExitStack() as stack:
        if pack is not None and out is None:
            refuse(context, _REVIEW_REFUSES["--pack"])
            page = _pack_page(pack, reader)
        elif out is not None and pack is None:
            folders = {"beside": beside, "manifest": manifest, "work": work, "imported": imported}
            page = _cohort_page(stack, out, reader, renew=new_links, blinded=blinded, **folders)
        else:
            raise typer.BadParameter("name OUT, or --pack")
        if socket is not None and by_proxy is not None:
            listener, access = stack.enter_context(listen_at(socket)), by_proxy
            stack.callback(socket.unlink, missing_ok=True)
            print(f"unix:{socket}", flush=True)
        else:
            listener = stack.enter_context(listen(host, port))
            access = _access_at(listener, host, page, no_token=no_token)
        if not quiet:
            say(f"research use only, not for diagnosis; {page.shows}; Ctrl-C ends the page")
        create_server(page.create(access)).run(sockets=[listener])


def _pack_page(pack: Path, reader: list[str] | None) -> _Page:
    """Return the page on which one reader answers a pack."""
    from pathopatch.review.pack_page import PackReading, create_pack_app

    (name,) = reader or ["reader"]
    reading = PackReading(pack, name)
    shows = f"answers are in {reading.file}"
    set_interrupt_note(shows)
    return _Page(partial(create_pack_app, reading), shows, {name: secrets.token_urlsafe(32)})


def _cohort_page(stack: ExitStack, out: Path, readers: list[str] | None, *, renew: bool, **options: Any) -> _Page:
    """Return the page of predictions; when the stack ends, note where the decisions are.

    `options` are those of `open_review`.
    """
    from pathopatch.review import viewer

    viewer.require()
    from pathopatch.review.app import create_app
    from pathopatch.review.links import reader_links
    from pathopatch.review.reviewed_cohort import open_review

    opened = stack.enter_context(open_review(out, reviewer=readers[0] if readers else None, **options))
    links = reader_links(out, readers or [opened.reviewer], renew=renew)
    stack.callback(lambda: set_interrupt_note(_where_decisions_are(opened.decisions, out)))
    note = "" if links.file else "these links end with the page: the folder that keeps them cannot be written"
    return _Page(partial(create_app, opened), pluralize(len(opened.cohort.ids()), "slide"), links.tokens, note)


def _access_at(listener: Socket, host: str, page: _Page, *, no_token: bool) -> Access:
    """Return the access to a page at a host's port; print its addresses, and who else reaches them."""
    from pathopatch.review.security import access_for

    address, port = listener.getsockname()[:2]
    access = access_for(host, address, port, {} if no_token else page.tokens)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    for name, token in access.tokens.items():
        print((f"{name}: " if len(access.tokens) > 1 else "") + f"{url}?token={token}", flush=True)
    if no_token:
        print(url, flush=True)
    elif page.note:
        say(page.note)
    if not ip_address(address).is_loopback:
        say("others can reach this page: the token opens it, and what is sent is not encrypted")
    return access


def _where_decisions_are(log: DecisionLog, out: Path) -> str:
    """Return where every decision is when the page ends, whatever became of the log meanwhile."""
    if not log.rows():
        return "nobody has decided anything"
    kept = log.keep_lost()
    if kept is None:
        return f"every decision is in {log.path}"
    again = f"pathopatch review {shlex.quote(str(out))} --import {shlex.quote(str(kept))}"
    again += " --blinded" if log.is_blinded() else ""
    return f"{log.path} was removed, replaced or damaged; every decision is in {kept}; to go on: {again}"
