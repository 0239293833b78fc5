"""Static report of a work folder: a page with plots that opens without a network.

Python collects numbers, rows and plots; all sentences and tables of the page are in ``templates/``.
"""

from pathopatch.report.page import write_contact_sheet, write_report

__all__ = ["write_contact_sheet", "write_report"]
