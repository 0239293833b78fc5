"""Predict one slide, stitch the patches into a map, and write it in each export format.

``predict`` makes a table of a slide and a model, ``stitch`` a map of the table, ``artefacts`` writes both. The formats
are in ``pyramids``, ``overlay`` and ``patch_exports``, from plain arrays and tables; these and the arithmetic do
without torch.
"""

FACTS = "heatmap.json"
"""File in a heatmap's folder: geometry, intensity windows, threshold, counts, stamp."""

CHANGED = "the slide's file changed since it was predicted"
"""The error of a slide with another content than its heatmap was made of."""

FLAGS = ("low_tissue", "saturated", "blurred", "out_of_range", "near_threshold", "uncertain")
"""Reasons for a second look at a prediction; each is a column ``flag_<reason>`` of the predictions."""
