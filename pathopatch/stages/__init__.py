"""START HERE: one module per command, each readable from top to bottom."""
