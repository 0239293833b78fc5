"""Outlines of QuPath and ASAP, and raster masks: which part of each patch a person marked."""
