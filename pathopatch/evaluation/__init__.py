"""Evaluate trained models group by group, and at equal area.

``group_scores`` and ``calibration`` are arithmetic on arrays; ``evaluate``, ``external_validation``, ``pooled`` and
``compare`` read and write a work folder.
"""
