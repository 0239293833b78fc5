"""The outline of a region that a reviewer drew, as well-known text (WKT)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from pathopatch.core.errors import InputUnsupportedError

_WKT = re.compile(r"POLYGON \(\((\d{1,8} \d{1,8}(?:, \d{1,8} \d{1,8}){3,})\)\)", re.ASCII)
_FORM = "write POLYGON ((x y, x y, x y, x y)) in whole level-0 px, the first point again at the end"


@lru_cache(maxsize=4096)  # every reading of a log checks its rows
def region_polygon(text: str) -> Any:
    """Return the shapely Polygon of a region, level-0 px of the whole slide.

    The text is ``POLYGON ((x y, ...))``: one closed ring of whole numbers that does not cross or touch itself.

    Raises
    ------
    InputUnsupportedError
        It is no such ring; ``place`` is "region".
    """
    import shapely

    form = _WKT.fullmatch(text)
    if form is None:
        raise _refused(f"no outline of at least three points: {text[:40]!r}", _FORM)
    points = [tuple(map(int, point.split())) for point in form[1].split(", ")]
    if points[0] != points[-1]:
        raise _refused("the outline is not closed", _FORM)
    if len(set(points)) < 3:
        raise _refused("an outline of fewer than three places", "draw a larger region")
    polygon = shapely.Polygon(points)
    if not shapely.is_valid(polygon):
        place = re.search(r"\[(\S+) (\S+)\]", shapely.is_valid_reason(polygon))
        near = f" near {float(place[1]):.0f}, {float(place[2]):.0f} px" if place else ""
        raise _refused(
            f"the outline crosses or touches itself{near}", "draw it again without crossing, or draw two regions"
        )
    return polygon


def _refused(message: str, remedy: str) -> InputUnsupportedError:
    return InputUnsupportedError(message, place="region", remedy=remedy)
