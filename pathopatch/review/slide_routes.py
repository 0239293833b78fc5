"""Answer with one slide: its facts and values, tiles, patches and the patches to look at first."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from pathopatch.core.errors import InputUnsupportedError
from pathopatch.review.http import (
    channels_of,
    json_answer,
    number_of,
    revalidated,
    review_of,
    slide_id_of,
    slide_of,
)
from pathopatch.review.reviewed_slide import ReviewedSlide


def facts(request: Request) -> Response:
    """Return what the browser must know of a slide before it draws it."""
    from pathopatch.review.values import available_kinds, slide_facts

    slide = slide_of(request)
    return json_answer(slide_facts(slide) | {"gallery": available_kinds(slide)})


def values(request: Request) -> Response:
    """Return a slide's cells and patches, in the layout of its facts."""
    from pathopatch.review.values import slide_values

    return Response(slide_values(slide_of(request)), media_type="application/octet-stream")


def tile(request: Request) -> Response:
    """Return a tile of the slide."""
    from pathopatch.review import tiles

    level, column, row = (number_of(request, name) for name in ("level", "column", "row"))
    channels = channels_of(request)
    return _picture(request, lambda slide: tiles.tile(slide, level, column, row, channels=channels), "image/jpeg")


def thumbnail(request: Request) -> Response:
    """Return the slide at the size of a row of the table."""
    from pathopatch.review import tiles

    return _picture(request, tiles.thumbnail, "image/jpeg")


def patch(request: Request) -> Response:
    """Return the facts of a patch."""
    from pathopatch.review.values import patch_facts

    return json_answer(patch_facts(slide_of(request), number_of(request, "x"), number_of(request, "y")))


def patch_image(request: Request) -> Response:
    """Return a patch at full resolution."""
    from pathopatch.review import tiles

    x, y, channels = number_of(request, "x"), number_of(request, "y"), channels_of(request)
    return _picture(request, lambda slide: tiles.patch_image(slide, x, y, channels=channels), "image/png")


def gallery(request: Request) -> Response:
    """Return the patches of one kind that most deserve a look."""
    from pathopatch.review import values

    slide = slide_of(request)
    kind = request.query_params.get("kind", "")
    kinds = values.available_kinds(slide)
    if kind not in kinds:
        raise InputUnsupportedError(f"no gallery {kind!r} of this slide", remedy=f"ask for {', '.join(kinds)}")
    return json_answer(values.gallery(slide, kind))


def _picture(request: Request, make: Callable[[ReviewedSlide], bytes], media_type: str) -> Response:
    """Return a picture of a slide; 304 if the browser has it."""
    slide_id, cohort = slide_id_of(request), review_of(request).cohort
    etag = f'"{cohort.fingerprint(slide_id)}"'
    return revalidated(request, etag, lambda: make(cohort.open(slide_id)), media_type)
