"""Find the slides below a folder, with their channels, masks and patients."""

from pathopatch.slides.discovery.cohort import Discovery, FoundSlide, discover
from pathopatch.slides.discovery.files import SlideFile, why_none
from pathopatch.slides.discovery.names import set_name

__all__ = ["Discovery", "FoundSlide", "SlideFile", "discover", "set_name", "why_none"]
