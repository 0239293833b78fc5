"""Errors, configuration, artefacts, files, locks, status, workers: what every other part stands on."""
