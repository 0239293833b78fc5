"""Exports of a trained model for other programs: one folder per export."""
