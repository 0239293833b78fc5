"""How is a slide read, whatever its file format? One `Slide`, and one adapter per library behind it."""

from pathopatch.slides.channel_order import in_order
from pathopatch.slides.damaged_tiles import TolerantSlide, tolerant
from pathopatch.slides.open import open_slide, parse_source
from pathopatch.slides.registration import Shift, aligned
from pathopatch.slides.resolution import Level
from pathopatch.slides.slide import Slide

__all__ = ["Level", "Shift", "Slide", "TolerantSlide", "aligned", "in_order", "open_slide", "parse_source", "tolerant"]
