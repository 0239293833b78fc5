"""Exports of a trained model for other programs: one folder per export."""

from pathopatch.models.export.write import FORMATS, Format, export_model

__all__ = ["FORMATS", "Format", "export_model"]
