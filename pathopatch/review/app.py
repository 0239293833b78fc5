"""What is the review page, as a web application? A cohort, its decisions, and the routes to them, behind a guard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pathopatch.errors import InputMissingError, InputUnsupportedError, InternalError, PathopatchError
from pathopatch.review import routes
from pathopatch.review.security import Access, Guard, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pathopatch.review.cohort import ReviewedCohort
    from pathopatch.review.decisions import Decisions


@dataclass(frozen=True, kw_only=True)
class Review:
    """What the routes answer from.

    Parameters
    ----------
    cohort : ReviewedCohort
        Whose predictions are shown.
    decisions : Decisions
        What was decided of them.
    reviewer : str
        Who decides, where the page does not say.
    """

    cohort: ReviewedCohort
    decisions: Decisions
    reviewer: str


@contextmanager
def opened(
    out: Path,
    *,
    reviewer: str,
    beside: Path | None = None,
    manifest: Path | None = None,
    work: Path | None = None,
    imported: Path | None = None,
) -> Iterator[Review]:
    """Yield what a page answers from, and close it in the end.

    Parameters
    ----------
    out : Path
        Folder that ``predict`` wrote; gets ``review.sqlite``.
    reviewer : str
        Who decides, where the page does not say.
    beside : Path, optional
        Predictions of another model for the same slides.
    manifest : Path, optional
        Where the slides lie, before what the status files say.
    work : Path, optional
        Folder with labels and groups; `out` if not given.
    imported : Path, optional
        Exported decisions to take over first.

    Raises
    ------
    InputMissingError
        A file or folder is missing, or there is no prediction in `out`.
    InputUnsupportedError
        `out` cannot be written, or a decision that is to be imported is refused.
    InputCorruptError
        What lies there cannot be read.
    """
    from pathopatch.review.cohort import open_cohort
    from pathopatch.review.decisions import Decisions
    from pathopatch.review.exchange import import_into, read_decisions

    with closing(open_cohort(out, beside=beside, manifest=manifest, work=work)) as cohort:

        def fingerprint_of(slide_id: str) -> str:
            return (cohort.fingerprint(slide_id) if cohort.known(slide_id) else None) or ""

        with Decisions(out / "review.sqlite", fingerprint_of=fingerprint_of) as decisions:
            if imported is not None:
                import_into(decisions, read_decisions(imported))
            yield Review(cohort=cohort, decisions=decisions, reviewer=reviewer)


def create_app(review: Review, access: Access) -> ASGIApp:
    """Return the application.

    Parameters
    ----------
    review : Review
        What it answers from; closing it is the caller's.
    access : Access
        Who may ask.
    """
    app = Starlette(
        routes=routes.ROUTES,
        exception_handlers={PathopatchError: _refused, HTTPException: _no_route, Exception: _unforeseen},
    )
    app.router.redirect_slashes = False
    app.state.review = review
    app.state.files = routes.static_files()
    return Guard(app, access)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PathopatchError)
    state = getattr(error, "state", None)
    return problem(error) if state is None else problem(error, state=state)


async def _no_route(_request: Request, error: Exception) -> Response:
    """Return what Starlette itself refuses, as JSON; of a 405 with the methods that there are."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        told: PathopatchError = InputMissingError("there is no such page", remedy="go on from /")
    else:
        told = InputUnsupportedError(error.detail, remedy="ask as the page does")
    answer = problem(told, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _unforeseen(_request: Request, error: Exception) -> Response:
    """Return that something is wrong; what it is goes to the terminal, where uvicorn writes it."""
    return problem(
        InternalError(
            f"{type(error).__name__} while answering", remedy="see the terminal in which `pathopatch review` runs"
        )
    )
