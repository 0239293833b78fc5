"""Record decisions, withdraw them, and export them."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response

from pathopatch.core.config import Config
from pathopatch.core.errors import InputMissingError, ReviewConflictError
from pathopatch.groups.decisions.decision import Decision
from pathopatch.review.cohort import Review
from pathopatch.review.http import body_of, json_answer, review_of, slide_id_of


class DecisionRequest(Config):
    """Body of a new decision. Types are checked here, values by `Decision`."""

    revision: int
    verdict: str
    fingerprint: str
    x: int | None = None
    y: int | None = None
    reason: str = ""
    comment: str = ""
    threshold: float | None = None
    reviewer: str | None = None


class UndoRequest(Config):
    """Body of the withdrawal of a slide's newest decision."""

    revision: int
    reviewer: str | None = None


class SlideDecisions(HTTPEndpoint):
    """The decisions on a slide."""

    def get(self, request: Request) -> Response:
        """Return the slide's decisions."""
        return _decisions(review_of(request), slide_id_of(request))

    async def post(self, request: Request) -> Response:
        """Record a decision, and return the slide's decisions with it."""
        return await run_in_threadpool(_decide, request, await body_of(request, DecisionRequest))


async def undo_newest(request: Request) -> Response:
    """Withdraw the newest decision of a slide that stands, and return the slide's decisions."""
    return await run_in_threadpool(_undo, request, await body_of(request, UndoRequest))


def export_decisions(request: Request) -> Response:
    """Return all decisions, as a file to keep."""
    from pathopatch.groups.decisions.table import decisions_csv, decisions_json

    kind = request.path_params["kind"]
    if kind not in ("csv", "json"):
        raise InputMissingError("there is no such page", remedy="go on from /")
    to_text, media_type = (decisions_csv, "text/csv") if kind == "csv" else (decisions_json, "application/json")
    headers = {"Content-Disposition": f'attachment; filename="review.{kind}"'}
    return Response(to_text(review_of(request).decisions.rows()), media_type=media_type, headers=headers)


def _decide(request: Request, body: DecisionRequest) -> Response:
    review, slide_id = review_of(request), slide_id_of(request)
    decision = Decision(
        slide_id=slide_id,
        reviewer=review.reviewer if body.reviewer is None else body.reviewer,
        run=review.cohort.run_names()[0],
        **body.model_dump(exclude={"revision", "reviewer"}),
    )
    if decision.x is not None and decision.y is not None:
        review.cohort.open(slide_id).patch_at(decision.x, decision.y)  # raises where no patch was predicted
    # A verdict is on the map that the reviewer saw: a slide predicted again since then has another one.
    if decision.fingerprint != (review.cohort.fingerprint(slide_id) or ""):
        raise ReviewConflictError(
            "the slide was predicted again since the page was opened",
            place=slide_id,
            remedy="reload the page and look again",
            state=review.decisions.state(slide_id).to_dict(),
        )
    review.decisions.record(decision, revision=body.revision)
    return _decisions(review, slide_id, 201)


def _undo(request: Request, body: UndoRequest) -> Response:
    review, slide_id = review_of(request), slide_id_of(request)
    review.decisions.undo(slide_id, body.reviewer or review.reviewer, body.revision)
    return _decisions(review, slide_id, 201)


def _decisions(review: Review, slide_id: str, status: int = 200) -> Response:
    return json_answer(review.decisions.state(slide_id).to_dict(), status)
