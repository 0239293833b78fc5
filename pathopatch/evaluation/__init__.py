"""Evaluate trained models group by group, and their dependence on the amount of tissue.

`evaluate_logits`, `tissue_dependence`, `calibration` and `ablation` are arithmetic on arrays; `evaluate_run`,
`evaluate_bundle` and `compare` read and write a work folder.
"""

from pathopatch.evaluation.compare import compare, comparison, comparison_table, preferred_run, summarise
from pathopatch.evaluation.evaluate import evaluate_predictions, evaluate_run
from pathopatch.evaluation.external_validation import evaluate_bundle, external_validation_text
from pathopatch.evaluation.group_scores import evaluate_logits
from pathopatch.evaluation.pooled import fold_folders, pool_run, write_fold_tables
from pathopatch.evaluation.tissue_dependence import tissue_dependence

__all__ = [
    "compare",
    "comparison",
    "comparison_table",
    "evaluate_bundle",
    "evaluate_logits",
    "evaluate_predictions",
    "evaluate_run",
    "external_validation_text",
    "fold_folders",
    "pool_run",
    "preferred_run",
    "summarise",
    "tissue_dependence",
    "write_fold_tables",
]
