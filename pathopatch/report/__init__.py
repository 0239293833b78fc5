"""Static report of a work folder: a page with plots that opens without a network."""

from pathopatch.report.page import write_report

__all__ = ["write_report"]
