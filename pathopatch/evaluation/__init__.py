"""Evaluate trained models group by group, and their dependence on the amount of tissue.

``group_scores``, ``tissue_dependence``, ``calibration`` and ``ablation`` are arithmetic on arrays; ``evaluate``,
``external_validation``, ``pooled`` and ``compare`` read and write a work folder.
"""
