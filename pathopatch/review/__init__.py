"""Answers how a person looks at predictions and decides: the review page, and what was decided there.

``cohort`` lists a work folder's slides and opens them, ``values`` gives the numbers of one, ``tiles`` its pixels, and
``gallery`` the patches that are most worth a look; ``decisions`` keeps what was decided, ``exchange`` carries it.
"""
