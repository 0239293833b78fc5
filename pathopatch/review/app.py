"""Serve a work folder's predictions and decisions as a web application: START HERE.

What encodes slides is imported by the first request for one, so that the page itself opens at once.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pathopatch.core.errors import InputMissingError, InputUnsupportedError, InternalError, PathopatchError
from pathopatch.review import decision_routes
from pathopatch.review.http import channels_of, json_answer, number_of, revalidated, review_of, slide_id_of, slide_of
from pathopatch.review.reviewed_cohort import Review
from pathopatch.review.reviewed_slide import ReviewedSlide
from pathopatch.review.security import Access, Guard, error_response

STATIC = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


def create_app(review: Review, access: Access) -> Guard:
    """Return the application; the caller closes `review`."""
    return guarded_app(ROUTES, access, review)


def guarded_app(routes: Sequence[Route], access: Access, review: Review | None = None) -> Guard:
    """Return an application of these routes that answers allowed requests alone."""
    app = Starlette(
        routes=routes,
        exception_handlers={PathopatchError: _refusal, HTTPException: _no_such_route, Exception: _internal_error},
    )
    # A redirect would name a host: `//elsewhere/` must not become one.
    app.router.redirect_slashes = False
    app.state.review, app.state.files = review, _static_files()
    return Guard(app, access)


class _StaticFile(NamedTuple):
    """A file of the page, as it is sent."""

    body: bytes
    media_type: str
    etag: str


def page_route(address: str, name: str) -> Route:
    """Return the route of a page that is the same for all slides."""

    async def answer(request: Request) -> Response:
        return _page(request, name)

    return Route(address, answer)


def _page_of_slide(request: Request) -> Response:
    """Return the page of one slide; its script reads the id from the address."""
    address = f"/api/slides/{quote(slide_id_of(request), safe='')}"
    answer = _page(request, "slide.html")
    # The browser fetches these while it still loads the scripts that need them.
    preloads = (f"<{target}>; rel=preload; as=fetch; crossorigin" for target in (address, f"{address}/values"))
    answer.headers["Link"] = ", ".join(preloads)
    return answer


async def _static(request: Request) -> Response:
    """Return a script, a style, a licence, or the icon of the browser's tab; 304 if the browser has it."""
    file: _StaticFile | None = request.app.state.files.get(request.path_params.get("name", "favicon.svg"))
    if file is None:
        raise InputMissingError("there is no such page", remedy="go on from /")
    return revalidated(request, file.etag, lambda: file.body, file.media_type)


def _static_files() -> dict[str, _StaticFile]:
    """Return the page's files by their address below /static/."""
    # Read once: half a megabyte. A request can then reach no other file, whatever its address.
    files = {}
    for path in STATIC.rglob("*"):
        if path.suffix in _MEDIA_TYPES and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            files[path.relative_to(STATIC).as_posix()] = _StaticFile(body, _MEDIA_TYPES[path.suffix], etag)
    return files


def _page(request: Request, name: str) -> Response:
    """Return an HTML page. The browser does not keep it: its address names a slide."""
    page: _StaticFile = request.app.state.files[name]
    return Response(page.body, media_type=page.media_type)


async def _ready(_request: Request) -> Response:
    """Confirm that the page answers."""
    return json_answer({"ready": True})


def _cohort(request: Request) -> Response:
    """Return one row per slide, with its current decision and how far its readings are."""
    review = review_of(request)
    states = review.decisions.verdicts(review.reviewer)
    unread: dict[str, Any] = {
        "decision": None,
        "verdicts": [],
        "is_mine_done": False,
        "dispute": [],
        "disputed_patches": 0,
    }
    rows = [row | states.get(row["slide_id"], unread) for row in review.cohort.rows()]
    model, beside = review.cohort.models()
    answer = json_answer(
        {
            "rows": rows,
            "left_out": review.cohort.left_out(),
            "folder": review.cohort.out.resolve().name,
            "model": model,
            "beside": beside,
            "fields": list(rows[0]) if rows else [],
            "reviewer": review.reviewer,
            "is_blinded": review.decisions.is_blinded(),
            "note": "Research use only, not for diagnosis",
        }
    )
    # Imports take a second: done while the reviewer looks at the table.
    answer.background = BackgroundTask(_import_for_slides)
    return answer


def _newest(request: Request) -> Response:
    """Return the number of the newest decision that the reader may know of; pages ask for it every other second."""
    review = review_of(request)
    return json_answer({"newest": review.decisions.newest(review.reviewer)})


def _model_card(request: Request) -> Response:
    """Return the card of a model, as a page."""
    from pathopatch.heatmaps.model_record import card_html

    fingerprint: str = request.path_params["fingerprint"]
    if not re.fullmatch("[0-9a-f]{16}", fingerprint):
        raise InputMissingError("there is no such model", remedy="go on from /")
    return HTMLResponse(_CARD_PAGE.format(card_html(review_of(request).cohort.card(fingerprint))))


def _facts(request: Request) -> Response:
    """Return what the browser must know of a slide before it draws it."""
    from pathopatch.review.values import available_kinds, browser_facts

    slide, own_classes = slide_of(request), review_of(request).config.region_classes
    return json_answer(browser_facts(slide) | {"gallery": available_kinds(slide), "region_classes": own_classes})


def _values(request: Request) -> Response:
    """Return a slide's cells and patches, in the layout of its facts."""
    from pathopatch.review.values import slide_values

    return Response(slide_values(slide_of(request)), media_type="application/octet-stream")


def _tile(request: Request) -> Response:
    """Return a tile of the slide."""
    from pathopatch.review import tiles

    level, column, row = (number_of(request, name) for name in ("level", "column", "row"))
    channels = channels_of(request)
    return _picture(request, lambda slide: tiles.tile_image(slide, level, column, row, channels=channels), "image/jpeg")


def _thumbnail(request: Request) -> Response:
    """Return the slide at the size of a row of the table."""
    from pathopatch.review import tiles

    return _picture(request, tiles.slide_thumbnail, "image/jpeg")


def _tissue(request: Request) -> Response:
    """Return where maps fill the slide."""
    from pathopatch.review import tiles

    return _picture(request, tiles.tissue_image, "image/png")


def _patch(request: Request) -> Response:
    """Return the facts of a patch."""
    from pathopatch.review.values import patch_facts

    return json_answer(patch_facts(slide_of(request), number_of(request, "x"), number_of(request, "y")))


def _patch_image(request: Request) -> Response:
    """Return a patch at full resolution."""
    from pathopatch.review import tiles

    x, y, channels = number_of(request, "x"), number_of(request, "y"), channels_of(request)
    return _picture(request, lambda slide: tiles.patch_image(slide, x, y, channels=channels), "image/png")


def _gallery(request: Request) -> Response:
    """Return the patches of one kind that most deserve a look."""
    from pathopatch.review import values

    return json_answer(values.patches_to_look_at(slide_of(request), request.query_params.get("kind", "")))


def _picture(request: Request, make: Callable[[ReviewedSlide], bytes], media_type: str) -> Response:
    """Return a picture of a slide; 304 if the browser has it."""
    slide_id, cohort = slide_id_of(request), review_of(request).cohort
    etag = f'"{cohort.fingerprint(slide_id)}"'
    return revalidated(request, etag, lambda: make(cohort.open(slide_id)), media_type)


def _import_for_slides() -> None:
    """Import what the first slide needs."""
    for module in ("pyarrow.parquet", "pathopatch.review.values", "pathopatch.slides"):
        importlib.import_module(module)


_CARD_PAGE = Markup(
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Model card · pathopatch review</title>'
    '<link rel="icon" href="/favicon.ico"><link rel="stylesheet" href="/static/review.css"></head>'
    '<body class="card-page"><header><a class="back" href="/">← Cohort</a><h1>Model card</h1>'
    '<p class="research">Research use only</p></header><main>{}</main></body></html>'
)
_SLIDE = "/api/slides/{slide_id}"
SHARED_ROUTES = (Route("/static/{name:path}", _static), Route("/favicon.ico", _static), Route("/ready", _ready))
ROUTES = (
    page_route("/", "cohort.html"),
    page_route("/agreement", "agreement.html"),
    Route("/slides/{slide_id}", _page_of_slide),
    Route("/models/{fingerprint}", _model_card),
    *SHARED_ROUTES,
    Route("/api/cohort", _cohort),
    Route("/api/newest", _newest),
    Route(_SLIDE, _facts),
    Route(f"{_SLIDE}/values", _values),
    Route(f"{_SLIDE}/tiles/{{level}}/{{column}}/{{row}}.jpg", _tile),
    Route(f"{_SLIDE}/thumbnail.jpg", _thumbnail),
    Route(f"{_SLIDE}/tissue.png", _tissue),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}.png", _patch_image),
    Route(f"{_SLIDE}/patches/{{x}}/{{y}}", _patch),
    Route(f"{_SLIDE}/gallery", _gallery),
    Route(f"{_SLIDE}/decisions", decision_routes.SlideDecisions),
    Route(f"{_SLIDE}/undo", decision_routes.undo_newest, methods=["POST"]),
    Route("/api/agreement", decision_routes.agreement),
    Route("/export/qupath.zip", decision_routes.qupath),
    Route("/export/{name}", decision_routes.export),
)
"""All addresses. None shows a slide's label or macro image, which may name a patient."""


async def _refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PathopatchError)
    state = getattr(error, "state", None)
    return error_response(error) if state is None else error_response(error, state=state)


async def _no_such_route(_request: Request, error: Exception) -> Response:
    """Return Starlette's own refusals as JSON; the headers of a 405 name the allowed methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        refusal: PathopatchError = InputMissingError("there is no such page", remedy="go on from /")
    else:
        refusal = InputUnsupportedError(error.detail, remedy="send the request that the page sends")
    answer = error_response(refusal, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _internal_error(_request: Request, error: Exception) -> Response:
    """Return the type of an unforeseen error; uvicorn writes its traceback to the terminal."""
    remedy = "see the terminal in which `pathopatch review` runs"
    return error_response(InternalError(f"{type(error).__name__} while answering", remedy=remedy))
