"""How do many slides become results, none lost? Tasks, who does them, what became of each, and what they come to.

``tasks`` (one slide's work), ``run`` (all of them, in worker processes), ``runlog`` (a line a slide), ``standing``
(what is done and what failed), ``totals`` and ``indexing`` (the results together).
"""
