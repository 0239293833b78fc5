"""How the whole pipeline shows itself on slides of known truth: a synthetic cohort, and the study that runs on it."""
