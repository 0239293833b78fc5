"""Answers how good trained models are, group by group, and whether they still lean on the amount of tissue.

`judge`, `tissue_dependence`, `calibration` and `ablation` are arithmetic on arrays; `evaluate_run`, `evaluate_bundle`
and `compare` read and write a work folder.
"""

from pathopatch.evaluation.audit import tissue_dependence
from pathopatch.evaluation.compare import compare, comparison, comparison_table, preferred_run, summarise
from pathopatch.evaluation.evaluate import evaluate_run, judge_predictions
from pathopatch.evaluation.judge import judge
from pathopatch.evaluation.outside import evaluate_bundle, outside_text

__all__ = [
    "compare",
    "comparison",
    "comparison_table",
    "evaluate_bundle",
    "evaluate_run",
    "judge",
    "judge_predictions",
    "outside_text",
    "preferred_run",
    "summarise",
    "tissue_dependence",
]
