"""Many slides on one machine: tasks, the runner, the run log, and the summaries of a cohort."""
