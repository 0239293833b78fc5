"""What did a model say, slide by slide and patch by patch, and what does a person decide of it? The review page.

``cohort`` lists a work folder's slides and opens them, ``values`` gives the numbers of one, ``tiles`` its pixels, and
``gallery`` the patches that are most worth a look. ``decisions`` keeps what was decided, ``exchange`` takes it out and
in. ``app`` is the web application, ``routes`` its addresses, ``security`` says who may ask, ``server`` starts and ends
it; ``viewer`` fetches the one thing in it that is not ours when the package is built.
"""
