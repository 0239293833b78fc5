"""Predict one slide, stitch the patches into a map, and write one file per export format.

``predict`` makes a table of a slide and a model, ``stitch`` a map of the table, ``artefacts`` writes both. Each of
``ome_tiff``, ``ome_zarr``, ``rgb_pyramid``, ``overlay``, ``geojson`` and ``wsinfer_csv`` writes one format from plain
arrays and tables; these and the arithmetic do without torch.
"""

FACTS = "heatmap.json"
"""File in a heatmap's folder: geometry, intensity windows, threshold, counts, stamp."""

FLAGS = ("low_tissue", "saturated", "blurred", "out_of_range", "near_threshold", "uncertain")
"""Reasons for a second look at a prediction; each is a column ``flag_<reason>`` of the predictions."""
