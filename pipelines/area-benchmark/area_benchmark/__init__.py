"""Models on grounds where the tissue area misleads: cohorts, runs and tables of the benchmark."""
