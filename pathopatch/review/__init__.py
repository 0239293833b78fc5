"""Answers how a person looks at predictions and decides: the review page, and what was decided there."""
