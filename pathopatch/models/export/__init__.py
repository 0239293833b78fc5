"""Exports of a trained model for other programs: one folder per export."""

from pathopatch.models.export.write import FORMATS, Format, Int8, export_model

__all__ = ["FORMATS", "Format", "Int8", "export_model"]
