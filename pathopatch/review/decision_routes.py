"""Record decisions, withdraw them, compare those of two reviewers, and export them."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from pathopatch.core.config import Config
from pathopatch.core.errors import InputMissingError, InputUnsupportedError, ReviewConflictError, ReviewRefusedError
from pathopatch.groups.decisions.decision import VERDICTS, Decision, region_polygon
from pathopatch.groups.decisions.readers import reader_key
from pathopatch.groups.decisions.table import decisions_csv
from pathopatch.review.http import body_of, json_answer, review_of, slide_id_of
from pathopatch.review.reading import agreement_summary
from pathopatch.review.reviewed_cohort import Review


class DecisionRequest(Config):
    """Body of a new decision. Types are checked here, values by `Decision`."""

    revision: int
    verdict: str
    fingerprint: str
    x: int | None = None
    y: int | None = None
    reason: str = ""
    comment: str = ""
    region: str = ""
    settles: str = ""
    threshold: float | None = None
    reviewer: str | None = None


class UndoRequest(Config):
    """Body of the withdrawal of a reviewer's newest decision on a slide."""

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
    """Withdraw the reviewer's own newest decision on a slide, and return the slide's decisions."""
    return await run_in_threadpool(_undo, request, await body_of(request, UndoRequest))


def export(request: Request) -> Response:
    """Return a file to keep: all decisions, as a table or as GeoJSON."""
    name: str = request.path_params["name"]
    if name not in _EXPORTS:
        raise InputMissingError("there is no such page", remedy="go on from /")
    file, media_type, make = _EXPORTS[name]
    headers = {"Content-Disposition": f'attachment; filename="{file}"'}
    return Response(make(review_of(request)), media_type=media_type, headers=headers)


def qupath(request: Request) -> Response:
    """Return an archive of the folder for QuPath, with the decisions so far."""
    from pathopatch.heatmaps.qupath import write_qupath_folder

    review = review_of(request)
    temporary = tempfile.TemporaryDirectory(prefix="pathopatch-qupath-")
    with ExitStack() as unless_sent:
        unless_sent.callback(temporary.cleanup)
        folder, archive = Path(temporary.name) / "qupath", Path(temporary.name) / "qupath.zip"
        write_qupath_folder(review.cohort.out, folder, rows=review.rows())
        with zipfile.ZipFile(archive, "w") as target:  # stored: what is large is compressed already
            for path in sorted(folder.rglob("*")):
                target.write(path, path.relative_to(folder.parent))
        unless_sent.pop_all()
    done = BackgroundTask(temporary.cleanup)
    return FileResponse(archive, media_type="application/zip", filename="qupath.zip", background=done)


def agreement(request: Request) -> Response:
    """Return how reviewers agree, and what they differ in."""
    review = review_of(request)
    more = {"folder": review.cohort.out.resolve().name, "is_blinded": review.decisions.is_blinded()}
    return json_answer(agreement_summary(review.rows()) | more)


def _geojson_zip(review: Review) -> bytes:
    """Return an archive with one GeoJSON per slide; equal files give equal bytes."""
    from pathopatch.heatmaps.qupath import decision_files

    files = decision_files(review.cohort.out, review.rows())
    if not files:
        raise InputMissingError(
            "no decision that you may see is on a predicted slide",
            remedy="decide, or draw a region, on the page of a slide",
        )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # without the time of day
    return stream.getvalue()


_EXPORTS: dict[str, tuple[str, str, Callable[[Review], str | bytes]]] = {
    "decisions.csv": ("review.csv", "text/csv", lambda review: decisions_csv(review.rows())),
    "decisions.zip": ("decisions.zip", "application/zip", _geojson_zip),
}
"""By address: the file's name, its type, and what makes it."""


def _decide(request: Request, body: DecisionRequest) -> Response:
    review, slide_id = review_of(request), slide_id_of(request)
    decision = Decision(
        slide_id=slide_id,
        reviewer=_own_name(review, body.reviewer),
        run=review.cohort.model_name(slide_id),
        **body.model_dump(exclude={"revision", "reviewer"}),
    )
    if decision.x is not None and decision.y is not None:
        review.cohort.open(slide_id).patch_at(decision.x, decision.y)  # raises where no patch was predicted
    if decision.region:
        if decision.verdict not in (allowed := (*VERDICTS["region"], *review.config.region_classes)):
            raise InputUnsupportedError(
                f"{decision.verdict!r} is no class of regions here",
                place="verdict",
                remedy=f"choose of {', '.join(allowed)}, or add it to region_classes in review.toml",
            )
        _require_on_slide(decision.region, review.cohort.open(slide_id).size)
    # A verdict is on the map that the reviewer saw: a slide predicted again since then has another one.
    if decision.fingerprint != (review.cohort.fingerprint(slide_id) or ""):
        raise ReviewConflictError(
            "the slide was predicted again since the page was opened",
            place=slide_id,
            remedy="reload the page and look again",
            state=review.decisions.state(slide_id, review.reviewer),
        )
    review.decisions.record(decision, revision=body.revision, reader=review.reviewer)
    return _decisions(review, slide_id, 201, since=body.revision)


def _own_name(review: Review, name: str | None) -> str:
    """Return the link's reader; refuse another one's name: one browser may have opened two links."""
    if name is not None and reader_key(name) != reader_key(review.reviewer):
        raise ReviewRefusedError(
            f"this link records decisions of {review.reviewer}, not of {name[:200]!r}",
            place="reviewer",
            remedy="reload the page, or open that reader's own link",
        )
    return review.reviewer


def _require_on_slide(region: str, size: tuple[int, int]) -> None:
    """Refuse a region that reaches over the edge of its slide of `size` (width, height), level-0 px."""
    _, _, right, bottom = region_polygon(region).bounds  # never negative
    if right > size[0] or bottom > size[1]:
        raise InputUnsupportedError(
            f"the region reaches to {right:.0f}, {bottom:.0f} px, the slide to {size[0]}, {size[1]} px",
            place="region",
            remedy="draw it within the slide",
        )


def _undo(request: Request, body: UndoRequest) -> Response:
    review, slide_id = review_of(request), slide_id_of(request)
    review.decisions.undo(slide_id, _own_name(review, body.reviewer), body.revision, review.reviewer)
    return _decisions(review, slide_id, 201, since=body.revision)


def _decisions(review: Review, slide_id: str, status: int = 200, *, since: int = 0) -> Response:
    return json_answer(review.decisions.state(slide_id, review.reviewer, since=since), status)
