"""Accuracy by group, AUROC at equal area, and bootstrap over patients (numpy only)."""

from pathopatch.metrics.accuracy import GroupAccuracies as GroupAccuracies
from pathopatch.metrics.accuracy import auroc as auroc
from pathopatch.metrics.accuracy import average_accuracy as average_accuracy
from pathopatch.metrics.accuracy import best_decision_threshold as best_decision_threshold
from pathopatch.metrics.accuracy import group_accuracies as group_accuracies
from pathopatch.metrics.accuracy import group_balanced_accuracy as group_balanced_accuracy
from pathopatch.metrics.accuracy import predicted_class as predicted_class
from pathopatch.metrics.accuracy import threshold_at_sensitivity as threshold_at_sensitivity
from pathopatch.metrics.accuracy import worst_group_accuracy as worst_group_accuracy
from pathopatch.metrics.bootstrap import bootstrap_by_patient as bootstrap_by_patient
from pathopatch.metrics.equal_area import EqualArea as EqualArea
from pathopatch.metrics.equal_area import auroc_at_equal_area as auroc_at_equal_area
from pathopatch.metrics.equal_area import equal_area_draws as equal_area_draws
