"""Make the 48 slides of the demo's study: ``python pipelines/demo/make_slides.py demo-work/study/cohort``."""

from __future__ import annotations

import sys
from pathlib import Path

from pathopatch.demo.slides import make_cohort

if __name__ == "__main__":
    print(make_cohort(Path(sys.argv[1]), seed=0))
