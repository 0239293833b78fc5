"""What did a person mark on a slide, and how much of each patch is it? Outlines of QuPath and ASAP, raster masks."""

from pathopatch.patches.annotations.masks import MaskFractions, read_mask
from pathopatch.patches.annotations.polygons import PolygonFractions
from pathopatch.patches.annotations.regions import Regions, read_annotations, regions_of

__all__ = ["MaskFractions", "PolygonFractions", "Regions", "read_annotations", "read_mask", "regions_of"]
