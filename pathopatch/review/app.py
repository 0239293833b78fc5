"""What is the review page, as a web application? Routes to what it answers from, behind a guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, InternalError, PathopatchError
from pathopatch.review import routes
from pathopatch.review.security import Access, Guard, problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pathopatch.review.slide_pool import Review


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
