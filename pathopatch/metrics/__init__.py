"""Accuracy by group and bootstrap over patients (numpy only)."""

from pathopatch.metrics.accuracy import (
    GroupAccuracies,
    auroc,
    average_accuracy,
    best_decision_threshold,
    biased_average,
    group_accuracies,
    group_balanced_accuracy,
    predicted_class,
    threshold_at_sensitivity,
    worst_group_accuracy,
)
from pathopatch.metrics.bootstrap import bootstrap_by_patient

__all__ = [
    "GroupAccuracies",
    "auroc",
    "average_accuracy",
    "best_decision_threshold",
    "biased_average",
    "bootstrap_by_patient",
    "group_accuracies",
    "group_balanced_accuracy",
    "predicted_class",
    "threshold_at_sensitivity",
    "worst_group_accuracy",
]
