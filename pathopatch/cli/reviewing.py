"""The command that serves the review page: review."""

from __future__ import annotations

import getpass
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from pathopatch.cli.options import Force, Quiet
from pathopatch.cli.output import say, set_interrupt_note
from pathopatch.core.errors import InputMissingError
from pathopatch.core.text import pluralize


def review(
    out: Annotated[Path, typer.Argument(help="Folder that predict wrote.", metavar="OUT", show_default=False)],
    beside: Annotated[
        Path | None, typer.Option(help="Predictions of another model for the same slides, to compare with.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Where the slides lie, if they were moved or deidentified.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Work folder with labels and groups. Default: OUT.")] = None,
    host: Annotated[str, typer.Option(help="Address to answer at; other than this machine's own wants a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is a free one.")] = 8000,
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
    from pathopatch.review.app import create_app, create_server, listen
    from pathopatch.review.cohort import open_review
    from pathopatch.review.security import access_for

    viewer.require()
    who = _user() if reviewer is None else reviewer
    with (
        open_review(out, reviewer=who, beside=beside, manifest=manifest, work=work, imported=imported) as opened,
        listen(host, port) as listener,
    ):
        address, bound = listener.getsockname()[:2]
        set_interrupt_note(f"every decision is in {out / 'review.sqlite'}")
        access = access_for(host, address, bound)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{bound}/" + (f"?token={access.token}" if access.token else ""), flush=True)
        if access.token:
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
