"""Read what a request asks for, and make its answer. Ids and numbers of an address never become a path."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import unquote_plus

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pathopatch.core.config import Config
from pathopatch.core.errors import InputMissingError, InputUnsupportedError
from pathopatch.core.files import json_text
from pathopatch.review.reviewed_cohort import Review
from pathopatch.review.reviewed_slide import ReviewedSlide
from pathopatch.review.security import MAX_BODY_BYTES, body_too_large, reader_of

T = TypeVar("T", bound=Config)

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


def json_answer(value: object, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(json_text(value), status, media_type="application/json")


def review_of(request: Request) -> Review:
    """Return what the application answers from, for the reader who asks."""
    review: Review = request.app.state.review
    reader = reader_of(request.scope)
    return review if reader is None else replace(review, reviewer=review.decisions.reader(reader))


def slide_id_of(request: Request) -> str:
    """Return the slide id of an address; InputMissingError if the cohort has no such slide."""
    slide_id: str = request.path_params["slide_id"]
    if not review_of(request).cohort.has_slide(slide_id):
        raise InputMissingError(f"there is no slide {slide_id[:128]!r}", remedy="choose one of the table at /")
    return slide_id


def slide_of(request: Request) -> ReviewedSlide:
    """Return the slide of an address; errors as `slide_id_of`, InputMissingError if it has no heatmap."""
    return review_of(request).cohort.open(slide_id_of(request))


def number_of(request: Request, name: str) -> int:
    """Return a number of an address; InputMissingError if it is none."""
    text = request.path_params[name]
    if not _NUMBER.fullmatch(text):
        raise InputMissingError(f"{name} is not a number: {text[:20]!r}", remedy="give a whole number from 0 on")
    return int(text)


def channels_of(request: Request) -> tuple[str, ...] | None:
    """Return the channels of an address, None where it names none."""
    # Split before unquoting: a comma within a channel's name is %2C.
    for part in request.url.query.split("&"):
        name, _, value = part.partition("=")
        if name == "channels":
            return tuple(unquote_plus(one) for one in value.split(",")) if value else ()
    return None


def revalidated(request: Request, etag: str, make: Callable[[], bytes], media_type: str) -> Response:
    """Return content that the browser keeps but asks for again; 304 if it has this version."""
    # `no-cache`: tomorrow another work folder may answer at this address, with other slides of the same ids.
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(make(), media_type=media_type, headers=headers)


async def body_of(request: Request, kind: type[T]) -> T:
    """Return the body of a write; HTTPException 415 if it is not JSON, InputTooLargeError if it is too long."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "a decision is sent as application/json")
    # Counted as it comes: a chunked body has no Content-Length that the guard could check.
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise body_too_large()
        return kind.model_validate_json(bytes(body), strict=True)
    except ClientDisconnect as error:
        raise InputUnsupportedError("the body ends early", remedy="send it again") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise InputUnsupportedError("; ".join(problems)[:1000], remedy="send what the page sends") from error
