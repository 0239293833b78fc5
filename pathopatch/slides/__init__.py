"""Open slides of any file format through one `Slide`, and read their pixels."""

from pathopatch.slides.damaged_tiles import TolerantSlide, tolerant
from pathopatch.slides.open import in_order, open_slide, parse_source
from pathopatch.slides.registration import Shift
from pathopatch.slides.resolution import Level
from pathopatch.slides.slide import Slide
from pathopatch.slides.stack import aligned

__all__ = ["Level", "Shift", "Slide", "TolerantSlide", "aligned", "in_order", "open_slide", "parse_source", "tolerant"]
