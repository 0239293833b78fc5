"""Find the slides below a folder, with their channels, masks and patients."""

from pathopatch.slides.discovery.cohort import Discovery, FoundSlide, discover
from pathopatch.slides.discovery.files import LeftOut, SlideFile, why_none
from pathopatch.slides.discovery.names import set_name

__all__ = ["Discovery", "FoundSlide", "LeftOut", "SlideFile", "discover", "set_name", "why_none"]
