"""What did people decide of slides and patches, and what follows from it? It is read here, not written.

The page `pathopatch review` writes decisions, as rows that are only ever appended.
"""

from pathopatch.groups.decisions.rows import (
    PATCH_VERDICTS,
    SLIDE_VERDICTS,
    UNDO,
    Decision,
    Recorded,
    standing,
    utc_text,
)

__all__ = ["PATCH_VERDICTS", "SLIDE_VERDICTS", "UNDO", "Decision", "Recorded", "standing", "utc_text"]
