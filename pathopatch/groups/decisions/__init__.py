"""Reviewers' decisions on slides and patches: what they are, their log and tables, and what they change."""
