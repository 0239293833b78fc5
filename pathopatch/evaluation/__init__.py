"""Answers how good trained models are, group by group, and whether they still lean on the amount of tissue.

`judge`, `tissue_dependence`, `calibration` and `ablation` are arithmetic on arrays; `evaluate_run`, `evaluate_bundle`
and `compare` read and write a work folder.
"""

from pathopatch.evaluation.audit import tissue_dependence
from pathopatch.evaluation.compare import compare, comparison, preferred_run, summarise
from pathopatch.evaluation.comparison_text import comparison_table
from pathopatch.evaluation.evaluate import evaluate_run, judge_predictions
from pathopatch.evaluation.external_validation import evaluate_bundle, outside_text
from pathopatch.evaluation.group_scores import judge
from pathopatch.evaluation.pooled import fold_folders, pool_run, write_fold_tables

__all__ = [
    "compare",
    "comparison",
    "comparison_table",
    "evaluate_bundle",
    "evaluate_run",
    "fold_folders",
    "judge",
    "judge_predictions",
    "pool_run",
    "outside_text",
    "preferred_run",
    "summarise",
    "tissue_dependence",
    "write_fold_tables",
]
