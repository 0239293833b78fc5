"""The demo: synthetic slides of known truth, and the study that runs on them."""
