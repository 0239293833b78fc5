"""How a trained model leaves for programs that are not ours: one file a format, one folder an export."""

from pathopatch.models.export.write import FORMATS, Format, export_model

__all__ = ["FORMATS", "Format", "export_model"]
