"""Review predictions in a browser on this machine, and record decisions.

``cohort`` lists a work folder's slides, ``slide`` reads one. ``values``, ``tiles`` and ``gallery`` encode it for the
browser, ``decisions`` records. ``app`` opens and serves all of this, ``routes`` are its addresses, ``security`` refuses
requests of other sites. ``viewer`` installs OpenSeadragon, the only part that is not ours.
"""
