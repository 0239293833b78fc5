"""What does a review page answer from? The cohort's predictions, what was decided of them, and who decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from pathopatch.review.import_export import import_into, read_decisions

    with closing(open_cohort(out, beside=beside, manifest=manifest, work=work)) as cohort:

        def fingerprint_of(slide_id: str) -> str:
            return (cohort.fingerprint(slide_id) if cohort.known(slide_id) else None) or ""

        with Decisions(out / "review.sqlite", fingerprint_of=fingerprint_of) as decisions:
            if imported is not None:
                import_into(decisions, read_decisions(imported))
            yield Review(cohort=cohort, decisions=decisions, reviewer=reviewer)
