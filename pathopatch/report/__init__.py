"""Answers what a study found, for people: a static page with plots, from the artefacts of a work folder alone."""

from pathopatch.report.page import write_report

__all__ = ["write_report"]
